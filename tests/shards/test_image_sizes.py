"""The longer sides of images, from manifest entries alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards import image_sizes
from shards.image_sizes import longer_sides
from shards.layer import Layer
from shards.writer import write_shard
from tests.wsss.layers import sample, write_layer

SIZES = {"train-000000": [(8, 12), (20, 6)], "train-000001": [(5, 5)], "val-000000": [(7, 40)]}


def shards() -> dict[str, list[object]]:
    return {
        shard: [sample(f"{shard}-{number}", None, position=number, size=size) for number, size in enumerate(sizes)]
        for shard, sizes in SIZES.items()
    }


def test_sides_of_the_splits_without_opening_a_tar(tmp_path: Path) -> None:
    layer = write_layer(tmp_path, "sample", shards())  # type: ignore[arg-type]
    for shard in SIZES:
        layer.tar_path(shard).write_bytes(b"\0" * layer.tar_path(shard).stat().st_size)
    assert longer_sides(layer, splits=("train",)) == [5, 12, 20]
    assert longer_sides(layer, splits=("val", "train")) == [5, 12, 20, 40]
    assert longer_sides(layer, splits=("test",)) == []


def test_of_many_shards_evenly_spread_ones_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"train-{n:06d}": [sample(str(n), None, size=(1, n + 1))] for n in range(7)}
    layer = write_layer(tmp_path, "sample", many)
    monkeypatch.setattr(image_sizes, "_MOST_SHARDS", 3)
    assert longer_sides(layer, splits=("train",)) == [1, 4, 7]


def test_a_layer_that_is_not_complete_has_no_sizes(tmp_path: Path) -> None:
    layer = Layer(tmp_path, "sample")
    write_shard(layer, "train-000000", [sample("a", None)])
    assert longer_sides(layer, splits=("train",)) == []
