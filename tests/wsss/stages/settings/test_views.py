"""Sizes of views: scales of the image or of long_side, the limit above and the limit below."""

from __future__ import annotations

import pytest

from wsss.stages.settings.views import classifier_views, longer_side, walk_size


def test_scales_are_factors_of_the_image_or_of_long_side() -> None:
    scales = (1.0, 0.5, 2.0)
    assert classifier_views((375, 500), scales=scales, long_side=0, max_side=2048) == [
        (375, 500), (188, 250), (750, 1000),
    ]  # fmt: skip
    assert classifier_views((375, 500), scales=scales, long_side=128, max_side=2048) == [
        (96, 128), (48, 64), (192, 256),
    ]  # fmt: skip
    assert classifier_views((60, 40), scales=scales, long_side=240, max_side=2048) == [
        (240, 160), (120, 80), (480, 320),
    ]  # fmt: skip


def test_max_side_limits_views_of_long_side_and_keeps_their_shape() -> None:
    assert classifier_views((100, 200), scales=(1.0, 2.0), long_side=400, max_side=600) == [(200, 400), (300, 600)]


def test_no_side_is_below_32_pixels() -> None:
    assert classifier_views((100, 400), scales=(0.25, 1.0), long_side=100, max_side=2048) == [(32, 32), (32, 100)]
    assert walk_size((100, 400), long_side=64) == (32, 64)


def test_the_image_of_an_affinity_network() -> None:
    assert walk_size((375, 500), long_side=128) == (96, 128)
    assert walk_size((20, 7), long_side=0) == (20, 7), "without long_side nothing is resized"


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (61, 67), (128, 128), (30, 5000), (41, 40)])
@pytest.mark.parametrize("long_side", [0, 33, 128, 353])
def test_the_longer_side_without_torch_is_that_of_the_view(size: tuple[int, int], long_side: int) -> None:
    scales = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    views = classifier_views(size, scales=scales, long_side=long_side, max_side=900)
    sides = [longer_side(max(size), scale=scale, long_side=long_side, max_side=900) for scale in scales]
    assert [max(view) for view in views] == [max(side, 32) for side in sides]
    assert longer_side(max(size), scale=1.0, long_side=long_side) == max(walk_size(size, long_side=long_side))
