from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.image_agreement import image_agreement


def agreement(*rows: list[int], ignore_index: int = 255) -> float:
    dtype = torch.uint8 if ignore_index == 255 else torch.int32
    return image_agreement(torch.tensor([[row] for row in rows], dtype=dtype), ignore_index=ignore_index)


def drawn(number: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(number * height)
    values = torch.tensor([0, 3, 20, 255], dtype=torch.uint8)
    return values[torch.randint(0, 4, (number, height, width), generator=generator)]


def test_by_hand() -> None:
    """Background 2 of 3 pixels, class 4 one of 3, class 7 none of 1."""
    assert agreement([0, 0, 0, 4, 4], [0, 0, 4, 4, 7]) == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)


def test_definition() -> None:
    masks = drawn(3, 11, 7)
    total = 0.0
    for other in masks[1:]:
        pairs = [
            (int(masks[0, y, x]), int(other[y, x]))
            for y in range(11)
            for x in range(7)
            if 255 not in (int(masks[0, y, x]), int(other[y, x]))
        ]
        shares = []
        for c in {label for pair in pairs for label in pair}:
            shares.append(sum(p == (c, c) for p in pairs) / sum(c in p for p in pairs))
        total += sum(shares) / len(shares)
    assert image_agreement(masks, ignore_index=255) == pytest.approx(total / 2)


def test_the_others_are_compared_with_the_first_alone() -> None:
    masks = drawn(3, 5, 13)
    found = image_agreement(masks, ignore_index=255)
    assert image_agreement(masks[[0, 2, 1]], ignore_index=255) == found
    assert image_agreement(masks[[1, 0, 2]], ignore_index=255) != found
    assert image_agreement(masks[[0, 1]], ignore_index=255) == pytest.approx(
        image_agreement(masks[[1, 0]], ignore_index=255)
    )


def test_equal_maps_agree_and_maps_without_a_common_pixel_do_not() -> None:
    assert agreement([0, 0, 0], [0, 0, 0]) == 1.0
    assert agreement([0, 9, 255], [0, 9, 255], [0, 9, 255]) == 1.0
    assert agreement([4, 4, 4], [0, 0, 0]) == 0.0


def test_undecided_pixels_do_not_count() -> None:
    assert agreement([0, 0, 5, 255, 255], [0, 0, 255, 5, 255]) == 1.0
    assert agreement([255, 3], [2, 255]) == 0.0, "no pixel counts"


def test_maps_of_more_classes_than_a_byte_holds() -> None:
    assert agreement([0, 255, 300, 65535], [0, 255, 301, 7], ignore_index=65535) == pytest.approx((1 + 1 + 0 + 0) / 4)


def test_one_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"masks are \[1, 5, 13\]; give \[M,H,W\] with M >= 2"):
        image_agreement(drawn(1, 5, 13), ignore_index=255)
    with pytest.raises(ValueError, match=r"masks are \[5, 13\]; give"):
        image_agreement(drawn(1, 5, 13)[0], ignore_index=255)
