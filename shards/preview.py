"""`wsss shards preview`: a contact sheet of a layer's images, wherever its tars lie."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from shards.images import encode_png
from shards.layer import ShardError
from shards.opened import OpenedLayer
from shards.reader import read_entry
from shards.records import BadSampleError, Sample
from shards.taxonomy import palette

NUM_IMAGES, COLUMNS, TILE, CAPTION = 40, 8, 128, 26
"""Images of a sheet and in a row; pixels of a tile's side, and of the two lines below it."""
_LETTERS = 21
"""As many fit below a tile."""


def preview(opened: OpenedLayer) -> bytes:
    """A PNG of images from all over a layer of samples, evenly spaced, masks drawn over them where there are some.

    Only these images are read. Below each stand its key and its classes; one that cannot be read is a cross.
    Raises ValueError where the layer holds no samples.
    """
    if opened.layer.kind != Sample.kind:
        raise ValueError(f"{opened.told} holds {opened.layer.kind} records; a preview is drawn of samples")
    counts = opened.layer.counts_of_shards()
    total = sum(counts.values())
    chosen = sorted({number * total // NUM_IMAGES for number in range(NUM_IMAGES)}) if total else []
    rows = -(-len(chosen) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE, max(rows, 1) * (TILE + CAPTION)), "white")
    names, start, places = opened.layer.classes(), 0, iter(chosen)
    place = next(places, None)
    number = 0
    for shard, count in counts.items():
        while place is not None and place < start + count:
            corner = (number % COLUMNS * TILE, number // COLUMNS * (TILE + CAPTION))
            _draw(sheet, corner, opened, shard, place - start, names)
            place, number = next(places, None), number + 1
        start += count
    return encode_png(np.asarray(sheet))


def _draw(
    sheet: Image.Image,
    corner: tuple[int, int],
    opened: OpenedLayer,
    shard: str,
    place: int,
    names: tuple[str, ...] | None,
) -> None:
    draw, (left, top) = ImageDraw.Draw(sheet), corner
    key, classes = f"{shard}, {place}", "not readable"
    try:
        entry = opened.manifest_entry(shard).entries[place]
        key = entry.key
        sample = read_entry(opened.layer, shard, entry)
        assert isinstance(sample, Sample)
        sheet.paste(_tile(sample), corner)
        classes = ", ".join(names[c - 1] if names and c <= len(names) else str(c) for c in sample.classes)
    except (BadSampleError, ShardError, OSError, IndexError):
        draw.line((left, top, left + TILE - 1, top + TILE - 1), fill="red")
        draw.line((left, top + TILE - 1, left + TILE - 1, top), fill="red")
    for line, text in enumerate((key[-_LETTERS:], classes[:_LETTERS])):
        draw.text((left + 2, top + TILE + 12 * line), text.encode("ascii", "replace").decode(), fill="black")


def _tile(sample: Sample) -> Image.Image:
    image = sample.image
    if sample.mask is not None:
        tinted = (0.5 * image + 0.5 * palette()[sample.mask]).astype(np.uint8)
        image = np.where(sample.mask[..., None] == 0, image, tinted)
    tile = Image.fromarray(image)
    tile.thumbnail((TILE, TILE))
    return tile
