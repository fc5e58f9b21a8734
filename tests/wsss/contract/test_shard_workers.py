"""Threads beside the one that computes, as an actor with a GPU has them: the same records in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.layer import Layer
from shards.records import Missing, Record, Sample, SeedRecord
from shards.set_aside import setting_aside
from shards.work_notes import noted
from shards.writer import write_shard
from tests.shards.example_records import sample
from wsss.contract.batch_parts import BatchParts
from wsss.contract.device import decode_beside
from wsss.contract.shard_measures import begin_measures
from wsss.contract.shard_workers import work_per_group, work_per_record

SHARD = "train-000000"


@pytest.fixture(autouse=True)
def _without_threads_afterwards() -> Iterator[None]:
    yield
    decode_beside(0)


@pytest.fixture
def layers(tmp_path: Path) -> dict[str, Layer]:
    layer = Layer(tmp_path, Sample.kind)
    records: list[Sample | Missing] = [sample(f"k{n}", n) for n in range(23)]
    records[5] = replace(sample("k5", 5), encoded=b"no image")
    write_shard(layer, SHARD, [*records, Missing(key="gone", reason="torn")])
    return {"samples": layer}


def leave_out(joined: Mapping[str, Record], shard: str) -> Missing | None:
    return Missing(key="k7", reason="of another class", left_out=True) if joined["samples"].key == "k7" else None


def one_by_one(layers: dict[str, Layer]) -> list[Record | Missing]:
    def make(joined: Mapping[str, Record]) -> Record:
        one = joined["samples"]
        assert isinstance(one, Sample) and noted()["sample"] == one.key
        return SeedRecord(key=one.key, label=one.image[..., 0])

    return list(work_per_record(layers, make, leave_out=leave_out)(SHARD))


def in_groups(layers: dict[str, Layer]) -> list[Record | Missing]:
    def make(together: Sequence[Mapping[str, Record]], images: Sequence[np.ndarray]) -> list[Record]:
        if len(together) > 2:
            raise torch.OutOfMemoryError
        keys = [joined["samples"].key for joined in together]
        return [SeedRecord(key=key, label=image[..., 0]) for key, image in zip(keys, images, strict=True)]

    parts = BatchParts(3, setting="batch_images")
    return list(work_per_group(layers, make, parts=parts, leave_out=leave_out)(SHARD))


def labels(records: list[Record | Missing]) -> list[tuple[str, object]]:
    return [
        (one.key, one.reason if isinstance(one, Missing) else one.label.tolist())  # type: ignore[union-attr]
        for one in records
    ]


@pytest.mark.parametrize("work", [one_by_one, in_groups])
def test_the_records_are_those_without_threads(work: object, layers: dict[str, Layer]) -> None:
    assert callable(work)
    begin_measures()
    alone = labels(work(layers))
    assert len(alone) == 24 and dict(alone)["k7"] == "of another class" and "k5" in dict(alone)
    decode_beside(3)
    measured = begin_measures()
    assert labels(work(layers)) == alone
    assert measured.reading.takes == 25, "24 records and the end"
    decode_beside(0)
    measured = begin_measures()
    work(layers)
    assert measured.reading.takes == 0, "on CPUs nothing is read ahead"


def test_images_are_decoded_ahead_only_where_they_are_read(layers: dict[str, Layer]) -> None:
    decode_beside(1)
    decoded: dict[bool, list[bool]] = {}

    def make(reads_images: bool, joined: Mapping[str, Record]) -> Record:
        one = joined["samples"]
        assert isinstance(one, Sample)
        decoded.setdefault(reads_images, []).append(one.decoded is not None)
        return SeedRecord(key=one.key, label=np.zeros(one.size, np.uint8))

    for reads_images in (True, False):
        begin_measures()
        list(work_per_record(layers, partial(make, reads_images), reads_images=reads_images)(SHARD))
    assert decoded[False] == [False] * 23
    assert decoded[True] == [n != 5 for n in range(23)], "what does not decode is left as it is"


def test_a_search_for_the_record_that_ends_the_process_reads_nothing_ahead(layers: dict[str, Layer]) -> None:
    decode_beside(2)
    measured = begin_measures()
    with setting_aside({"k3": "it ended the process"}, alone=True):
        keys = [one.key for one in one_by_one(layers)]
    assert measured.reading.takes == 0 and "k3" not in keys and len(keys) == 23


def test_a_decoded_image_is_that_of_the_bytes_and_is_not_stored(tmp_path: Path) -> None:
    one = sample("a", 3)
    ahead = one.with_image()
    assert ahead.decoded is not None and not ahead.decoded.flags.writeable
    np.testing.assert_array_equal(ahead.image, one.image)
    np.testing.assert_array_equal(replace(ahead, classes=()).image, one.image)
    rows = [write_shard(Layer(tmp_path / name, Sample.kind), SHARD, [r]) for name, r in (("a", one), ("b", ahead))]
    assert rows[0] == rows[1]
