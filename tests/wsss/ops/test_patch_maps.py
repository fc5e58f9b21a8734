from __future__ import annotations

import pytest
import torch

from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.patch_maps import from_patches, to_patches


def drawn(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def at(values: torch.Tensor, position: float) -> float:
    """A row of patches at a position, in patches from its left edge: linear between centres, constant beyond."""
    position = min(max(position - 0.5, 0.0), len(values) - 1.0)
    left = min(int(position), len(values) - 2)
    return float(values[left] + (position - left) * (values[left + 1] - values[left]))


def test_whole_patches_are_resized_as_all_maps_are() -> None:
    maps = drawn(2, 3, 4)
    found = from_patches(maps, patch=16, view=(48, 64), size=(12, 16))
    torch.testing.assert_close(found, resize_bilinear(maps, size=(12, 16)), rtol=0, atol=1e-6)
    mirrored = from_patches(maps, patch=16, view=(48, 64), size=(12, 16), mirrored=True)
    torch.testing.assert_close(mirrored, found.flip(-1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_extended_view_is_read_at_its_own_pixels(mirrored: bool) -> None:
    """A view of 50 pixels has 4 patches of 16, which span 64."""
    row = drawn(4)
    found = from_patches(row[None, None], patch=16, view=(16, 50), size=(1, 13), mirrored=mirrored)
    pixels = [(index + 0.5) * 50 / 13 for index in range(13)]
    wanted = [at(row, (50 - x if mirrored else x) / 16) for x in pixels]
    torch.testing.assert_close(found[0, 0], torch.tensor(wanted), rtol=0, atol=1e-6)


def test_back_at_the_patches_and_which_of_them_are_outside() -> None:
    grid = torch.arange(13.0)[None, None]  # of an image of 50 pixels: cell i is at (i + 1/2) 50 / 13
    found, inside = to_patches(grid, patch=16, view=(16, 50), size=(1, 4))
    wanted = [min((index + 0.5) * 16 * 13 / 50 - 0.5, 12.0) for index in range(4)]
    torch.testing.assert_close(found[0, 0], torch.tensor(wanted), rtol=0, atol=1e-5)
    assert inside.tolist() == [[True, True, True, False]], "the last patch's centre is at 56 pixels"


def test_no_maps() -> None:
    assert from_patches(torch.zeros(0, 3, 4), patch=16, view=(48, 60), size=(12, 15)).shape == (0, 12, 15)
