"""Drawn images of which only some classes are known, and the share of their pixels that a layer calls background."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.images import encode_png
from shards.reader import read_shard
from shards.records import BACKGROUND, InstanceLabel, PseudoLabel, Sample, SeedRecord
from shards.sources.toy import ToySource
from wsss.contract.stage import Instance
from wsss.pipeline.recipe import Recipe

NUM_CLASSES, NUM_KNOWN = 200, 8
NAMES = [f"c{number:03d}" for number in range(1, NUM_CLASSES + 1)]
KINDS = ("known", "empty", "partial", "nothing", "unlabelled")
"""Labels and known absence: all classes known; known to show none; one label, 192 unknown; no label, 192 unknown; all
unknown."""
WITH_UNKNOWN = ("partial", "nothing", "unlabelled")


def write_images(root: Path, *, per_kind: int) -> None:
    """Images of every kind in both splits, in the layout of the source `folder`; masks only for val."""
    toy = ToySource(counts={"train": per_kind * len(KINDS), "val": per_kind * len(KINDS)}, seed=1, size=64)
    for folder in ("", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(NAMES))
    rows = ["image,labels,unknown,split"]
    for split in ("train", "val"):
        for number, listed in enumerate(toy.list_split(split)):
            kind, sample = KINDS[number % len(KINDS)], toy.read(listed)
            name = f"{kind}_{split}_{number}"
            (root / f"{name}.png").write_bytes(sample.encoded)
            assert sample.mask is not None
            (root / "masks" / f"{name}.png").write_bytes(encode_png(sample.mask))
            rows.append(f"{name}.png,{_labels(kind, sample)},{_unknown(kind)},{split}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


def _labels(kind: str, sample: Sample) -> str:
    number = {"known": len(sample.classes), "partial": 1}.get(kind, 0)
    return "|".join(NAMES[c - 1] for c in sample.classes[:number])


def _unknown(kind: str) -> str:
    if kind == "unlabelled":
        return "*"
    return "|".join(NAMES[NUM_KNOWN:]) if kind in WITH_UNKNOWN else ""


def is_open(key: str) -> bool:
    """Whether an image has unknown classes."""
    return key.rpartition("/")[2].partition("_")[0] in WITH_UNKNOWN


def background_pixels(instance: Instance) -> tuple[int, int]:
    """In the images with unknown classes of a layer of labels: pixels called background, and all pixels."""
    found, every = 0, 0
    for shard in instance.layer.shards():
        for record in read_shard(instance.layer, shard):
            if not is_open(record.key):
                continue
            if isinstance(record, SeedRecord):
                label = record.label
            else:
                assert isinstance(record, PseudoLabel | InstanceLabel)
                label = record.mask
            found, every = found + int(np.count_nonzero(label == BACKGROUND)), every + label.size
    return found, every


def label_layers(recipe: Recipe) -> list[Instance]:
    """The instances that make label maps."""
    kinds = (SeedRecord.kind, PseudoLabel.kind, InstanceLabel.kind)
    return [one for one in recipe.instances if getattr(one.stage, "record_kind", "") in kinds]
