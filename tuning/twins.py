"""`python -m tuning.twins`: write the small twins of the published systems' recipes, by one rule.

A twin runs a system's whole chain on a machine with two cores and without a GPU. It has the instances, inputs and all
settings of the full recipe but these, which the rule gives all twins alike:

1. Images: six classes of VOC 2012 (voc_animals). Maps, seeds, labels and segmenters of its first 448 training images,
   results on its 200 validation images; classifiers learn from all 1,105.
2. Encoder: MobileNetV2 at stride 16, not dilated, with the system's own head; AffinityNet reads its last three levels
   at stride 8, dilated. Rates of DeepLab's earlier heads are halved; FickleNet's window keeps its size, as near as
   whole cells allow. DeepLabv3+ has 64 channels, the hidden layers of earlier heads have 256.
3. Sizes: classifiers see crops of 256 pixels, IRNet of 320, AffinityNet of 256, segmenters of 257. Maps are made of
   the images as they are, 500 pixels, as irn does, although classifiers learned from 256 to 448: at 352, the middle of
   these sizes, maps score the same on val (48.8 and 48.7), but their walk 62.5 instead of 66.8. Segmentations are made
   of images of 352 pixels, the middle of the sizes in training.
4. Optimisation: AdamW for classifiers and segmenters, SGD for affinity networks, as in voc_animals.toml.
5. Length: 4 epochs for classifiers, 8 for IRNet, 2 for AffinityNet, and about 224 steps of 16 images for everything
   that segments: 3 to 16 minutes a training on two busy cores. With 168 steps of 8 crops of 129 pixels, IRNet's
   segmenter had 28.8.
6. No saliency maps: background seeds are pixels that are low in the maps of all classes. Boxes are those around the
   components of masks. 13.8 % of the images have masks, as 1,464 of 10,582.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuning.toml_text import toml_lines
from wsss.pipeline.recipe_files import RECIPES

SYSTEMS = ("irnet", "ficklenet", "ficklenet_semi", "affinitynet", "dsrg", "sec", "self_correcting")
"""Twin voc_animals_NAME -> recipe NAME_voc; of `ficklenet_semi` ficklenet_voc_semi."""
_IMAGES = 448
_STEPS = 224
_BATCH = 16
"""Of everything that segments."""
_MASKED = 0.138
_SAMPLES: Mapping[str, Any] = {
    "source": "voc",
    "root": "$VOC_ROOT",
    "labels": "image_labels.json",
    "lists": {"train": "voc_animals_train.txt", "val": "voc_animals_val.txt"},
    "class_names": ["cat", "cow", "dog", "horse", "person", "sheep"],
    "shard_size": 64,
}
_ENCODER = ("encoder", "output_stride", "dilated", "norm", "mean", "std", "pretrained")
_OPTIMISER = (
    *("optimizer", "learning_rate", "head_lr_multiplier", "bias_lr_multiplier", "momentum", "weight_decay"),
    *("schedule", "poly_power", "step_epochs", "step_factor", "checkpoint_every"),
)
_SIZES = ("crop_size", "resize_long", "colour_jitter")
_ADAMW: Mapping[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 0.0003,
    "head_lr_multiplier": 5.0,
    "weight_decay": 0.01,
    "warmup_steps": 20,
}
_STRIDE_16: Mapping[str, Any] = {"output_stride": 16, "dilated": False}
_STRIDE_8: Mapping[str, Any] = {"output_stride": 8, "dilated": True}


def name_of_full(system: str) -> str:
    """The full recipe of a twin."""
    return "ficklenet_voc_semi" if system == "ficklenet_semi" else f"{system}_voc"


def twin(full: Mapping[str, Any], system: str) -> dict[str, Any]:
    """The tables of a twin, from those of the full recipe."""
    recipe = {**full["recipe"], "name": f"voc_animals_{system}", "seed": 1}
    stages = {name: _stage(name, dict(table)) for name, table in full["stages"].items()}
    return {"recipe": recipe, "defaults": {"encoder": "mobilenetv2_100"}, "stages": stages}


def _stage(name: str, table: dict[str, Any]) -> dict[str, Any]:
    kind = table.get("kind", name)
    if kind == "build_shards":
        return dict(_SAMPLES)
    changed = _without(table, *_ENCODER, *_OPTIMISER, *_SIZES)
    if kind == "train_classifier":
        return _classifier(changed)
    if kind == "train_affinity":
        return _affinity(changed)
    if kind in ("train_segmenter", "train_ancillary", "train_correction"):
        return _segmenter(changed, kind)
    if kind == "make_cams":
        return {**_without(changed, "long_side"), "max_shards": _IMAGES // _SAMPLES["shard_size"]}
    if kind == "make_seeds":
        return _seeds(changed)
    if kind == "predict":
        limit = {"max_shards": _IMAGES // _SAMPLES["shard_size"]} if "train" in table.get("splits", ()) else {}
        return {**changed, **limit, "long_side": 352}
    return changed


def _classifier(table: dict[str, Any]) -> dict[str, Any]:
    kernel = {"stochastic_kernel": 5} if "stochastic_kernel" in table else {}  # 80 pixels at stride 16; 9 at 8 are 72
    sizes = {"crop_size": 256, "resize_long": [256, 448], "colour_jitter": 0.2, "validation_size": 400}
    return {**table, **kernel, **_STRIDE_16, "world_size": 2, "batch_size": 16, "num_epochs": 4, **_ADAMW, **sizes}


def _affinity(table: dict[str, Any]) -> dict[str, Any]:
    irnet = table.get("network", "irnet") == "irnet"
    network = {**_STRIDE_16, "num_epochs": 8, "learning_rate": 0.01, "head_lr_multiplier": 10.0, "crop_size": 320}
    if not irnet:
        network = {**_STRIDE_8, "num_epochs": 2, "learning_rate": 0.005, "head_lr_multiplier": 10.0, "crop_size": 256}
    return {**_without(table, "levels"), **network, "world_size": 2, "batch_size": 8, "resize_long": [256, 512]}


def _segmenter(table: dict[str, Any], kind: str) -> dict[str, Any]:
    """With a number of epochs that makes the rule's number of steps."""
    head = {**_STRIDE_16, **({"head_channels": 256} if "network" in table else {"decoder_channels": 64})}
    given: dict[str, Any] = {}
    images, per_batch = float(_IMAGES), _BATCH
    if "full_share" in table:
        masked = _MASKED * table["full_share"]
        given = {"full_share": masked}
        if kind == "train_segmenter":
            full_per_batch = _BATCH // 2 if table["objective"] == "self_correction" else 4
            given["full_per_batch"] = full_per_batch
            images, per_batch = _IMAGES * (1 - masked), _BATCH - full_per_batch
        else:
            images = _IMAGES * masked
        if kind != "train_segmenter" or table["objective"] == "self_correction":
            given["box_source"] = "masks"
    sizes = {"crop_size": 257, "resize_long": [256, 448], "colour_jitter": 0.2, "max_shards": 7}
    length = {"world_size": 2, "batch_size": _BATCH, "num_epochs": max(1, round(_STEPS * per_batch / images))}
    return {**_without(table, "full_list"), **head, **given, **length, **_ADAMW, **sizes}


def _seeds(table: dict[str, Any]) -> dict[str, Any]:
    if table.get("background") != "saliency":
        return table
    return {**_without(table, "background", "saliency_threshold"), "background_threshold": 0.05}


def _without(table: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name not in names}


def text_of(system: str, recipes: Path = RECIPES) -> str:
    """The TOML file of a twin."""
    full = name_of_full(system)
    published = tomllib.loads((recipes / f"{full}.toml").read_text())
    tables = twin(published, system)
    notes = [
        f"VOC_ROOT=... wsss run tuning/recipes/voc_animals_{system}.toml --set ...",
        f"The twin of {full}.toml, written by python -m tuning.twins, whose first lines give the rule; do not edit it.",
        'Arguments and weights: tuning/README.md, "Weights and data". More: there, "The published systems".',
    ]
    if any(table.get("background") == "saliency" for table in published["stages"].values()):
        notes.append("Without saliency maps: the background's seeds are taken from the maps.")
    lines = [f"# {note}" for note in notes]
    for section in ("recipe", "defaults"):
        lines += ["", f"[{section}]", *toml_lines(tables[section])]
    for name, table in tables["stages"].items():
        lines += ["", f"[stages.{name}]", *toml_lines(table)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None, *, recipes: Path = RECIPES) -> int:
    """Write the files that differ; returns 0."""
    argparse.ArgumentParser(
        prog="python -m tuning.twins",
        description=__doc__.partition(": ")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(arguments)
    for system in SYSTEMS:
        path, text = recipes / f"voc_animals_{system}.toml", text_of(system, recipes)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            print(f"written: {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
