"""Failures keep their cause: the line on the screen, `error.txt`, and what is counted, as of a user's command."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from tests.cluster.driver import run, start, wait_for
from tests.cluster.tiny import SHARDS

pytestmark = pytest.mark.slow

RAY = pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])
FIT = {"batch_size": 4, "num_epochs": 2, "learning_rate": 0.05, "checkpoint_every": 1}
SHARD, KEY = SHARDS[1], f"{SHARDS[1]}-b"


def facts(folder: Path) -> dict[str, str]:
    """The named lines of error.txt."""
    lines = (folder / "error.txt").read_text().splitlines()
    names = ("instance", "worker", "shard", "sample", "step", "host", "process", "cause")
    return {words[0]: words[1] for line in lines if len(words := line.split(maxsplit=1)) == 2 and words[0] in names}


def last_line(printed: str) -> str:
    return printed.strip().splitlines()[-1]


def restarts(printed: str) -> int:
    return int(json.loads(last_line(printed))["restarts"])


@pytest.mark.parametrize("place", ["local", RAY])
def test_exception_of_a_worker_names_shard_and_sample(place: str, tmp_path: Path) -> None:
    status, printed = run(tmp_path, "map", place=place, stage={"raise_in": SHARD})
    path = tmp_path / "error.txt"
    words = "ValueError: this shard holds nonsense"
    assert status == 1
    assert last_line(printed) == f"wsss: tiny: shard {SHARD}, sample {KEY}: {words}; see {path}"
    assert "Traceback" not in printed
    found = facts(tmp_path)
    assert (found["instance"], found["shard"], found["sample"], found["cause"]) == ("tiny", SHARD, KEY, "exception")
    assert int(found["process"]) > 0 and found["host"]
    assert 'raise ValueError("this shard holds nonsense")' in path.read_text(), "the worker's own traceback"
    status, printed = run(tmp_path, "map", place=place, debug=True, stage={"raise_in": SHARD})
    assert 'raise ValueError("this shard holds nonsense")' in printed and last_line(printed).endswith(str(path))
    status, printed = run(tmp_path, "map", place=place)
    assert (status, restarts(printed)) == (0, 0), printed
    assert not path.exists(), "it succeeded"


@pytest.mark.parametrize("place", ["local", pytest.param("ray", marks=[*RAY.marks, pytest.mark.extended])])
def test_exception_of_a_rank_names_rank_step_and_sample(place: str, tmp_path: Path) -> None:
    status, printed = run(tmp_path, "fit", place=place, stage={**FIT, "world_size": 2, "break_at": 3})
    assert status == 1
    assert ", sample train-000000: k3, step " in last_line(printed)
    assert last_line(printed).endswith(f": KeyError: 'no such class'; see {tmp_path / 'error.txt'}")
    found = facts(tmp_path)
    assert found["worker"] in ("rank 0", "rank 1") and found["step"] in "123" and found["sample"] == "train-000000: k3"
    assert 'raise KeyError("no such class")' in (tmp_path / "error.txt").read_text()
    assert (tmp_path / "starts.txt").read_text().count("start") == 2, "what would fail again is not tried again"


def test_example_that_a_loader_process_cannot_make_is_named(tmp_path: Path) -> None:
    status, printed = run(tmp_path, "fit", stage={**FIT, "loader_workers": 1, "break_at": 3})
    assert status == 1
    assert "sample train-000000: k3, step " in last_line(printed) and "KeyError: 'no such class'; see" in printed
    found = facts(tmp_path)
    assert (found["worker"], found["sample"], found["cause"]) == ("rank 0", "train-000000: k3", "exception")
    assert 'raise KeyError("no such class")' in (tmp_path / "error.txt").read_text()


@pytest.mark.extended
@pytest.mark.parametrize(
    ("how", "cause"),
    [("die", "killed by SIGKILL"), ("crash", "segmentation fault (SIGSEGV)")],
)
def test_loader_process_that_dies_says_at_which_example_and_the_training_resumes(
    how: str, cause: str, tmp_path: Path
) -> None:
    stage = {**FIT, "loader_workers": 1}
    status, printed = run(tmp_path / "killed", "fit", stage={**stage, how: True})
    assert status == 1
    assert f"a process of the loader ended: {cause}; see" in last_line(printed)
    found = facts(tmp_path / "killed")
    assert found["sample"].startswith("train-000000: k") and found["cause"] == cause
    for folder in ("killed", "whole"):
        status, printed = run(tmp_path / folder, "fit", stage=stage)
        assert status == 0, printed
        assert not list((tmp_path / folder).glob(".*.tmp"))
    weights = [(tmp_path / folder / "weights.safetensors").read_bytes() for folder in ("killed", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.extended
def test_training_with_loader_processes_whose_driver_is_killed_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    stage, folder = {**FIT, "loader_workers": 2}, tmp_path / "killed"
    process = start(folder, "fit", stage={**stage, "hang": True})
    wait_for(folder / "died", process)
    wait_for(folder / "checkpoints" / "latest.json", process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3, "a rank, and its loader's processes"
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    for path in (folder, tmp_path / "whole"):
        status, printed = run(path, "fit", stage=stage)
        assert status == 0, printed
        assert not list(path.glob(".*.tmp"))
    assert (folder / "starts.txt").read_text().count("start") == 2
    weights = [(path / "weights.safetensors").read_bytes() for path in (folder, tmp_path / "whole")]
    assert weights[0] == weights[1]


@pytest.mark.extended
@pytest.mark.parametrize(("how", "cause"), [("die", "killed by SIGKILL"), ("crash", "segmentation fault (SIGSEGV)")])
def test_rank_that_dies_says_how(how: str, cause: str, tmp_path: Path) -> None:
    stage = {**FIT, how: True}
    status, printed = run(tmp_path, "fit", stage=stage)
    assert status == 1
    assert "rank 0, " in last_line(printed) and f"a rank ended: {cause}; see " in last_line(printed)
    found = facts(tmp_path)
    assert (found["worker"], found["step"], found["cause"]) == ("rank 0", "5", cause)
    if how == "crash":
        assert "string_at" in (tmp_path / "error.txt").read_text(), "where it stood"
    status, printed = run(tmp_path, "fit", stage=stage)
    assert status == 0, printed
    assert not (tmp_path / "error.txt").exists() and not list(tmp_path.glob(".*.tmp"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("die_once_in", "killed, probably by SIGKILL"),
        pytest.param("crash_once_in", "segmentation fault (SIGSEGV)", marks=pytest.mark.extended),
    ],
)
def test_replaced_actor_is_reported_and_counted(how: str, cause: str, tmp_path: Path) -> None:
    status, printed = run(tmp_path, "map", place="ray", stage={how: SHARD})
    assert (status, restarts(printed)) == (0, 1), printed
    (line,) = [line for line in printed.splitlines() if "was replaced" in line]
    assert line.startswith("tiny: actor ") and line.endswith(f"was replaced at shard {SHARD}, sample {KEY}: {cause}")
    assert "(process " in line
    assert "A worker died or was killed" not in printed, "Ray's own page on it"
    assert json.loads((tmp_path / "run.json").read_bytes())["restarts"] == 1
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.ray
@pytest.mark.slow
def test_stuck_actor_is_replaced_and_its_shard_done_by_another(tmp_path: Path) -> None:
    settings = {"shard_seconds": 6.0, "num_actors": 1}
    status, printed = run(tmp_path, "map", place="ray", stage={"hang_once_in": SHARD}, runtime=settings)
    assert (status, restarts(printed)) == (0, 1), printed
    assert f"at shard {SHARD}, sample {KEY}: stuck: worked on one shard for more than runtime.shard_seconds" in printed
    assert sorted(path.stem for path in tmp_path.glob("*.tar")) == SHARDS


@pytest.mark.extended
@pytest.mark.ray
@pytest.mark.slow
def test_actor_that_is_always_stuck_ends_the_run_and_says_where_it_stood(tmp_path: Path) -> None:
    settings = {"shard_seconds": 4.0, "num_actors": 1}
    status, printed = run(tmp_path, "map", place="ray", stage={"hang_in": SHARD}, runtime=settings)
    assert status == 1
    assert "3 actors died while working on it; the last: stuck" in last_line(printed)
    assert last_line(printed).endswith(str(tmp_path / "error.txt"))
    assert "in hang" in (tmp_path / "error.txt").read_text(), "the stack of the actor that was stuck"


def test_stuck_work_in_this_process_ends_the_run(tmp_path: Path) -> None:
    status, printed = run(tmp_path, "map", stage={"hang_in": SHARD}, runtime={"shard_seconds": 1.0})
    assert status == 1
    assert f"shard {SHARD}, sample {KEY}: StuckError: the work on one shard takes longer than" in last_line(printed)
    assert "in hang" in (tmp_path / "error.txt").read_text()


@pytest.mark.extended
@pytest.mark.ray
@pytest.mark.slow
def test_restarted_training_is_reported_and_counted(tmp_path: Path) -> None:
    status, printed = run(tmp_path, "fit", place="ray", stage={**FIT, "crash": True})
    assert (status, restarts(printed)) == (0, 1), printed
    (line,) = [line for line in printed.splitlines() if "was replaced" in line]
    assert line.startswith("tiny: rank 0 (process ") and "step 5" in line
    assert line.endswith("a rank ended: segmentation fault (SIGSEGV)")
    assert json.loads((tmp_path / "run.json").read_bytes())["restarts"] == 1


@pytest.mark.extended
@pytest.mark.ray
@pytest.mark.slow
def test_training_that_dies_beyond_its_retries_says_how(tmp_path: Path) -> None:
    status, printed = run(tmp_path, "fit", place="ray", stage={**FIT, "crash": True}, runtime={"rank_retries": 0})
    assert status == 1
    assert "a rank ended: segmentation fault (SIGSEGV); see " in last_line(printed)
    assert facts(tmp_path)["cause"] == "segmentation fault (SIGSEGV)"
    assert "string_at" in (tmp_path / "error.txt").read_text()
