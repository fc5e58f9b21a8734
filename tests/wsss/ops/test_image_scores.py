from __future__ import annotations

import pytest
import torch

from wsss.ops.bootstrap import image_rows
from wsss.ops.confusion import Scores, confusion_matrix
from wsss.ops.image_scores import image_scores

C = 7


def matrices(num_images: int) -> list[torch.Tensor]:
    """Images of few classes, some without background in truth, in prediction or in both."""
    random, made = torch.Generator().manual_seed(1), []
    for number in range(num_images):
        classes = torch.randperm(C, generator=random)[: 1 + number % 3]
        truth = classes[torch.randint(len(classes), (5, 11), generator=random)]
        other = torch.randint(number % 2, C, (5, 11), generator=random)
        prediction = torch.where(torch.rand(5, 11, generator=random) < 0.6, truth, other)
        truth[0, : number % 11] = 255
        made.append(confusion_matrix(truth, prediction, num_classes=C, ignore_index=255))
    return made


def test_equal_to_the_scores_of_every_image_by_itself() -> None:
    images = [3 * n for n in range(60)]
    made = matrices(len(images))
    rows = [image_rows(m[..., None], winners=range(C), image=i) for i, m in zip(images, made, strict=True)]
    found = image_scores(torch.cat(rows))
    wanted = [Scores.from_confusion(matrix) for matrix in made]
    assert found.images.tolist() == images
    assert found.mean_iou.tolist() == pytest.approx([scores.mean_iou for scores in wanted])
    assert found.pixel_accuracy.tolist() == pytest.approx([scores.pixel_accuracy for scores in wanted])
    assert any(int(m[0].sum()) == 0 and int(m[:, 0].sum()) > 0 for m in made), "background in the prediction alone"
    assert any(int(m[0].sum()) == 0 and int(m[:, 0].sum()) == 0 for m in made), "no background at all"
    shuffled = image_scores(torch.cat(rows)[torch.randperm(sum(map(len, rows)))])
    assert all(torch.equal(a, b) for a, b in zip(found, shuffled, strict=True))


def test_an_image_of_ignored_pixels_has_no_score() -> None:
    blank = image_rows(torch.zeros(C, C, 1, dtype=torch.int64), winners=range(C), image=4)
    seen = image_rows(matrices(1)[0][..., None], winners=range(C), image=5)
    assert image_scores(torch.cat([blank, seen])).images.tolist() == [5]
    assert image_scores(blank).images.tolist() == []


def test_rows_of_score_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows are \[0, 515\]; allowed: \[P, 5\]"):
        image_scores(torch.zeros(0, 515, dtype=torch.int32))
