from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from shards.folds import Fold
from shards.layer import Layer
from shards.records import Missing, Record, SeedRecord
from tests.shards.example_records import assert_equal
from tests.wsss.layers import sample, write_layer
from wsss.data.joined_records import JoinedRecords

KEYS = {"train-000000": ["a", "b", "c"], "train-000001": ["d", "e"], "val-000000": ["v"], "train-000002": ["f", "g"]}
ALL = list("abcdefg")


def label(key: str) -> np.ndarray:
    return np.full((4, 4), 1 + ord(key) % 5, np.uint8)


@pytest.fixture
def layers(tmp_path: Path) -> dict[str, Layer]:
    """Seeds lack b, and the whole shard 2."""
    samples = {shard: [sample(key, label(key)) for key in keys] for shard, keys in KEYS.items()}
    seeds: dict[str, list[Record | Missing]] = {
        "train-000000": [*(SeedRecord(key=k, label=label(k)) for k in "ac"), Missing(key="b", reason="no class")],
        "train-000001": [SeedRecord(key=k, label=label(k)) for k in "de"],
    }
    return {
        "samples": write_layer(tmp_path / "samples", "sample", samples),
        "seeds": write_layer(tmp_path / "seeds", "seed", seeds),
    }


def keys_in_order(records: JoinedRecords, epoch: int) -> list[str]:
    return [records.sample(int(index)).key for index in records.order(epoch)]


def test_records_that_all_layers_hold(layers: dict[str, Layer]) -> None:
    records = JoinedRecords(layers, split="train", seed=0)
    assert len(records) == 4
    for index, key in enumerate("acde"):
        assert records.sample(index).key == key
        assert_equal(records.record(index, "seeds"), SeedRecord(key=key, label=label(key)))
    assert records.classes() == [[1 + ord(key) % 5] for key in "acde"]
    assert len(JoinedRecords({"samples": layers["samples"]}, split="val", seed=0)) == 1


def test_every_record_once_an_epoch_in_an_order_of_its_own(layers: dict[str, Layer]) -> None:
    records = JoinedRecords({"samples": layers["samples"]}, split="train", seed=3)
    orders = [keys_in_order(records, epoch) for epoch in range(4)]
    assert all(sorted(order) == ALL for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    again = JoinedRecords({"samples": layers["samples"]}, split="train", seed=3)
    assert [keys_in_order(again, epoch) for epoch in range(4)] == orders
    other = JoinedRecords({"samples": layers["samples"]}, split="train", seed=4)
    assert [keys_in_order(other, epoch) for epoch in range(4)] != orders


def test_factors_repeat_the_records_they_are_given_for(layers: dict[str, Layer]) -> None:
    records = JoinedRecords({"samples": layers["samples"]}, split="train", seed=3)
    records.repeat(np.array([1, 1, 1, 3.0, 1, 1.5, 1]))
    counts = Counter(key for epoch in range(200) for key in keys_in_order(records, epoch))
    assert {key: counts[key] for key in "abceg"} == dict.fromkeys("abceg", 200)
    assert counts["d"] == 600
    assert 260 < counts["f"] < 340
    order = keys_in_order(records, 0)
    places = [place for place, key in enumerate(order) if key == "d"]
    assert any(b - a > 1 for a, b in pairwise(places)), "repeated records are spread"


@pytest.mark.parametrize("both", [False, True])
def test_a_loaders_process_is_sent_no_rows_and_reads_the_same(layers: dict[str, Layer], both: bool) -> None:
    records = JoinedRecords(layers if both else {"samples": layers["samples"]}, split="train", seed=3)
    records.repeat(np.linspace(0.0, 2.0, len(records)))
    found = [records.sample(index) for index in range(len(records))]
    sent = copy.copy(records)  # goes through __getstate__, as a loader's process does
    assert sent._entries == {} and records._entries
    for index, sample_there in enumerate(found):
        assert_equal(sent.sample(index), sample_there)
        assert sent.name_of(index) == records.name_of(index)
    for epoch in range(5):
        assert records.num_draws(epoch) == len(records.order(epoch))
        np.testing.assert_array_equal(sent.order(epoch), records.order(epoch))


def test_a_filter_on_keys_leaves_the_rest_in_order(layers: dict[str, Layer]) -> None:
    records = JoinedRecords({"samples": layers["samples"]}, split="train", seed=3, keep=lambda key: key in "bdg")
    assert [records.sample(index).key for index in range(len(records))] == ["b", "d", "g"]
    assert records.classes() == [[1 + ord(key) % 5] for key in "bdg"]


@pytest.mark.parametrize(
    ("max_shards", "learned"), [(None, ("de", "abcfg")), (2, ("de", "abc")), (1, ("", "abc"))], ids=str
)
def test_the_first_shards_of_cross_fitting_are_those_of_all_folds(
    layers: dict[str, Layer], max_shards: int | None, learned: tuple[str, str]
) -> None:
    """As for the plan and the checks: of the first two shards, each of two networks learns one."""
    for number, keys in enumerate(learned, start=1):
        samples = replace(layers["samples"], without=Fold(number, 2))
        records = JoinedRecords({"samples": samples}, split="train", seed=0, max_shards=max_shards)
        assert {records.sample(index).key for index in range(len(records))} == set(keys)
