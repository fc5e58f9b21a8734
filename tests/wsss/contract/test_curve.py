"""The file of a training's curve: read while it is written, cut back where a training resumes."""

from __future__ import annotations

import math
from pathlib import Path

from wsss.contract.curve import append_point, curve_files, read_points, remove_points_after


def test_points_come_back_in_their_order_and_from_any_number_on(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    for step in (2, 4, 6):
        append_point(path, step=step, values={"train/loss": step / 2, "train/odd": math.nan})
    assert [(point.step, point.values) for point in read_points(path)] == [
        (2, {"train/loss": 1.0}), (4, {"train/loss": 2.0}), (6, {"train/loss": 3.0}),
    ]  # fmt: skip
    assert [point.step for point in read_points(path, first=2)] == [6]
    assert read_points(path, first=3) == [] and read_points(tmp_path / "none.jsonl") == []


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    append_point(path, step=1, values={"a": 1.0})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-3])
    assert [point.step for point in read_points(path)] == [1]


def test_a_resumed_training_writes_the_same_point_numbers_again(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    for step in range(1, 6):
        append_point(path, step=step, values={"a": float(step)})
    sent = len(read_points(path))
    remove_points_after(path, step=3)
    assert [point.step for point in read_points(path)] == [1, 2, 3]
    assert read_points(path, first=sent) == []
    for step in range(4, 8):
        append_point(path, step=step, values={"a": float(step)})
    assert [point.step for point in read_points(path, first=sent)] == [6, 7], "each step was sent once"


def test_files_of_a_training(tmp_path: Path) -> None:
    for name in ("system-b.jsonl", "curve.jsonl", "system-a.jsonl", "other.jsonl"):
        append_point(tmp_path / name, step=1, values={})
    assert [path.name for path in curve_files(tmp_path)] == ["curve.jsonl", "system-a.jsonl", "system-b.jsonl"]
    remove_points_after(tmp_path / "none.jsonl", step=1)
    assert not (tmp_path / "none.jsonl").exists()
