"""A run on a disk that fills up: it says what it was writing, tries nothing in vain, and resumes to the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from cluster.tracking.tracker import MlflowTracker
from shards.records import RunRecord
from tests.cluster.driver import run
from tests.cluster.tiny import SHARDS
from tests.small_disk import small_disk
from wsss.contract.runtime import PipelineRecord

pytestmark = pytest.mark.slow

RAY = pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow, pytest.mark.extended])
MAP = {"big": 400_000}
FIT = {"batch_size": 4, "num_epochs": 1, "learning_rate": 1e-4, "checkpoint_every": 1, "wide": True}


def last_line(printed: str) -> str:
    return printed.strip().splitlines()[-1]


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


@pytest.mark.parametrize("place", ["local", RAY])
def test_shard(place: str, tmp_path: Path) -> None:
    assert run(tmp_path / "whole", "map", stage=MAP)[0] == 0
    with small_disk(tmp_path / "disk", size="1500k") as disk:
        folder = disk.path / "layer"
        status, printed = run(folder, "map", place=place, stage=MAP)
        assert status == 1
        line = last_line(printed)
        assert ": cannot write " in line and "(shard train-00000" in line and "no space is left on its disk" in line
        assert "the same command resumes from what is finished; see " in line
        assert "was replaced" not in printed, "no actor died, and the shard was tried once"
        assert "Traceback" in Path(line.rpartition(" ")[2]).read_text()
        assert 1 <= len(tars(folder)) < len(SHARDS)
        disk.remount("size=20m")
        status, printed = run(folder, "map", place=place, stage=MAP)
        assert status == 0, printed
        assert tars(folder) == tars(tmp_path / "whole")
        assert not (folder / "error.txt").exists()


@pytest.mark.extended
@pytest.mark.parametrize("place", ["local", RAY])
def test_checkpoint(place: str, tmp_path: Path) -> None:
    """The message names the disk, and no attempt is made that would meet the same."""
    assert run(tmp_path / "whole", "fit", stage=FIT)[0] == 0
    with small_disk(tmp_path / "disk", size="3m") as disk:
        folder = disk.path / "trained"
        status, printed = run(folder, "fit", place=place, stage=FIT)
        assert status == 1
        line = last_line(printed)
        path = f"{folder}/checkpoints/step-00000001.safetensors"
        assert f"cannot write {path} (the checkpoint of step 1): no space is left on its disk" in line
        assert "rank 0, step 1: " in line
        assert (folder / "starts.txt").read_text().count("start") == 1, "another attempt would meet the same"
        disk.remount("size=60m")
        status, printed = run(folder, "fit", place=place, stage=FIT)
        assert status == 0, printed
        assert (folder / "weights.safetensors").read_bytes() == (tmp_path / "whole/weights.safetensors").read_bytes()


def test_too_many_open_files(tmp_path: Path) -> None:
    status, printed = run(tmp_path, "map", stage={"open_files": True}, before=("prlimit", "--nofile=400:400"))
    assert status == 1
    assert "Too many open files" in last_line(printed) or "too many files open" in last_line(printed)
    assert last_line(printed).endswith(f"see {tmp_path / 'error.txt'}")
    assert "Traceback" in (tmp_path / "error.txt").read_text()
    assert run(tmp_path, "map")[0] == 0


def test_record_that_mlflow_cannot_store_waits_and_arrives(tmp_path: Path) -> None:
    record = RunRecord(
        recipe="r", instance="i", kind="k", fingerprint="f", settings={}, upstream={}, git_commit="unknown", metrics={}
    )
    printed: list[str] = []

    class Screen(Console):
        def print(self, *words: object, **options: object) -> None:
            printed.extend(str(word) for word in words)

    with small_disk(tmp_path / "disk", size="4m") as disk:
        disk.fill()
        tracker = MlflowTracker(uri="", runs=disk.path, console=Screen())
        tracker.stage_finished(PipelineRecord("r", "p"), record)
        assert len(printed) == 1
        assert printed[0].startswith(
            "a record for MLflow will be written by the next run of this recipe: cannot write "
        )
        assert "no space is left" in printed[0]
        disk.empty()
        disk.fill(leave=150_000)  # room for the record, none for the database
        tracker.stage_finished(PipelineRecord("r", "p"), record)
        assert len(printed) == 2 and "cannot be written to" in printed[1] and printed[1].endswith("outbox: 1")
        disk.empty()
        assert tracker.flush()
        assert not list((disk.path / "outbox").glob("*.json"))
