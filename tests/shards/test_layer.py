from __future__ import annotations

import json
from pathlib import Path

import pytest

from shards import layer as layers
from shards.layer import Layer, ShardError, shard_name, split_of
from shards.manifest_entry import ManifestEntry
from shards.records import Missing
from shards.writer import write_shard
from tests.shards.example_records import seed_record

SHARDS = ["train-000000", "train-000001", "val-000000"]


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    made = Layer(tmp_path / "layer", "seed")
    for number, shard in enumerate(SHARDS):
        gone = [Missing(key="lost", reason="no class")] if number == 1 else []
        write_shard(made, shard, [*(seed_record(f"{shard}-{n}") for n in range(number + 1)), *gone])
    return made


def test_names() -> None:
    assert shard_name("train", 17) == "train-000017"
    assert split_of(shard_name("train-extra", 3)) == "train-extra"


def test_layer_is_complete_when_its_index_is_written(layer: Layer) -> None:
    assert not layer.is_complete(SHARDS)
    with pytest.raises(ShardError, match=r"is not complete: index.json is missing; wsss run with"):
        layer.shards()
    layer.complete(SHARDS)
    assert layer.is_complete(SHARDS) and layer.shards() == SHARDS
    assert not layer.is_complete(SHARDS[:2]) and not layer.is_complete(SHARDS[::-1])
    assert layer.counts() == {"train": 3, "val": 3, "missing": 1}
    assert [row.shard for row in layer.manifest_entries("train")] == SHARDS[:2]
    index = json.loads((layer.path / "index.json").read_bytes())
    assert list(index["missing"].values()) == [{"lost": "no class"}] and index["counts"]["val-000000"] == 3


def test_what_was_left_out_on_purpose_is_no_fault(tmp_path: Path) -> None:
    made = Layer(tmp_path, "seed")
    gone = [Missing(key="lost", reason="no class"), Missing(key="person", reason="dropped", left_out=True)]
    write_shard(made, "train-000000", gone)
    made.complete(["train-000000"])
    assert made.manifest_entry("train-000000").missing == tuple(gone)
    assert made.counts() == {"train": 0, "missing": 1} and [len(keys) for keys in made.left_out().values()] == [1]
    assert [entry.key for entry in made.missing()] == ["lost"]


def test_an_index_is_read_once_until_it_changes(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With LID's 130,000 images that were left out, it has 11 MB."""
    read: list[str] = []
    real = layers._read_index
    monkeypatch.setattr(layers, "_read_index", lambda path: (read.append(path), real(path))[1])
    layer.complete(SHARDS)
    assert layer.is_complete(SHARDS) and layer.shards() == SHARDS
    assert layer.counts()["train"] == 3 and layer.classes() is None and layer.left_out() == {}
    assert len(read) == 1
    write_shard(layer, SHARDS[0], [seed_record("a"), Missing(key="x", reason="unknown", left_out=True)])
    layer.complete(SHARDS)
    assert layer.left_out() == {"train": {"x": "unknown"}} and layer.is_complete(SHARDS)
    assert len(read) == 3, "once for the numbers, and once for the reasons"
    (layer.path / "index.json").write_text("{}")
    assert not layer.is_complete(SHARDS)
    (layer.path / "index.json").unlink()
    with pytest.raises(ShardError, match=r"is not complete: index.json is missing"):
        layer.shards()


def test_a_manifest_entry_is_parsed_once_until_it_changes(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command asks several times whether a layer is complete; LID's manifest entries hold half a million keys."""
    parsed: list[bytes] = []
    real = ManifestEntry.from_bytes
    layer.complete(SHARDS)
    monkeypatch.setattr(ManifestEntry, "from_bytes", lambda data: (parsed.append(data), real(data))[1])
    for _ in range(3):
        assert layer.is_complete(SHARDS) and layer.is_finished(SHARDS[0])
    assert len(parsed) == len(SHARDS)
    tar = layer.tar_path(SHARDS[0])
    tar.write_bytes(whole := tar.read_bytes() + b"x")
    assert not layer.is_complete(SHARDS) and not layer.is_finished(SHARDS[0]), "the tar is looked at every time"
    tar.write_bytes(whole[:-1])
    assert layer.is_complete(SHARDS)
    layer.manifest_path(SHARDS[0]).write_text("{}")
    assert not layer.is_complete(SHARDS) and not layer.is_finished(SHARDS[0])
    assert len(parsed) == len(SHARDS) + 2, "a damaged entry is read again every time"


def test_one_key_in_two_splits_is_missing_twice(tmp_path: Path) -> None:
    made = Layer(tmp_path / "layer", "seed")
    for shard in ("train-000000", "val-000000"):
        write_shard(made, shard, [Missing(key="lost", reason=f"not in {shard}")])
    made.complete(["train-000000", "val-000000"])
    assert made.counts() == {"train": 0, "val": 0, "missing": 2}
    assert [entry.reason for entry in made.missing()] == ["not in train-000000", "not in val-000000"]


def test_index_bytes_repeat(layer: Layer) -> None:
    layer.complete(SHARDS)
    first = (layer.path / "index.json").read_bytes()
    layer.complete(SHARDS)
    assert (layer.path / "index.json").read_bytes() == first


def test_cut_shard_undoes_completeness(layer: Layer) -> None:
    layer.complete(SHARDS)
    tar = layer.tar_path(SHARDS[1])
    tar.write_bytes(tar.read_bytes()[:100])
    assert not layer.is_complete(SHARDS)
    assert [layer.is_finished(shard) for shard in SHARDS] == [True, False, True]


def test_layer_with_an_unfinished_shard_cannot_be_completed(layer: Layer) -> None:
    with pytest.raises(ShardError, match=r"val-000001.tar is not finished"):
        layer.complete([*SHARDS, "val-000001"])
    assert not (layer.path / "index.json").exists()
