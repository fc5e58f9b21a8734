"""The picture at the end of a run: image | CAM | pseudo label | prediction | truth, a row per image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from shards.images import encode_png
from shards.layer import Layer, split_of
from shards.reader import read_shard
from shards.records import CamRecord, Prediction, PseudoLabel, Record, Sample
from shards.taxonomy import Taxonomy, palette
from wsss.recipe import Recipe
from wsss.stages.stage import Instance

TILE = 160
"""Longer side of a picture in the sheet, in pixels."""
HEADER, GAP = 22, 6
MAX_ROWS = 8
COLUMNS = ("image", "CAM", "pseudo label", "prediction", "truth")


def contact_sheet(recipe: Recipe, *, split: str = "val") -> bytes | None:
    """A PNG of the first images of a split that all layers hold; None where a recipe makes no predictions for it.

    CAMs and pseudo labels had the image's labels, the prediction had none.
    """
    layers = _layers(recipe)
    if layers is None:
        return None
    tiles = [_row(records) for records in _first_records(layers, split)]
    return _compose(tiles, recipe.instances[0].taxonomy) if tiles else None


def _layers(recipe: Recipe) -> dict[str, Layer] | None:
    """The chain behind the last predictions: samples, cams, pseudo labels, predictions."""
    predictions = [i for i in recipe.instances if i.stage.kind == "predict"]
    if not predictions or not predictions[0].is_done():
        return None
    labels = predictions[0].inputs["segmenter"].inputs["pseudo_labels"]
    cams = _upstream(labels, "make_cams")
    chain = {"samples": predictions[0].samples, "cams": cams, "labels": labels, "predictions": predictions[0]}
    return {name: instance.layer for name, instance in chain.items()}


def _upstream(instance: Instance, kind: str) -> Instance:
    """The nearest instance of that kind that this one descends from."""
    level = [instance]
    while level:
        level = [upstream for one in level for upstream in one.inputs.values()]
        for one in level:
            if one.stage.kind == kind:
                return one
    raise AssertionError(f"{instance.name} descends from no {kind}")


def _first_records(layers: Mapping[str, Layer], split: str) -> Iterator[dict[str, Record]]:
    shards = [shard for shard in layers["predictions"].shards() if split_of(shard) == split][:1]
    for shard in shards:
        have = {
            name: {r.key: r for r in read_shard(layer, shard)}
            for name, layer in layers.items()
            if layer.is_finished(shard)
        }
        keys = [key for key in have["predictions"] if all(key in records for records in have.values())]
        # Images with more than one class say more about a method than others.
        keys.sort(key=lambda key: -min(len(cast(Sample, have["samples"][key]).classes), 2))
        for key in keys[:MAX_ROWS]:
            yield {name: records[key] for name, records in have.items()}


def _row(records: Mapping[str, Record]) -> list[Image.Image]:
    sample = cast(Sample, records["samples"])
    image = sample.image
    cams = cast(CamRecord, records["cams"]) if "cams" in records else None
    labels = cast(PseudoLabel, records["labels"]) if "labels" in records else None
    pictures = [
        image,
        _heat(image, cams),
        _overlay(image, None if labels is None else labels.mask),
        _overlay(image, cast(Prediction, records["predictions"]).mask),
        _overlay(image, sample.mask),
    ]
    return [_fit(picture) for picture in pictures]


def _heat(image: np.ndarray, cams: CamRecord | None) -> np.ndarray:
    if cams is None or len(cams.maps) == 0:
        return image
    strongest = np.clip(cams.maps.astype(np.float32).max(axis=0), 0, 1)
    grid = Image.fromarray((255 * strongest).astype(np.uint8)).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    colours = 255 * colormaps["inferno"](np.asarray(grid))[..., :3]
    return (0.35 * image + 0.65 * colours).astype(np.uint8)


def _overlay(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if mask is None:
        return np.full_like(image, 235)
    grey = image.mean(axis=2, keepdims=True)
    return np.where(mask[..., None] == 0, 0.6 * grey, 0.25 * grey + 0.75 * palette()[mask]).astype(np.uint8)


def _fit(picture: np.ndarray) -> Image.Image:
    tile = Image.fromarray(picture)
    tile.thumbnail((TILE, TILE))
    return tile


def _compose(rows: list[list[Image.Image]], taxonomy: Taxonomy) -> bytes:
    heights = [max(tile.height for tile in row) for row in rows]
    width = len(COLUMNS) * (TILE + GAP) + GAP
    legend = HEADER * (1 + len(taxonomy) // 8) if len(taxonomy) <= 24 else 0
    sheet = Image.new("RGB", (width, HEADER + sum(heights) + GAP * len(rows) + legend), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(COLUMNS):
        draw.text((GAP + column * (TILE + GAP), 5), title, fill="black")
    top = HEADER
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (GAP + column * (TILE + GAP), top))
        top += height + GAP
    if legend:
        _draw_legend(draw, taxonomy, top)
    return encode_png(np.asarray(sheet))


def _draw_legend(draw: ImageDraw.ImageDraw, taxonomy: Taxonomy, top: int) -> None:
    for number, name in enumerate(taxonomy.names):
        left, line = GAP + (number % 8) * 100, top + HEADER * (number // 8)
        red, green, blue = (int(channel) for channel in palette()[number + 1])
        draw.rectangle((left, line + 4, left + 12, line + 16), fill=(red, green, blue))
        draw.text((left + 17, line + 4), name, fill="black")
