"""How often a training is started again: deaths count, preemptions only without progress, and so do failed starts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2.api.exceptions import ControllerError, PreemptionError
from ray.train.v2.api.preemption import PreemptionInfo

from cluster.failures.death_cause import PREEMPTED
from cluster.ranks.rank_watch import RankWatch, StartWatch
from cluster.training.fit_files import RankError
from tests.cluster.failures.test_death_cause import actor_error
from wsss.contract.failure import Failure

GONE = {0: actor_error("The actor died because its node has died", preempted=True)}
KILLED = {0: actor_error("Worker exits unexpectedly: connection error code 2")}


def at_step(folder: Path, step: int) -> None:
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "latest.json").write_text(json.dumps({"step": step, "files": {}}))


def causes(folder: Path) -> list[str]:
    return [json.loads(path.read_bytes())["cause"] for path in sorted(folder.glob("restart-*.json"))]


def watch_of(folder: Path, *restarts: Failure) -> RankWatch:
    return RankWatch(folder, folder, instance="tiny", retries=2, restarts=restarts)


def test_preemptions_with_progress_between_them_are_not_limited(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    for step in range(6):
        at_step(tmp_path, step)
        watch.after_exception(None, GONE)
    assert causes(tmp_path) == [PREEMPTED] * 6


def test_preemptions_without_progress_are_limited_like_deaths(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    at_step(tmp_path, 4)
    for _ in range(3):  # the first has no other before it
        watch.after_exception(None, GONE)
    with pytest.raises(RankError, match=PREEMPTED):
        watch.after_exception(None, GONE)


def test_deaths_are_limited_also_across_a_hand_over(tmp_path: Path) -> None:
    before = [Failure(message="x", cause="killed"), Failure(message="y", cause=PREEMPTED)]
    watch = watch_of(tmp_path, *before)
    watch.after_exception(None, KILLED)
    assert [path.name for path in tmp_path.glob("restart-*")] == ["restart-003-rank.json"]
    with pytest.raises(RankError):
        watch.after_exception(None, KILLED)


def test_starts_with_smaller_micro_batches_are_not_limited(tmp_path: Path) -> None:
    """Halving 16 examples until one is left is four starts, more than the retries."""
    watch = watch_of(tmp_path)
    for examples in (8, 4, 2, 1):
        (tmp_path / "micro_batch.json").write_text(json.dumps({"examples": examples}))
        watch.after_exception(None, KILLED)
    for _ in range(2):
        watch.after_exception(None, KILLED)
    with pytest.raises(RankError):
        watch.after_exception(None, KILLED)


def state(error: Any) -> SimpleNamespace:
    return SimpleNamespace(training_failed_error=error)


def test_starts_that_fail_are_reported_and_limited(tmp_path: Path) -> None:
    watch = StartWatch(tmp_path, instance="tiny", retries=2, number=0)
    failed = state(ControllerError(WorkerGroupStartupFailedError("no such image")))
    watch.after_controller_state_update(None, SimpleNamespace())
    for _ in range(2):
        watch.after_controller_state_update(None, failed)
    with pytest.raises(RankError, match=r"tiny: training failed: .*the ranks could not be started: no such image"):
        watch.after_controller_state_update(None, failed)
    assert len(causes(tmp_path)) == 2


def test_a_preemption_that_ray_waited_for_is_reported(tmp_path: Path) -> None:
    info = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a": [0]})
    watch = StartWatch(tmp_path, instance="tiny", retries=0, number=0)
    watch.after_controller_state_update(None, state(PreemptionError(preemption_info=info, drain_timed_out=True)))
    assert causes(tmp_path) == [PREEMPTED]
