from __future__ import annotations

from pathlib import Path

import pytest

from shards.folds import Fold, fold_of
from shards.layer import Layer, shard_name, split_of
from shards.writer import write_shard
from tests.shards.example_records import seed_record

TRAIN = [shard_name("train", number) for number in range(7)]
VAL = [shard_name("val", number) for number in range(3)]


def test_folds_of_shards() -> None:
    assert [fold_of(shard, num_folds=3) for shard in TRAIN] == [1, 2, 3, 1, 2, 3, 1]
    assert [fold_of(shard, num_folds=2) for shard in VAL] == [1, 2, 1]


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_every_training_shard_is_left_out_once(folds: int) -> None:
    parts = [[shard for shard in TRAIN if Fold(k, folds).leaves_out(shard)] for k in range(1, folds + 1)]
    assert sorted(shard for part in parts for shard in part) == TRAIN and all(parts)
    for number, part in enumerate(parts, start=1):
        assert {fold_of(shard, num_folds=folds) for shard in part} == {number}
        assert not any(Fold(number, folds).leaves_out(shard) for shard in VAL)


def test_a_view_of_a_layer_lacks_only_the_training_shards_of_the_fold(tmp_path: Path) -> None:
    made = Layer(tmp_path, "seed")
    for number, shard in enumerate([*TRAIN, *VAL]):
        write_shard(made, shard, [seed_record(f"{shard}-{n}") for n in range(number + 1)])
    made.complete([*TRAIN, *VAL])
    view = Layer(tmp_path, "seed", None, Fold(2, 3))
    kept = [TRAIN[n] for n in (0, 2, 3, 5, 6)]
    assert view.shards() == [*kept, *VAL]
    assert view.counts() == {"train": 1 + 3 + 4 + 6 + 7, "val": 8 + 9 + 10, "missing": 0}
    assert [row.shard for row in view.manifest_entries("train")] == kept
    assert view.is_complete([*TRAIN, *VAL]) and not view.is_complete([*kept, *VAL]), "the layer itself is complete"
    assert {split_of(shard) for shard in view.shards()} == {"train", "val"}
