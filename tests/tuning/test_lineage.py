"""What led to two results, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tuning.drawn_results import node
from tuning.lineage import ABSENT, Ancestor, NoLineageError, align, differing_settings, read_lineage


def lineage(tmp_path: Path, tree: dict[str, Any]) -> Ancestor:
    (tmp_path / "settings.json").write_text(json.dumps(tree))
    return read_lineage(tmp_path)


def chain(threshold: float, *, digit: str, name: str = "make_seeds", **more: object) -> dict[str, Any]:
    samples = node("build_shards", "a", source="toy")
    seeds = node("make_seeds", digit, name=name, upstream={"samples": samples}, threshold=threshold, **more)
    return node("evaluate", digit, upstream={"records": seeds, "samples": samples}, title=name)


def test_instances_with_the_same_place_correspond_whatever_their_names(tmp_path: Path) -> None:
    a = lineage(tmp_path, chain(0.3, digit="1"))
    b = lineage(tmp_path, chain(0.4, digit="2", name="other_seeds", refine="crf"))
    aligned = align(a, b)
    assert [(one.name, one.is_same) for one in aligned] == [
        ("build_shards", True), ("make_seeds / other_seeds", False), ("evaluate", False),
    ]  # fmt: skip
    found = [(one.name, one.a, one.b) for one in differing_settings(aligned)]
    assert found == [
        ("make_seeds / other_seeds.threshold", 0.3, 0.4),
        ("make_seeds / other_seeds.refine", ABSENT, "crf"),
    ]


def test_an_instance_of_one_side_stands_alone_and_the_same_result_is_found_elsewhere(tmp_path: Path) -> None:
    a = lineage(tmp_path, chain(0.3, digit="1"))
    samples, seeds = chain(0.3, digit="1")["upstream"]["samples"], chain(0.3, digit="1")["upstream"]["records"]
    trained = node("train_segmenter", "7", upstream={"seeds": seeds}, num_epochs=3)
    predict = node("predict", "8", upstream={"samples": samples, "segmenter": trained}, flip=True)
    b = lineage(tmp_path, node("evaluate", "9", upstream={"records": predict, "samples": samples}))
    found = [(one.name, one.is_same, one.a is None) for one in align(a, b)]
    assert found == [
        ("build_shards", True, False), ("make_seeds", True, False), ("train_segmenter", False, True),
        ("predict", False, True), ("evaluate", False, False),
    ]  # fmt: skip


def test_a_lost_lineage_names_its_folder(tmp_path: Path) -> None:
    with pytest.raises(NoLineageError, match=rf"{tmp_path}/settings.json is gone or not readable.*--runs"):
        read_lineage(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(NoLineageError, match="KeyError"):
        read_lineage(tmp_path)
