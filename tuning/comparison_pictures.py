"""The pictures of `wsss compare`: the images that changed most, the label maps of both sides and where they differ."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from shards.files import write_bytes
from shards.label_type import BACKGROUND, ignore_of, label_type
from shards.reader import read_entry
from shards.records import BadSampleError, Sample
from shards.taxonomy import Taxonomy
from tuning.comparison import Compared, place_of
from wsss.pictures.sheets import compose, fit, overlay

if TYPE_CHECKING:
    from PIL import Image

NUM_SHOWN = 12
GAINED, LOST, OTHER = (46, 160, 67), (218, 54, 51), (227, 179, 65)
"""Colours of pixels: right only in the second result, right only in the first, other label."""


def save_pictures(compared: Compared, folder: Path) -> list[Path]:
    """Write a PNG for every compared result into the folder; none for results without images, such as two zips."""
    paths = []
    for place, other in enumerate(compared.results[1:], start=1):
        if (sheet := gallery(compared, place)) is not None:
            names = "-".join(re.sub(r"[^\w.-]+", "_", one.name) for one in (compared.results[0], other))
            path = folder / f"compare-{names}-{other.fingerprint[:8] or place}.png"
            write_bytes(path, sheet)
            paths.append(path)
    return paths


def gallery(compared: Compared, place: int) -> bytes | None:
    """A sheet of the images that changed most between the first result and number `place`; None without images."""
    images, comparison = compared.images, compared.comparisons[place - 1]
    rows: list[list[Image.Image]] = []
    captions, seen = list[str](), set[int]()
    for one in comparison.images:
        found = place_of(images.truths, one.key)
        if found is None or len(rows) == NUM_SHOWN:
            break
        truth, where = found
        sample = cast(Sample, read_entry(truth.layer, where.shard, where.entry))
        position = truth.positions.get(one.key, 0)
        first, second = (
            images.maps[side].read(images.maps[side].places[one.key], position=position, size=sample.size)
            for side in (0, place)
        )
        try:
            image = sample.image
        except BadSampleError:  # its labels were compared, but the image cannot be shown
            continue
        assert first is not None and second is not None
        tiles = [image, overlay(image, first), overlay(image, second)]
        tiles += [overlay(image, sample.mask)] if comparison.has_truth else []
        rows.append([fit(tile) for tile in (*tiles, changes(image, first, second, truth=sample.mask))])
        captions.append(_caption(one.key, one.a, one.b, one.disagreement))
        seen |= {*np.unique(first).tolist(), *np.unique(second).tolist(), *sample.classes}
    if not rows:
        return None
    columns = ["image", "A", "B", *(["truth", "red A right, green B"] if comparison.has_truth else ["other label"])]
    taxonomy = Taxonomy(compared.classes[1:])
    legend = sorted(seen - {BACKGROUND, label_type(len(taxonomy)).ignore})
    return compose(rows, columns=columns, taxonomy=taxonomy, legend=legend, captions=captions)


def changes(image: np.ndarray, first: np.ndarray, second: np.ndarray, *, truth: np.ndarray | None) -> np.ndarray:
    """The image in grey; pixels with another label coloured by who is right. u8[H, W, 3]."""
    drawn = np.repeat(image.mean(axis=2, keepdims=True) * 0.6, 3, axis=2)
    differ = first != second
    drawn[differ] = OTHER
    if truth is not None:
        drawn[differ & (second == truth)] = GAINED
        drawn[differ & (first == truth)] = LOST
        drawn[truth == ignore_of(truth)] *= 0.5
    return drawn.astype(np.uint8)


def _caption(key: str, a: float | None, b: float | None, disagreement: float) -> str:
    scores = "" if a is None or b is None else f"mean IoU {a:.1%} to {b:.1%}, "
    return f"{key}: {scores}{disagreement:.1%} of the pixels with another label"
