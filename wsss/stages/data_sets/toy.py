"""Images drawn in code."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shards.sources.source import Source
from shards.sources.toy import ToySource
from wsss.contract.settings import settings


@settings
class ToySettings:
    """Settings of the images that are drawn."""

    counts: dict[str, int] = Field(default_factory=dict)
    """toy: split -> number of images."""
    size: Annotated[int, Field(ge=32)] = 128
    """toy: mean side of an image in pixels."""
    draw_seed: Annotated[int, Field(ge=0)] = 0
    """toy: random seed of the images."""


def open_toy(given: ToySettings, splits: tuple[str, ...]) -> Source:
    """Open the data set. Raises ValueError for counts of unknown splits."""
    if unknown := sorted(set(given.counts) - set(splits)):
        raise ValueError(f"counts.{unknown[0]} does not name a split; splits has {', '.join(splits)}")
    counts = {split: given.counts.get(split, 0) for split in splits}
    return ToySource(counts=counts, seed=given.draw_seed, size=given.size)
