"""`wsss shards preview`: a contact sheet of a layer's images; the tars may be remote."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from shards.images import encode_png
from shards.layer import ShardError
from shards.opened import OpenedLayer
from shards.reader import read_entry
from shards.records import BadSampleError, Sample
from shards.taxonomy import colours_of

NUM_IMAGES, COLUMNS, TILE, CAPTION = 40, 8, 128, 26
"""Images of the sheet, images in a row, side of a tile in pixels, height of the text below a tile in pixels."""
_LETTERS = 21
"""Characters that fit in a line below a tile."""


def preview(opened: OpenedLayer) -> bytes:
    """A PNG of images evenly spaced over a layer of samples, overlaid with their masks if they have any.

    Only these images are read. The key and classes are written below each image; an unreadable image is drawn as a
    cross. Raises ValueError if the layer does not hold samples.
    """
    if opened.layer.kind != Sample.kind:
        raise ValueError(f"{opened.display_name} holds {opened.layer.kind} records; a preview needs a layer of samples")
    counts = opened.layer.counts_of_shards()
    total = sum(counts.values())
    chosen = sorted({number * total // NUM_IMAGES for number in range(NUM_IMAGES)}) if total else []
    rows = -(-len(chosen) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE, max(rows, 1) * (TILE + CAPTION)), "white")
    names, start, indices = opened.layer.classes(), 0, iter(chosen)
    index = next(indices, None)
    number = 0
    for shard, count in counts.items():
        while index is not None and index < start + count:
            corner = (number % COLUMNS * TILE, number // COLUMNS * (TILE + CAPTION))
            _draw(sheet, corner, opened, shard, index - start, names)
            index, number = next(indices, None), number + 1
        start += count
    return encode_png(np.asarray(sheet))


def _draw(
    sheet: Image.Image,
    corner: tuple[int, int],
    opened: OpenedLayer,
    shard: str,
    index: int,
    names: tuple[str, ...] | None,
) -> None:
    draw, (left, top) = ImageDraw.Draw(sheet), corner
    key, classes = f"{shard}, {index}", "not readable"
    try:
        entry = opened.manifest_entry(shard).entries[index]
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
        tinted = (0.5 * image + 0.5 * colours_of(sample.mask)).astype(np.uint8)
        image = np.where(sample.mask[..., None] == 0, image, tinted)
    tile = Image.fromarray(image)
    tile.thumbnail((TILE, TILE))
    return tile
