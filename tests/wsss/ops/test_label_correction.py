from __future__ import annotations

from typing import Any

import torch

from wsss.ops.label_correction import corrected_labels

B, C, H, W = 3, 5, 11, 13
LIMITS: dict[str, Any] = {"min_confidence": 0.75, "ignore_index": 255}


def drawn() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, C + 1, (B, H, W), generator=generator)
    label[label == C] = 255
    taught = torch.randint(0, C, (B, H, W), generator=generator)
    return label, {"taught_BHW": taught, "confidence_BHW": torch.rand(B, H, W, generator=generator)}


def chosen(*classes: int) -> torch.Tensor:
    return torch.tensor([number in classes for number in range(C)])


def test_labels_of_a_corrected_class_and_those_that_should_be_one_take_the_teachers() -> None:
    label, maps = drawn()
    maps["confidence_BHW"][0, 0, 0] = 0.75  # exactly the threshold is not confident
    found = corrected_labels(label, **maps, corrected_C=chosen(2, 4), **LIMITS)
    num_changed = {"by its label": 0, "by the teacher's": 0}
    for b in range(B):
        for y in range(H):
            for x in range(W):
                given, taught = int(label[b, y, x]), int(maps["taught_BHW"][b, y, x])
                concerned = given in (2, 4) or taught in (2, 4)
                wanted = given
                if given != 255 and concerned and float(maps["confidence_BHW"][b, y, x]) > 0.75:
                    wanted = taught
                assert int(found[b, y, x]) == wanted
                if wanted != given:
                    num_changed["by its label" if given in (2, 4) else "by the teacher's"] += 1
    assert min(num_changed.values()) > 5


def test_without_a_corrected_class_or_a_confident_teacher_nothing_changes() -> None:
    label, maps = drawn()
    assert torch.equal(corrected_labels(label, **maps, corrected_C=chosen(), **LIMITS), label)
    maps["confidence_BHW"][:] = 0.5
    assert torch.equal(corrected_labels(label, **maps, corrected_C=chosen(0, 1, 2, 3, 4), **LIMITS), label)


def test_a_teacher_that_sees_background_only_changes_nothing() -> None:
    """20 of 100 pixels are foreground. Of the first image 3 would be left, of the second 6, of the third 12."""
    label = torch.zeros(3, 10, 10, dtype=torch.int64)
    label[:, :2] = 1
    taught = torch.zeros_like(label)
    for image, kept in enumerate((3, 6, 12)):
        taught[image].view(-1)[:kept] = 1
    maps = {"taught_BHW": taught, "confidence_BHW": torch.ones(3, 10, 10)}
    found = corrected_labels(label, **maps, corrected_C=chosen(1), **LIMITS)
    assert torch.equal(found[0], label[0]), "less than half, and 97 % would be background"
    assert torch.equal(found[1:], taught[1:]), "6 % of the image is foreground; 12 of 20 pixels are more than half"


def test_ignored_pixels_count_neither_as_foreground_nor_as_background() -> None:
    label = torch.full((1, 10, 10), 255)
    label[0, 0, :4], label[0, 1] = 1, 0  # 14 labelled pixels
    taught = torch.zeros_like(label)
    taught[0, 0, 0] = 1
    maps = {"taught_BHW": taught, "confidence_BHW": torch.ones(1, 10, 10)}
    found = corrected_labels(label, **maps, corrected_C=chosen(1), **LIMITS)
    assert found[0, 0, :4].tolist() == [1, 0, 0, 0], "1 of 14 is more than 5 %"
    assert (found[label == 255] == 255).all()
    taught[0, 0, 0] = 0
    assert torch.equal(corrected_labels(label, **maps, corrected_C=chosen(1), **LIMITS), label)


def test_an_image_without_labels_is_left_alone() -> None:
    label = torch.full((1, 3, 5), 255)
    maps = {"taught_BHW": torch.ones(1, 3, 5, dtype=torch.int64), "confidence_BHW": torch.ones(1, 3, 5)}
    assert torch.equal(corrected_labels(label, **maps, corrected_C=chosen(1), **LIMITS), label)
