"""The picture at the end of a run: image | CAM | pseudo label | instances | prediction | truth, a row per image.

Instances are drawn where the recipe makes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
from matplotlib import colormaps
from PIL import Image

from shards.layer import Layer, split_of
from shards.reader import read_shard
from shards.records import CamRecord, InstanceLabel, Prediction, PseudoLabel, Record, Sample
from wsss.pictures import compose, fit, overlay
from wsss.recipe import Recipe
from wsss.stages.predict import Predict
from wsss.stages.stage import Instance

MAX_ROWS = 8
COLUMNS = ("image", "CAM", "pseudo label", "instances", "prediction", "truth")
GOLDEN_RATIO = 0.618034


def contact_sheet(recipe: Recipe, *, split: str = "val") -> bytes | None:
    """A PNG of the first images of a split that all layers hold; None where a recipe makes no predictions for it.

    CAMs and pseudo labels had the image's labels, the prediction had none.
    """
    layers = _layers(recipe, split)
    if layers is None:
        return None
    columns = [name for name in COLUMNS if name != "instances" or name in layers]
    tiles = [[_row(records)[name] for name in columns] for records in _first_records(layers, split)]
    taxonomy = recipe.instances[0].taxonomy
    return compose(tiles, columns=columns, taxonomy=taxonomy, legend=range(1, len(taxonomy) + 1)) if tiles else None


def _layers(recipe: Recipe, split: str) -> dict[str, Layer] | None:
    """The chain behind the first predictions: samples, cams, pseudo labels, predictions; instances of those cams."""
    made = [i for i in recipe.instances if isinstance(i.stage, Predict) and i.stage.labels == "none"]
    predictions = next((i for i in made if split in cast(Predict, i.stage).splits), None)
    if predictions is None or not predictions.is_done():
        return None
    found = {"cams": _upstream(predictions, "make_cams"), "labels": _upstream(predictions, "make_pseudo_labels")}
    chain = {"samples": predictions.samples, "predictions": predictions}
    chain |= {name: instance for name, instance in found.items() if instance is not None}
    cams = found["cams"]
    for one in (i for i in recipe.instances if i.stage.kind == "make_instance_labels"):
        if cams is not None and one.inputs["cams"].path == cams.path and one.is_done():
            chain.setdefault("instances", one)
    return {name: instance.layer for name, instance in chain.items()}


def _upstream(instance: Instance, kind: str) -> Instance | None:
    """The nearest instance of that kind that this one descends from; None where there is none."""
    level = [instance]
    while level:
        level = [upstream for one in level for upstream in one.inputs.values()]
        for one in level:
            if one.stage.kind == kind:
                return one
    return None


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


def _row(records: Mapping[str, Record]) -> dict[str, Image.Image]:
    sample = cast(Sample, records["samples"])
    image = sample.image
    cams = cast(CamRecord, records["cams"]) if "cams" in records else None
    labels = cast(PseudoLabel, records["labels"]) if "labels" in records else None
    instances = cast(InstanceLabel, records["instances"]) if "instances" in records else None
    pictures = {
        "image": image,
        "CAM": _heat(image, cams),
        "pseudo label": overlay(image, None if labels is None else labels.mask),
        "prediction": overlay(image, cast(Prediction, records["predictions"]).mask),
        "truth": overlay(image, sample.mask),
    }
    tiles = {name: fit(picture) for name, picture in pictures.items()}
    return tiles | {"instances": _instances(tiles["image"], None if instances is None else instances.instances)}


def _heat(image: np.ndarray, cams: CamRecord | None) -> np.ndarray:
    if cams is None or len(cams.maps) == 0:
        return image
    strongest = np.clip(cams.maps.astype(np.float32).max(axis=0), 0, 1)
    grid = Image.fromarray((255 * strongest).astype(np.uint8)).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    colours = 255 * colormaps["inferno"](np.asarray(grid))[..., :3]
    return (0.35 * image + 0.65 * colours).astype(np.uint8)


def _instances(tile: Image.Image, instances_HW: np.ndarray | None) -> Image.Image:
    """Every instance in a colour of its own, outlined in white; drawn at the small size, so that lines stay whole."""
    image = np.asarray(tile)
    if instances_HW is None:
        return Image.fromarray(overlay(image, None))
    rows, columns = (
        np.arange(small) * large // small for small, large in zip(image.shape[:2], instances_HW.shape, strict=True)
    )
    map_hw = instances_HW[rows[:, None], columns].astype(np.int64)
    # Hues that follow each other by the golden ratio lie far apart, however many there are.
    hues = np.arange(map_hw.max(initial=0) + 1) * GOLDEN_RATIO % 1
    colours = 255 * colormaps["hsv"](hues)[map_hw][..., :3]
    grey = image.mean(axis=2, keepdims=True)
    drawn = np.where(map_hw[..., None] == 0, 0.6 * grey, 0.35 * grey + 0.65 * colours)
    outline_hw = np.zeros(map_hw.shape, dtype=bool)
    outline_hw[1:] |= map_hw[1:] != map_hw[:-1]
    outline_hw[:, 1:] |= map_hw[:, 1:] != map_hw[:, :-1]
    drawn[outline_hw] = 255
    return Image.fromarray(drawn.astype(np.uint8))
