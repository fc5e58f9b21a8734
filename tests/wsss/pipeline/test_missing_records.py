"""A split must not be lost among the images of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from shards.records import Missing, Record
from tests.wsss.layers import sample, samples_of
from wsss.contract.stage import Instance, Outcome
from wsss.pipeline.missing_records import TooManyMissingError, missing_in_words, replaced_notes, require_records


def made(folder: Path, **splits: tuple[int, int]) -> Instance:
    """Samples of these splits: how many there are, and how many are missing."""
    shards: Mapping[str, list[Record | Missing]] = {
        f"{split}-000000": [
            *(sample(f"{split}{n}", None, position=n) for n in range(there)),
            *(Missing(key=f"{split}-lost{n}", reason="unreadable") for n in range(missing)),
        ]
        for split, (there, missing) in splits.items()
    }
    return samples_of(folder, shards)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": (95, 0), "val": (0, 3)}, "3 of 3 records of split 'val' missing"),
        ({"train": (95, 0), "val": (8, 2)}, "2 of 10 records of split 'val' missing"),
        ({"train": (10, 5), "val": (9, 0)}, "5 of 15 records of split 'train' missing"),
        ({"train": (0, 2)}, "2 of 2 records of split 'train' missing"),
    ],
)
def test_a_split_that_lacks_too_much_is_named(tmp_path: Path, splits: dict[str, tuple[int, int]], message: str) -> None:
    instance = made(tmp_path, **splits)
    with pytest.raises(TooManyMissingError, match=f"build_shards: {message}, more than runtime.max_missing = 0.05"):
        require_records(instance, most=0.05)


def test_one_bad_image_of_a_small_split_is_not_too_many(tmp_path: Path) -> None:
    instance = made(tmp_path, train=(95, 0), val=(4, 1))
    require_records(instance, most=0.05)
    assert missing_in_words(instance) == "1 record:\n  val-lost0: unreadable"


def test_all_may_be_allowed(tmp_path: Path) -> None:
    require_records(made(tmp_path, train=(95, 0), val=(0, 3)), most=1.0)


def test_replaced_training_examples_are_noted() -> None:
    history: list[dict[str, object]] = [{"epoch": 1}, {"epoch": 2, "unreadable": 2}, {"epoch": 3, "unreadable": 1}]
    assert replaced_notes(Outcome(tables={"history": history}), Path("runs/store/train-1")) == [
        "3 examples could not be read and were replaced by others (2 of epoch 2, 1 of epoch 3); "
        "runs/store/train-1/faults.rank-*.txt names each"
    ]
    assert replaced_notes(Outcome(tables={"history": history[:1]}), Path()) == []
