"""Sheets of small pictures: label maps drawn over images, rows under headings, a legend of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from shards.images import encode_png
from shards.label_type import ignore_of
from shards.taxonomy import Taxonomy, colour_of, colours_of

TILE = 160
"""Longer side of a picture in the sheet, in pixels."""
HEADER, GAP = 22, 6
MAX_LEGEND, LEGEND_WIDTH = 24, 100
"""Maximum number of classes in a legend, and the width of each entry in pixels."""


def overlay(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The image in grey, classes in their colours; blank if there is no mask. u8[H,W,3]."""
    if mask is None:
        return np.full_like(image, 235)
    grey = image.mean(axis=2, keepdims=True)
    return np.where(mask[..., None] == 0, 0.6 * grey, 0.25 * grey + 0.75 * colours_of(mask)).astype(np.uint8)


def heat(image: np.ndarray, map_hw: np.ndarray) -> np.ndarray:
    """A map of values in [0, 1] on any grid, resized to the image and laid over it. u8[H,W,3]."""
    from matplotlib import colormaps  # takes a second to import

    values = (255 * np.clip(map_hw.astype(np.float32), 0, 1)).astype(np.uint8)
    grid = Image.fromarray(values).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    colours = 255 * colormaps["inferno"](np.asarray(grid))[..., :3]
    return (0.35 * image + 0.65 * colours).astype(np.uint8)


def error_map(image: np.ndarray, label: np.ndarray, *, truth: np.ndarray) -> np.ndarray:
    """The image in grey; wrong pixels in red, missed objects in blue, objects in the background in amber. u8[H,W,3]."""
    drawn = np.repeat(image.mean(axis=2, keepdims=True) * 0.6, 3, axis=2)
    wrong = (label != truth) & (truth != ignore_of(truth))
    drawn[wrong] = (218, 54, 51)
    drawn[wrong & (label == 0)] = (60, 120, 216)
    drawn[wrong & (truth == 0)] = (227, 179, 65)
    return drawn.astype(np.uint8)


def fit(picture: np.ndarray) -> Image.Image:
    """The picture resized to a tile."""
    tile = Image.fromarray(picture)
    tile.thumbnail((TILE, TILE))
    return tile


def compose(
    rows: Sequence[Sequence[Image.Image]],
    *,
    columns: Sequence[str],
    taxonomy: Taxonomy,
    legend: Sequence[int],
    captions: Sequence[str] = (),
) -> bytes:
    """A PNG of tiles in rows, each below its caption if there are captions.

    `legend`: the classes to list with their colours; omitted if there are more than `MAX_LEGEND`.
    """
    line = HEADER if captions else 0
    heights = [line + max(tile.height for tile in row) for row in rows]
    width = len(columns) * (TILE + GAP) + GAP
    named = legend if len(legend) <= MAX_LEGEND else ()
    num_lines = -(-len(named) // (width // LEGEND_WIDTH))
    sheet = Image.new("RGB", (width, HEADER * (1 + num_lines) + sum(heights) + GAP * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(columns):
        draw.text((GAP + column * (TILE + GAP), 5), title, fill="black")
    top = HEADER
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        if captions:
            draw.text((GAP, top + 5), captions[number].encode("ascii", "replace").decode(), fill="black")
        for column, tile in enumerate(row):
            sheet.paste(tile, (GAP + column * (TILE + GAP), top + line))
        top += height + GAP
    _draw_legend(draw, named, taxonomy=taxonomy, top=top, per_line=width // LEGEND_WIDTH)
    return encode_png(np.asarray(sheet))


def _draw_legend(
    draw: ImageDraw.ImageDraw, named: Sequence[int], *, taxonomy: Taxonomy, top: int, per_line: int
) -> None:
    for number, class_id in enumerate(named):
        left, line = GAP + (number % per_line) * LEGEND_WIDTH, top + HEADER * (number // per_line)
        draw.rectangle((left, line + 4, left + 12, line + 16), fill=colour_of(class_id))
        draw.text((left + 17, line + 4), taxonomy.name_of(class_id), fill="black")
