"""The picture at the end of a run: image | CAM | pseudo label | instances | predictions | truth, one row per image.

There is no column for results that the recipe does not produce.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from matplotlib import colormaps
from PIL import Image

from shards.layer import Layer, split_of
from shards.reader import read_shard
from shards.records import CamRecord, InstanceLabel, Prediction, PseudoLabel, Record, Sample
from wsss.contract.stage import Instance
from wsss.pictures.sheets import compose, fit, heat, overlay
from wsss.pipeline.recipe import Recipe
from wsss.stages.predict import Predict

MAX_ROWS = 8
MAX_PREDICTIONS = 12
"""Maximum number of prediction columns: enough for the recipe that compares all objectives."""
GOLDEN_RATIO = 0.618034
_PSEUDO_LABELS = ("make_pseudo_labels", "make_agreed_labels", "keep_reliable_labels")


def contact_sheet(recipe: Recipe, *, split: str = "val") -> bytes | None:
    """A PNG of the first images of a split that are in all layers; None if the recipe makes no predictions for it.

    CAMs and pseudo labels were computed with the image's labels, predictions without them. There is one column for
    each of the recipe's first `MAX_PREDICTIONS` predictions.
    """
    predictions = _predictions(recipe, split)
    if not predictions:
        return None
    chain = _chain(recipe, predictions[0])
    layers = {"image": predictions[0].samples.layer} | {name: found.layer for name, found in chain.items()}
    named = {"prediction" if len(predictions) == 1 else one.name: one.layer for one in predictions}
    records = list(_first_records(layers | named, split))
    if not records:
        return None
    rows = [_row(of_image, predictions=list(named)) for of_image in records]
    has_truth = any(cast(Sample, of_image["image"]).mask is not None for of_image in records)
    columns = [*layers, *named, *(["truth"] if has_truth else [])]
    tiles = [[row[name] for name in columns] for row in rows]
    taxonomy = recipe.instances[0].taxonomy
    return compose(tiles, columns=columns, taxonomy=taxonomy, legend=range(1, len(taxonomy) + 1))


def _predictions(recipe: Recipe, split: str) -> list[Instance]:
    """The first finished predictions of a split that were made without labels."""
    made = [i for i in recipe.instances if isinstance(i.stage, Predict) and i.stage.labels == "none"]
    return [i for i in made if split in cast(Predict, i.stage).splits and i.is_done()][:MAX_PREDICTIONS]


def _chain(recipe: Recipe, prediction: Instance) -> dict[str, Instance]:
    """Column -> the nearest instance upstream of the prediction that provides it, if there is one."""
    found = {"CAM": _upstream(prediction, "make_cams"), "pseudo label": _upstream(prediction, *_PSEUDO_LABELS)}
    chain = {name: instance for name, instance in found.items() if instance is not None}
    made = [i for i in recipe.instances if i.stage.kind == "make_instance_labels" and i.is_done()]
    if "CAM" in chain and made and made[0].inputs["cams"].path == chain["CAM"].path:
        chain["instances"] = made[0]
    return chain


def _upstream(instance: Instance, *kinds: str) -> Instance | None:
    """The nearest upstream instance of one of these kinds."""
    level = [instance]
    while level:
        level = [upstream for one in level for upstream in one.inputs.values()]
        for one in level:
            if one.stage.kind in kinds:
                return one
    return None


def _first_records(layers: Mapping[str, Layer], split: str) -> Iterator[dict[str, Record]]:
    *_, last = layers
    shards = [shard for shard in layers[last].shards() if split_of(shard) == split][:1]
    for shard in shards:
        have = {
            name: {r.key: r for r in read_shard(layer, shard)}
            for name, layer in layers.items()
            if layer.is_finished(shard)
        }
        keys = [key for key in have[last] if all(key in records for records in have.values())]
        # Images with more than one class are more informative.
        keys.sort(key=lambda key: -min(len(cast(Sample, have["image"][key]).classes), 2))
        for key in keys[:MAX_ROWS]:
            yield {name: records[key] for name, records in have.items()}


def _row(records: Mapping[str, Record], *, predictions: Sequence[str]) -> dict[str, Image.Image]:
    """Column -> its tile."""
    sample = cast(Sample, records["image"])
    image = sample.image
    cams, labels = cast(CamRecord | None, records.get("CAM")), cast(PseudoLabel | None, records.get("pseudo label"))
    instances = cast(InstanceLabel | None, records.get("instances"))
    pictures = {
        "image": image,
        "CAM": _heat(image, cams),
        "pseudo label": overlay(image, None if labels is None else labels.mask),
        **{name: overlay(image, cast(Prediction, records[name]).mask) for name in predictions if name in records},
        "truth": overlay(image, sample.mask),
    }
    tiles = {name: fit(picture) for name, picture in pictures.items()}
    return tiles | {"instances": _instances(tiles["image"], None if instances is None else instances.instances)}


def _heat(image: np.ndarray, cams: CamRecord | None) -> np.ndarray:
    if cams is None or len(cams.maps) == 0:
        return image
    return heat(image, cams.maps.astype(np.float32).max(axis=0))


def _instances(tile: Image.Image, instances_HW: np.ndarray | None) -> Image.Image:
    """Each instance in its own colour, outlined in white; drawn after resizing, so that outlines are not broken."""
    image = np.asarray(tile)
    if instances_HW is None:
        return Image.fromarray(overlay(image, None))
    rows, columns = (
        np.arange(small) * large // small for small, large in zip(image.shape[:2], instances_HW.shape, strict=True)
    )
    map_hw = instances_HW[rows[:, None], columns].astype(np.int64)
    # Hues at steps of the golden ratio are well separated for any number of instances.
    hues = np.arange(map_hw.max(initial=0) + 1) * GOLDEN_RATIO % 1
    colours = 255 * colormaps["hsv"](hues)[map_hw][..., :3]
    grey = image.mean(axis=2, keepdims=True)
    drawn = np.where(map_hw[..., None] == 0, 0.6 * grey, 0.35 * grey + 0.65 * colours)
    outline_hw = np.zeros(map_hw.shape, dtype=bool)
    outline_hw[1:] |= map_hw[1:] != map_hw[:-1]
    outline_hw[:, 1:] |= map_hw[:, 1:] != map_hw[:, :-1]
    drawn[outline_hw] = 255
    return Image.fromarray(drawn.astype(np.uint8))
