"""Notes about views of an image that lie outside the sizes that a network was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shards.image_sizes import longer_sides
from wsss.contract.stage import Instance
from wsss.data.augment import STRONG_SCALE
from wsss.stages.settings.views import longer_side


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views that a stage shows to a trained network, as its settings give them."""

    scales: Sequence[float] = (1.0,)
    long_side: int = 0
    """Longer side of which the scales are factors; 0: that of each image."""
    max_side: int | None = None
    """Longest side of a view."""
    setting: str = ""
    """Name of the setting that gives the scales; empty if there is one view, of the image itself."""
    resized_by: str = "long_side"
    """Name of the setting `long_side`; empty if the stage has none."""
    verb: str = "reads"
    """What the stage does with the images, for the message."""


def trained_sides(trained: Any) -> tuple[int, int]:
    """The range of longer sides that a training draws: its `resize_long`, and the scales of a strong augmentation."""
    low, high = trained.resize_long
    if getattr(trained, "augmentation", "weak") != "strong":
        return low, high
    return round(low * STRONG_SCALE[0]), round(high * STRONG_SCALE[1])


def outside_notes(instance: Instance, trained: Instance, views: Views, *, splits: Sequence[str]) -> list[str]:
    """A note if a view of most images of these splits is smaller or larger than all that `trained` learned from.

    Sizes are those of the finished layer of samples, or those that the data set's settings determine. Without either
    and without `long_side` there is no note.
    """
    low, high = trained_sides(trained.stage)
    images = [views.long_side] if views.long_side else _sides(instance, splits)
    outside = []
    for scale in dict.fromkeys(views.scales):
        sides = [longer_side(side, scale=scale, long_side=views.long_side, max_side=views.max_side) for side in images]
        if 2 * sum(not low <= side <= high for side in sides) > len(sides):
            outside.append((scale, _typical(sides)))
    if not outside:
        return []
    what, advice = _what(instance, views, outside), _advice(instance, views, images, low=low, high=high)
    return [f"{what}, but {trained.name} learned from {_range(low, high)}; its output there is a guess{advice}"]


def _sides(instance: Instance, splits: Sequence[str]) -> list[int]:
    """The longer side of images of these splits, ascending; empty if no image is known yet."""
    known = longer_sides(instance.samples.layer, splits=splits)
    expected = instance.data.expected_data().size
    return known or ([max(expected)] if expected else [])


def _typical(sides: Sequence[int]) -> tuple[int, int]:
    """The range without the smallest and the largest twentieth; `sides` are ascending."""
    twentieth = len(sides) // 20
    return sides[twentieth], sides[-1 - twentieth]


def _what(instance: Instance, views: Views, outside: Sequence[tuple[float, tuple[int, int]]]) -> str:
    if views.setting:
        made = [f"{scale:g} makes a longer side of {_range(*sides)} pixels" for scale, sides in outside]
        return f"{instance.name}.{views.setting}: {', '.join(made)}"
    ((_, sides),) = outside
    if views.long_side:
        return f"{instance.name}.{views.resized_by} = {views.long_side} is the longer side of its images"
    return f"{instance.name} {views.verb} images with a longer side of {_range(*sides)} pixels"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _advice(instance: Instance, views: Views, images: Sequence[int], *, low: int, high: int) -> str:
    """The scales that stay inside the range, or the size to which images can be resized."""
    middle = images[len(images) // 2]
    smallest, largest = -(-100 * low // middle) / 100, 100 * high // middle / 100
    if views.setting and smallest <= 1 <= largest:
        return f" (scales from {smallest:g} to {largest:g} are inside)"
    if not views.resized_by:
        return ""
    return f" ({instance.name}.{views.resized_by} = {(low + high) // 2} would be in the middle)"
