from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from wsss.ops.multi_scale import grid_size, magnify, merge_views, resize_bilinear, scaled_views, view_sizes


def test_sizes_round_half_up_and_stay_positive() -> None:
    assert view_sizes((37, 53), scales=(0.5, 1.0, 2.0)) == [(19, 27), (37, 53), (74, 106)]
    assert view_sizes((5, 1), scales=(0.1, 1.5)) == [(1, 1), (8, 2)]
    assert grid_size((375, 500), stride=4) == (94, 125)


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (-1.0,)])
def test_impossible_scales_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="positive numbers"):
        view_sizes((5, 7), scales=scales)


def test_resize_by_hand() -> None:
    row = torch.tensor([[[0.0, 4.0]]])
    assert torch.equal(resize_bilinear(row, size=(1, 4)), torch.tensor([[[0.0, 1.0, 3.0, 4.0]]]))
    assert resize_bilinear(row, size=(1, 2)) is row
    assert resize_bilinear(row[None], size=(3, 4)).shape == (1, 1, 3, 4)


def test_magnified_cells_keep_their_size() -> None:
    """Of three cells of 4 pixels in a row of 10, the last has 2."""
    row = torch.tensor([[[0.0, 8.0, 0.0]]])
    wanted = [0.0, 0.0, 1.0, 3.0, 5.0, 7.0, 7.0, 5.0, 3.0, 1.0]
    assert magnify(row, size=(1, 10), stride=4).tolist() == [[wanted]]
    assert not torch.equal(resize_bilinear(row, size=(1, 10)), magnify(row, size=(1, 10), stride=4))
    assert magnify(row, size=(1, 3), stride=4) is row
    assert magnify(row[:0], size=(4, 11), stride=4).shape == (0, 4, 11)
    with pytest.raises(ValueError, match=r"maps of 1 x 3 for an image of 5 x 10 .* allowed: 2 x 3, its grid"):
        magnify(row, size=(5, 10), stride=4)


def test_merge_is_the_sum_of_views_turned_back() -> None:
    image = torch.rand(2, 3, 11, 17, generator=torch.Generator().manual_seed(1))
    scales, flips, size = (1.0, 0.5, 1.5), (False, True), (3, 5)

    def network(view: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(view, 2, ceil_mode=True) + torch.linspace(0, 1, -(-view.shape[-1] // 2))

    merged = merge_views(
        ((network(view), flipped) for view, flipped in scaled_views(image, scales=scales, flips=flips)), size=size
    )
    wanted = torch.zeros(2, 3, *size)
    for height, width in [(11, 17), (6, 9), (17, 26)]:
        view = F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)
        upright, mirrored = network(view), network(view.flip(3)).flip(3)
        assert not torch.allclose(upright, mirrored)
        wanted += F.interpolate(upright + mirrored, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(merged, wanted)


def test_views_are_made_one_at_a_time() -> None:
    seen: list[int] = []

    def outputs() -> object:
        for view, flipped in scaled_views(torch.rand(3, 5, 7), scales=(1.0, 2.0), flips=(False, True)):
            seen.append(view.shape[-1])
            yield view, flipped

    stream = outputs()
    next(stream)  # type: ignore[call-overload]
    assert seen == [7]
    merge_views(stream, size=(2, 3))  # type: ignore[arg-type]
    assert seen == [7, 7, 14, 14]


def test_nothing_to_merge_is_an_error() -> None:
    with pytest.raises(ValueError, match="no view to merge"):
        merge_views([], size=(2, 3))
    with pytest.raises(ValueError, match="flips is empty"):
        list(scaled_views(torch.rand(3, 5, 7), scales=(1.0,), flips=()))
