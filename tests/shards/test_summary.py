from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from shards.layer import Layer
from shards.manifest_entry import RecordEntries
from shards.opened import opened
from shards.records import Missing
from shards.summary import LayerSummary, lines, summarise
from shards.writer import write_shard
from tests.shards.example_records import sample, seed_record


def layer_of(folder: Path, *, names: tuple[str, ...] | None = None) -> Layer:
    layer = Layer(folder, "sample")
    write_shard(layer, "train-000000", [sample("a", 1), sample("b", 2), Missing(key="x", reason="gone")])
    other = replace(sample("c", 3, masked=False), classes=(3,), unknown=(1, 4, 5))
    write_shard(layer, "val-000000", [other, Missing(key="y", reason="asked for", left_out=True)])
    layer.complete(["train-000000", "val-000000"], classes=names)
    return layer


def summary_of(layer: Layer) -> LayerSummary:
    with opened(str(layer.path)) as one:
        return summarise(one)


def test_counts_by_hand(tmp_path: Path) -> None:
    summary = summary_of(layer_of(tmp_path, names=("a", "b", "c", "d", "e", "f")))
    assert summary.splits["train"] == {
        "shards": 1, "records": 2, "num_bytes": (tmp_path / "train-000000.tar").stat().st_size, "missing": 1,
        "left_out": 0, "masks": 2,
    }  # fmt: skip
    assert (summary.splits["val"]["left_out"], summary.splits["val"]["missing"]) == (1, 0)
    counts = {c: (summary.present[c], summary.absent(c), summary.unknown[c]) for c in summary.classes()}
    assert counts == {1: (0, 2, 1), 2: (2, 1, 0), 3: (1, 0, 2), 4: (0, 2, 1), 5: (2, 0, 1), 6: (0, 3, 0)}
    assert list(summary.sides) == [19, 19, 19] and len(summary.weights) == 3
    assert [summary.name_of(c) for c in (1, 6)] == ["a", "f"]


def test_lines(tmp_path: Path) -> None:
    reported = list(lines(summary_of(layer_of(tmp_path, names=("cat", "dog")))))
    assert reported[0] == f"{tmp_path}: sample records"
    assert reported[1].startswith("train: 2 records in 1 shard, 0.0 MB, 1 missing, 2 with a mask")
    assert reported[2].startswith("val: 1 record in 1 shard") and reported[2].endswith("0 with a mask, 1 left out")
    assert reported[3] == "longer side of an image: 19 to 19 pixels, median 19"
    assert reported[4] == (
        "train: 0 of 2 masks lack a class that the image is labelled with, 2 show a class that it is not labelled with"
    )
    assert len(reported) == 5


def test_rows_that_do_not_tell_unknown_classes(tmp_path: Path) -> None:
    layer = layer_of(tmp_path)
    for row in list(layer.manifest_entries()):
        newer = ("unknown", "mask_values")
        older = [replace(e, metadata={k: v for k, v in e.metadata.items() if k not in newer}) for e in row.entries]
        layer.manifest_path(row.shard).write_bytes(replace(row, entries=RecordEntries.of(older)).to_bytes())
    reported = list(lines(summary_of(layer)))
    assert reported[4].startswith("these shards were built by an older version, which did not list unknown classes")
    assert reported[5].startswith(
        "2 masks were not compared with the labels: these shards were built by an older version"
    )
    assert len(reported) == 6


def test_masks_are_compared_with_labels(tmp_path: Path) -> None:
    layer, mask = Layer(tmp_path, "sample"), np.zeros((13, 19), np.uint8)
    mask[2:5, 3:9] = 255
    records = [replace(sample(key, n), classes=(1,), unknown=(), mask=mask) for n, key in enumerate("abc")]
    write_shard(layer, "train-000000", records)
    write_shard(layer, "val-000000", [replace(records[0], key="d", mask=mask // 255)])
    layer.complete(["train-000000", "val-000000"], classes=("cat",))
    reported = list(lines(summary_of(layer)))
    assert reported[4:] == [
        "train: 3 of 3 masks lack a class that the image is labelled with, 0 show a class that it is not labelled with",
        "likely cause: the masks contain only 0 and 255, and 255 means ignored, not object; save every object's pixels "
        "as its class id (1 cat)",
    ]


def test_layers_of_other_records(tmp_path: Path) -> None:
    layer = Layer(tmp_path, "seed")
    write_shard(layer, "val-000000", [seed_record("a")])
    layer.complete(["val-000000"])
    reported = list(lines(summary_of(layer)))
    assert reported[0] == f"{tmp_path}: seed records" and reported[1].startswith("val: 1 record in 1 shard, ")
    assert len(reported) == 2 and "mask" not in reported[1]
