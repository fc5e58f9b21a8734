from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wsss.ops.bootstrap import image_rows
from wsss.ops.confusion import Scores, confusion_matrix
from wsss.ops.histogram_threshold import minimum_error_bin, otsu_bin
from wsss.ops.label_free import at_class_bins, at_image_bins, class_bins, image_bins, whole_bin
from wsss.ops.threshold_curve import NUM_BINS, confusion_at, curve_counts, image_counts, winners_of

C = 5
METHODS = [otsu_bin, minimum_error_bin]
Image = tuple[list[int], Tensor, Tensor]
"""Classes, scores [K,H,W], truth [H,W]."""


def images_of(seed: int) -> list[Image]:
    random = torch.Generator().manual_seed(seed)
    found = []
    for classes in ([1], [4, 2], [3], [2, 1], []):
        truth = torch.tensor([0, 0, *classes])[torch.randint(0, len(classes) + 2, (11, 13), generator=random)]
        scores = torch.rand(len(classes), 11, 13, generator=random) * 0.7
        for k, class_id in enumerate(classes):
            scores[k] += 0.3 * torch.rand(1, generator=random) * (truth == class_id)
        truth[0, :3] = 255
        found.append((classes, scores, truth))
    return found


def counted(images: list[Image]) -> tuple[Tensor, Tensor]:
    """The counts of all images together, and the rows of each."""
    total, rows = torch.zeros(C, C, NUM_BINS, dtype=torch.int64), []
    for number, (classes, scores, truth) in enumerate(images):
        given = {"classes": classes, "truth_HW": truth, "num_classes": C, "ignore_index": 255}
        curve_counts(scores, total=total, **given)  # type: ignore[arg-type]
        counts = image_counts(scores, **given)  # type: ignore[arg-type]
        rows.append(image_rows(counts, winners=winners_of(classes), image=3 * number))
    return total, torch.cat(rows)


def histogram(image: Image, *, winner: int | None = None) -> Tensor:
    """The winning scores of one image by bin, pixel by pixel; of one class if `winner` is given."""
    classes, scores, truth = image
    found = torch.zeros(NUM_BINS, dtype=torch.int64)
    for y in range(truth.shape[0]):
        for x in range(truth.shape[1]):
            if classes and truth[y, x] != 255:
                best = int(scores[:, y, x].argmax())
                if winner in (None, classes[best]):
                    found[min(int(scores[best, y, x] * NUM_BINS), NUM_BINS - 1)] += 1
    return found


def mean_iou_of(images: list[Image], threshold_of: Callable[[int, int], float]) -> float:
    """By label maps: `threshold_of(image, class)` is the background threshold."""
    total = torch.zeros(C, C, dtype=torch.int64)
    for number, (classes, scores, truth) in enumerate(images):
        labels = torch.zeros_like(truth)
        if classes:
            best, index = scores.max(0)
            winner = torch.tensor(classes)[index]
            least = torch.tensor([threshold_of(number, c) for c in range(C)])[winner]
            labels = torch.where(best >= least, winner, 0)
        total += confusion_matrix(truth, labels, num_classes=C, ignore_index=255)
    return Scores.from_confusion(total).mean_iou


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_thresholds_of_classes_give_the_score_of_the_label_maps(method: Callable[[Tensor], Tensor], seed: int) -> None:
    images = images_of(seed)
    total, _ = counted(images)
    bins = class_bins(total, method=method)
    for c in range(1, C):
        assert int(bins[c]) == int(method(sum((histogram(one, winner=c) for one in images), torch.zeros(NUM_BINS))))
    wanted = mean_iou_of(images, lambda _, c: int(bins[c]) / NUM_BINS)
    assert at_class_bins(total, bins_C=bins) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_thresholds_of_images_give_the_score_of_the_label_maps(method: Callable[[Tensor], Tensor], seed: int) -> None:
    images = images_of(seed)
    _, rows = counted(images)
    keys, bins = image_bins(rows, method=method)
    own = {int(key) // 3: int(one) for key, one in zip(keys, bins, strict=True)}
    for number, image in enumerate(images):
        if number in own:
            assert own[number] == int(method(histogram(image)))
    wanted = mean_iou_of(images, lambda number, _: own[number] / NUM_BINS)
    shuffled = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    assert at_image_bins(shuffled, num_classes=C, method=method) == pytest.approx(wanted, abs=1e-12)


def test_one_threshold_for_all_is_that_of_all_images_together() -> None:
    images = images_of(4)
    total, _ = counted(images)
    cut = whole_bin(total, method=otsu_bin)
    assert cut == int(otsu_bin(sum((histogram(one) for one in images), torch.zeros(NUM_BINS))))
    equal = torch.full((C,), cut)
    whole = Scores.from_confusion(confusion_at(total, threshold_bin=cut)).mean_iou
    assert at_class_bins(total, bins_C=equal) == pytest.approx(whole, abs=1e-12)


def test_masks_have_no_part_in_the_choice() -> None:
    """Other truths on the same pixels leave every threshold as it is."""
    images = images_of(5)
    others = [(classes, scores, torch.where(truth == 255, truth, 0)) for classes, scores, truth in images]
    (total, rows), (other_total, other_rows) = counted(images), counted(others)
    assert torch.equal(class_bins(total, method=otsu_bin), class_bins(other_total, method=otsu_bin))
    assert torch.equal(image_bins(rows, method=otsu_bin)[1], image_bins(other_rows, method=otsu_bin)[1])
