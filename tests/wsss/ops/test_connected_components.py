from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from wsss.ops.connected_components import connected_components

SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))
CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


def by_flooding(mask: Tensor, steps: tuple[tuple[int, int], ...]) -> list[list[int]]:
    """The definition: from every pixel not yet numbered, in row-major order, flood what can be reached."""
    height, width = mask.shape
    labels, found = [[0] * width for _ in range(height)], 0
    for y in range(height):
        for x in range(width):
            if not mask[y, x] or labels[y][x]:
                continue
            found += 1
            waiting = [(y, x)]
            while waiting:
                row, column = waiting.pop()
                if 0 <= row < height and 0 <= column < width and mask[row, column] and not labels[row][column]:
                    labels[row][column] = found
                    waiting += [(row + dy, column + dx) for dy, dx in steps]
    return labels


def spiral(side: int) -> Tensor:
    """One path from the corner to the middle, a pixel wide: the longest way there is."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = True
    while True:
        for turn in range(2):
            ahead = (y + dy, x + dx)
            beyond = (y + 2 * dy, x + 2 * dx)
            inside = all(0 <= place < side for place in ahead)
            if inside and not (all(0 <= place < side for place in beyond) and mask[beyond]):
                break
            if turn == 1:
                return mask
            dy, dx = dx, -dy
        y, x = ahead
        mask[y, x] = True


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("share", [0.2, 0.4, 0.5, 0.6, 0.8])
def test_flooding_gives_the_same_on_prime_sizes(connectivity: Literal[4, 8], share: float) -> None:
    masks = torch.rand(3, 23, 37, generator=torch.Generator().manual_seed(int(10 * share))) < share
    labels = connected_components(masks, connectivity=connectivity)
    steps = SIDES if connectivity == 4 else SIDES + CORNERS
    assert labels.tolist() == [by_flooding(mask, steps) for mask in masks]


def test_by_hand_corners_and_sides() -> None:
    mask = torch.tensor([[[1, 0, 1], [0, 1, 0], [1, 1, 0]]]).bool()
    assert connected_components(mask, connectivity=4).tolist() == [[[1, 0, 2], [0, 3, 0], [3, 3, 0]]]
    assert connected_components(mask, connectivity=8).tolist() == [[[1, 0, 1], [0, 1, 0], [1, 1, 0]]]


def test_rows_do_not_run_on_into_the_next_row_or_image() -> None:
    mask = torch.tensor([[[0, 1], [1, 0]], [[1, 0], [0, 1]]]).bool()
    assert connected_components(mask, connectivity=4).tolist() == [[[0, 1], [2, 0]], [[1, 0], [0, 2]]]


def test_a_long_way_is_one_component() -> None:
    mask = spiral(41)
    assert mask.sum() > 41 * 41 / 2
    assert torch.equal(connected_components(mask[None], connectivity=4)[0], mask.long())


@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 1, 1), (1, 1, 6), (1, 6, 1), (0, 3, 4)])
@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_all_or_nothing(shape: tuple[int, ...], value: bool, connectivity: Literal[4, 8]) -> None:
    labels = connected_components(torch.full(shape, value), connectivity=connectivity)
    assert labels.dtype == torch.int64 and torch.equal(labels, torch.full(shape, int(value)))


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"torch.int64 of shape \(2, 3\); it must be bool"):
        connected_components(torch.zeros(2, 3, dtype=torch.int64), connectivity=4)
    with pytest.raises(ValueError, match="connectivity is 6; allowed: 4"):
        connected_components(torch.zeros(1, 2, 3, dtype=torch.bool), connectivity=6)  # type: ignore[arg-type]
