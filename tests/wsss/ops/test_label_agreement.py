from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops import label_agreement
from wsss.ops.label_agreement import AgreedLabels


def agreed_labels(masks: Tensor, *, confidences_Mhw: Tensor, ignore_index: int = 255) -> AgreedLabels:
    return label_agreement.agreed_labels(masks, confidences_Mhw=confidences_Mhw, ignore_index=ignore_index)


def drawn(number: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number * height)
    values = torch.tensor([0, 1, 255], dtype=torch.uint8)
    masks = values[torch.randint(0, 3, (number, height, width), generator=generator)]
    confidences = torch.randint(0, 256, (number, height // 4 + 1, width // 4 + 1), generator=generator)
    return masks, confidences.to(torch.uint8)


def test_by_hand() -> None:
    masks = torch.tensor([[[0, 3, 255, 255, 7]], [[0, 5, 255, 2, 7]]], dtype=torch.uint8)
    confidences = torch.tensor([[[9, 200]], [[255, 100]]], dtype=torch.uint8)
    found = agreed_labels(masks, confidences_Mhw=confidences)
    assert found.mask.tolist() == [[0, 255, 255, 255, 7]] and found.mask.dtype == torch.uint8
    assert found.confidence.tolist() == [[9, 100]] and found.confidence.dtype == torch.uint8
    assert found.num_disputed == 2, "where both are undecided, they agree"


@pytest.mark.parametrize("shape", [(2, 5, 13), (3, 11, 7), (5, 3, 17)])
def test_definition(shape: tuple[int, int, int]) -> None:
    masks, confidences = drawn(*shape)
    found = agreed_labels(masks, confidences_Mhw=confidences)
    disputed = 0
    for y in range(shape[1]):
        for x in range(shape[2]):
            values = {int(mask[y, x]) for mask in masks}
            disputed += len(values) > 1
            assert int(found.mask[y, x]) == (values.pop() if len(values) == 1 else 255)
    for y in range(confidences.shape[1]):
        for x in range(confidences.shape[2]):
            assert int(found.confidence[y, x]) == min(int(one[y, x]) for one in confidences)
    assert found.num_disputed == disputed > 0


def test_invariants() -> None:
    masks, confidences = drawn(3, 11, 7)
    found = agreed_labels(masks, confidences_Mhw=confidences)
    other = agreed_labels(masks[[2, 0, 1]], confidences_Mhw=confidences[[2, 0, 1]])
    assert torch.equal(found.mask, other.mask) and torch.equal(found.confidence, other.confidence)
    two = agreed_labels(masks[:2], confidences_Mhw=confidences[:2])
    assert ((found.mask == two.mask) | (found.mask == 255)).all(), "one more map only takes labels away"
    assert found.num_disputed > two.num_disputed
    alone = agreed_labels(masks[:1], confidences_Mhw=confidences[:1])
    assert torch.equal(alone.mask, masks[0]) and alone.num_disputed == 0


def test_shapes_must_fit() -> None:
    masks, confidences = drawn(2, 5, 13)
    with pytest.raises(ValueError, match=r"masks are \[2, 5, 13\], confidences \[1, 2, 4\]; give \[M,H,W\]"):
        agreed_labels(masks, confidences_Mhw=confidences[:1])
    with pytest.raises(ValueError, match="with M >= 1"):
        agreed_labels(masks[:0], confidences_Mhw=confidences[:0])


def test_maps_of_more_classes_than_a_byte_holds() -> None:
    masks = torch.tensor([[[0, 255, 300, 65535]], [[0, 255, 301, 7]]], dtype=torch.int32)
    found = agreed_labels(masks, confidences_Mhw=torch.zeros(2, 1, 1, dtype=torch.uint8), ignore_index=65535)
    assert found.mask.tolist() == [[0, 255, 65535, 65535]] and found.mask.dtype == torch.int32
    assert found.num_disputed == 2
