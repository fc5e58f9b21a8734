from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.layer import Layer
from shards.overlap import Waiting
from shards.records import Missing, PseudoLabel, Record
from shards.writer import write_shard
from tests.shards.example_records import one_of_each, sample, seed_record

SHARD = "train-000000"


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for record in one_of_each("a/b.c"):
        one, two = Layer(tmp_path / "one", record.kind), Layer(tmp_path / "two", record.kind)
        rows = [write_shard(layer, SHARD, [record]) for layer in (one, two)]
        assert one.tar_path(SHARD).read_bytes() == two.tar_path(SHARD).read_bytes()
        assert one.manifest_path(SHARD).read_bytes() == two.manifest_path(SHARD).read_bytes()
        assert rows[0] == rows[1] == one.manifest_entry(SHARD)
        again = write_shard(one, SHARD, [record])
        assert again == rows[0]


def test_row_tells_size_hash_facts_and_missing(tmp_path: Path) -> None:
    layer = Layer(tmp_path, "sample")
    write_shard(layer, SHARD, [sample("a", position=4), Missing(key="b", reason="gone"), sample("c", masked=False)])
    row, data = layer.manifest_entry(SHARD), layer.tar_path(SHARD).read_bytes()
    assert (row.num_bytes, row.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert row.missing == (Missing(key="b", reason="gone"),)
    assert [entry.key for entry in row.entries] == ["a", "c"] and row.count == 2
    metadata = {"classes": [2, 5], "unknown": "3", "size": [13, 19], "position": 4, "has_mask": True}
    assert row.entries[0].metadata == {**metadata, "mask_values": "0-6"}
    assert "mask_values" not in row.entries[1].metadata
    assert row.entries[1].metadata["has_mask"] is False


def test_what_a_source_noticed_stands_in_the_row_and_not_in_the_tar(tmp_path: Path) -> None:
    with_notes, without = Layer(tmp_path / "a", "sample"), Layer(tmp_path / "b", "sample")
    write_shard(with_notes, SHARD, [replace(sample("a"), notes={"objects": 2})])
    write_shard(without, SHARD, [sample("a")])
    assert with_notes.tar_path(SHARD).read_bytes() == without.tar_path(SHARD).read_bytes()
    assert with_notes.manifest_entry(SHARD).entries[0].metadata["notes"] == {"objects": 2}
    assert "notes" not in without.manifest_entry(SHARD).entries[0].metadata


def test_disputed_pixels_stand_in_the_row_and_not_in_the_tar(tmp_path: Path) -> None:
    mask, confidence = np.full((5, 7), 255, np.uint8), np.zeros((2, 2), np.uint8)
    label = PseudoLabel(key="a", mask=mask, confidence=confidence)
    counted, without = Layer(tmp_path / "a", "pseudo_label"), Layer(tmp_path / "b", "pseudo_label")
    write_shard(counted, SHARD, [replace(label, disputed=3)])
    write_shard(without, SHARD, [label])
    assert counted.tar_path(SHARD).read_bytes() == without.tar_path(SHARD).read_bytes()
    assert counted.manifest_entry(SHARD).entries[0].metadata == {"disputed": 3, "size": [5, 7]}
    assert without.manifest_entry(SHARD).entries[0].metadata == {}
    measured = Layer(tmp_path / "c", "pseudo_label")
    write_shard(measured, SHARD, [replace(label, disputed=3, agreement=0.25)])
    assert measured.tar_path(SHARD).read_bytes() == without.tar_path(SHARD).read_bytes()
    assert measured.manifest_entry(SHARD).entries.metadata("agreement") == [0.25]


def test_headers_carry_no_time_and_no_user(tmp_path: Path) -> None:
    layer = Layer(tmp_path, "seed")
    write_shard(layer, SHARD, [seed_record("a")])
    with tarfile.open(layer.tar_path(SHARD)) as tar:
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in tar} == {(0, 0, 0, "wsss")}


@pytest.mark.parametrize("num_before", [0, 3])
def test_nothing_is_left_where_the_records_raise(tmp_path: Path, num_before: int) -> None:
    def records() -> Iterator[Record]:
        yield from (seed_record(f"k{number}") for number in range(num_before))
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_shard(Layer(tmp_path, "seed"), SHARD, records())
    assert list(tmp_path.iterdir()) == []


def test_a_finished_shard_survives_a_failed_rewrite(tmp_path: Path) -> None:
    layer = Layer(tmp_path, "seed")
    write_shard(layer, SHARD, [seed_record("a")])
    before = layer.tar_path(SHARD).read_bytes()
    with pytest.raises(ValueError, match="'b' appears twice in train-000000; keys must be unique"):
        write_shard(layer, SHARD, [seed_record("b"), Missing(key="b", reason="twice")])
    assert layer.tar_path(SHARD).read_bytes() == before and layer.is_finished(SHARD)


def test_record_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds SeedRecord records, got Sample"):
        write_shard(Layer(tmp_path, "seed"), SHARD, [sample("a")])
    assert list(tmp_path.iterdir()) == []


def test_what_computed_a_shard_stands_in_its_row_and_in_the_index(tmp_path: Path) -> None:
    layer, shards = Layer(tmp_path, "seed"), ["train-000000", "train-000001", "train-000002"]
    for shard, made_on in zip(
        shards, ["CPU AVX2, 1 thread", "CPU AVX512, 1 thread", "CPU AVX2, 1 thread"], strict=True
    ):
        write_shard(layer, shard, [seed_record(shard)], made_on=made_on)
    layer.complete(shards)
    assert layer.manifest_entry("train-000001").made_on == "CPU AVX512, 1 thread"
    assert layer.made_on() == {"CPU AVX2, 1 thread": 2, "CPU AVX512, 1 thread": 1}
    # The records' bytes are the same wherever they were computed; only the row tells.
    before = layer.tar_path(shards[0]).read_bytes()
    write_shard(layer, shards[0], [seed_record(shards[0])])
    assert layer.tar_path(shards[0]).read_bytes() == before and layer.manifest_entry(shards[0]).made_on == ""


def test_a_thread_that_writes_behind_writes_the_same_bytes(tmp_path: Path) -> None:
    records = [*(seed_record(f"k{n}", n) for n in range(11)), Missing(key="b", reason="gone"), seed_record("z")]
    layers = [Layer(tmp_path / name, "seed") for name in ("one", "other")]
    waiting = Waiting()
    rows = [write_shard(layers[0], SHARD, records), write_shard(layers[1], SHARD, records, behind=3, waiting=waiting)]
    assert rows[0] == rows[1] and waiting.takes == 13
    assert layers[0].tar_path(SHARD).read_bytes() == layers[1].tar_path(SHARD).read_bytes()
    assert layers[0].manifest_path(SHARD).read_bytes() == layers[1].manifest_path(SHARD).read_bytes()


@pytest.mark.parametrize("repeated", [0, 9])
def test_nothing_is_left_where_the_thread_that_writes_behind_raises(tmp_path: Path, repeated: int) -> None:
    layer = Layer(tmp_path, "seed")
    records = [*(seed_record(f"k{n}") for n in range(10)), seed_record(f"k{repeated}")]
    with pytest.raises(ValueError, match=f"key 'k{repeated}' appears twice"):
        write_shard(layer, SHARD, records, behind=3)
    assert not list(tmp_path.glob("*")) and not list(tmp_path.glob(".*"))
