"""A folder of runs with label maps drawn in code: samples, predictions, and the records of their evaluations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shards.images import encode_png
from shards.layer import Layer
from shards.records import Prediction, Sample, grid_size
from shards.writer import write_shard
from tuning.leaderboard import Row

Draw = Callable[[int], np.ndarray]
PER_SHARD = 64


def node(
    kind: str, digit: str, *, name: str = "", upstream: dict[str, Any] | None = None, **settings: object
) -> dict[str, Any]:
    """An instance of a lineage; its fingerprint begins with a digit."""
    name = name or kind
    dotted = {f"{name}.{key}": value for key, value in settings.items()}
    dotted |= {f"{name}.inputs.{slot}": "any" for slot in upstream or {}}
    fingerprint = digit + hashlib.sha256(f"{kind} {digit}".encode()).hexdigest()[1:]
    return {"kind": kind, "fingerprint": fingerprint, "seed": 0, "settings": dotted, "upstream": upstream or {}}


def folder_of(runs: Path, lineage: dict[str, Any]) -> Path:
    return runs / "store" / f"{lineage['kind']}-{lineage['fingerprint'][:16]}"


def write_node(runs: Path, lineage: dict[str, Any], *, recipe: str, **record: object) -> None:
    """The run record and the lineage of a finished instance."""
    folder = folder_of(runs, lineage)
    folder.mkdir(parents=True, exist_ok=True)
    name = next(iter(lineage["settings"]), lineage["kind"]).split(".")[0]
    found = {
        "recipe": recipe,
        "instance": name,
        "kind": lineage["kind"],
        "fingerprint": lineage["fingerprint"],
        "settings": lineage["settings"],
        "upstream": {},
        "git_commit": "unknown",
        "metrics": {"labels_given": 0.0},
    }
    (folder / "run.json").write_text(json.dumps(found | record))
    (folder / "settings.json").write_text(json.dumps(lineage))


def _write_layer(folder: Path, kind: str, records: Iterable[Any], *, classes: tuple[str, ...] | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    layer, shards, waiting = Layer(folder, kind), list[str](), list[Any]()

    def flush() -> None:
        shards.append(f"val-{len(shards):06d}")
        write_shard(layer, shards[-1], waiting)
        waiting.clear()

    for record in records:
        waiting.append(record)
        if len(waiting) == PER_SHARD:
            flush()
    if waiting:
        flush()
    layer.complete(shards, classes=classes)


def write_samples(
    runs: Path,
    masks: Draw,
    *,
    keys: list[str],
    classes: tuple[str, ...],
    digit: str = "a",
    masked: bool = True,
    encoded: bytes = b"",
) -> dict[str, Any]:
    """A layer of samples; returns its lineage. Images are drawn from their masks unless `encoded` is given."""
    lineage = node("build_shards", digit, source="toy")

    def drawn() -> Iterator[Sample]:
        for position, key in enumerate(keys):
            mask = masks(position)
            image = encoded or encode_png(np.stack([mask, mask * 3, 255 - mask], axis=-1).astype(np.uint8))
            present = tuple(sorted(set(np.unique(mask).tolist()) - {0, 255}))
            yield Sample(
                key=key, encoded=image, size=mask.shape, classes=present, mask=mask if masked else None,
                position=position,
            )  # fmt: skip

    _write_layer(folder_of(runs, lineage), Sample.kind, drawn(), classes=classes)
    write_node(runs, lineage, recipe="drawn")
    return lineage


def write_predictions(
    runs: Path, labels: Draw, *, keys: list[str], samples: dict[str, Any], recipe: str, digit: str, **settings: object
) -> dict[str, Any]:
    """A layer of predictions; returns its lineage."""
    trained = node("train_segmenter", digit, upstream={"samples": samples}, num_epochs=int(digit, 16))
    upstream = {"samples": samples, "segmenter": trained}
    lineage = node("predict", digit, upstream=upstream, splits=["val"], labels="none", **settings)

    def drawn() -> Iterator[Prediction]:
        for position, key in enumerate(keys):
            label = labels(position)
            confidence = np.zeros(grid_size((label.shape[0], label.shape[1])), dtype=np.uint8)
            yield Prediction(key=key, mask=label, confidence=confidence)

    _write_layer(folder_of(runs, lineage), Prediction.kind, drawn(), classes=None)
    write_node(runs, lineage, recipe=recipe)
    return lineage


def write_evaluation(
    runs: Path,
    predictions: dict[str, Any],
    *,
    recipe: str,
    digit: str,
    settings: dict[str, object] | None = None,
    **record: object,
) -> dict[str, Any]:
    """The record of an evaluation of predictions; returns its lineage."""
    upstream = {"samples": predictions["upstream"]["samples"], "records": predictions}
    lineage = node("evaluate", digit, upstream=upstream, splits=["val"], rule="threshold", **(settings or {}))
    write_node(runs, lineage, recipe=recipe, **record)
    return lineage


KEYS = [f"image_{number:02d}" for number in range(11)]
CLASSES = ("cat", "dog", "cow")
SHAPE = (13, 17)


def mask(position: int) -> np.ndarray:
    random = np.random.default_rng(position)
    drawn = random.integers(0, 3, SHAPE, dtype=np.uint8)
    drawn[:2] = 255
    return drawn


def noisy(share: float, seed: int) -> Draw:
    """A function of the position: the mask with some pixels drawn again."""

    def draw(position: int) -> np.ndarray:
        random = np.random.default_rng(1000 * seed + position)
        label = np.where(mask(position) == 255, 0, mask(position))
        redrawn = random.random(SHAPE) < share
        return np.where(redrawn, random.integers(0, 4, SHAPE), label).astype(np.uint8)

    return draw


GOOD, BAD, OTHER = noisy(0.1, 1), noisy(0.6, 2), noisy(0.3, 3)


def fill(folder: Path) -> Path:
    """Evaluations `bad`, `good`, `other` and `fewer` (of 7 images), predictions of unlabelled images `test_a` and
    `test_b`, and predictions `gone`."""
    samples = write_samples(folder, mask, keys=KEYS, classes=CLASSES)
    for recipe, digit, draw in (("bad", "1", BAD), ("good", "2", GOOD), ("other", "3", OTHER)):
        made = write_predictions(folder, draw, keys=KEYS, samples=samples, recipe=recipe, digit=digit, scale=int(digit))
        write_evaluation(folder, made, recipe=recipe, digit=digit)
    fewer = write_predictions(folder, GOOD, keys=KEYS[:7], samples=samples, recipe="fewer", digit="4")
    write_evaluation(folder, fewer, recipe="fewer", digit="4")
    test = write_samples(folder, mask, keys=KEYS, classes=CLASSES, digit="b", masked=False)
    for recipe, digit, draw in (("test_a", "5", BAD), ("test_b", "6", GOOD)):
        write_predictions(folder, draw, keys=KEYS, samples=test, recipe=recipe, digit=digit)
    write_predictions(folder, BAD, keys=KEYS, samples=samples, recipe="gone", digit="7")
    return folder


def rows_of_drawn(runs: Path) -> list[Row]:
    """The rows of the leaderboard that MLflow would give for the evaluations of `fill`."""
    found = []
    for path in sorted((runs / "store").glob("evaluate-*")):
        fingerprint = json.loads((path / "run.json").read_bytes())["fingerprint"]
        recipe = {"1": "bad", "2": "good", "3": "other", "4": "fewer"}[fingerprint[0]]
        found.append(
            Row(
                run_id=fingerprint[0] * 32, recipe=recipe, instance="evaluate", pipeline=f"c{fingerprint[1:]}",
                fingerprint=fingerprint, sweep="", metrics={"mean_iou": 0.5}, image_set="val", labels_given=False,
                supervision="", finished=0.0,
            )
        )  # fmt: skip
    return found
