"""A sweep as a job: a host is cut off, the driver is killed, and the job is submitted again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.faults.bench import BEFORE, Bench
from tests.faults.host_faults import NOTICED
from tests.hosts.mlflow_from_outside import mlflow_tunnel
from tests.hosts.runs import Runs, wait_until
from tests.hosts.work import workers

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(900)]
FILE = "tests/hosts/thresholds.toml"
TRIAL, NUM_TRIALS = "ray::run_trial", 6
DRIVER = "wsss sweep"


class Seen:
    """What was seen while the sweep ran: when every stage instance was finished, and where trials were at work."""

    def __init__(self, bench: Bench, runs: Runs) -> None:
        self._bench, self._runs = bench, runs
        self.finished: dict[str, set[int]] = {}
        self.hosts: set[str] = set()

    def look(self) -> None:
        for path in (self._runs.folder / "store").glob("*/run.json"):
            with suppress(FileNotFoundError):
                self.finished.setdefault(path.parent.name, set()).add(path.stat().st_mtime_ns)
        self.hosts |= {worker.host.name for worker in workers(self._bench.hosts, TRIAL)}


@contextmanager
def watched(bench: Bench, runs: Runs) -> Iterator[Seen]:
    """Look every half second."""
    seen, ended = Seen(bench, runs), threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            seen.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        seen.look()


def test_a_sweep_goes_on_without_a_host_and_after_its_driver(bench: Bench) -> None:
    runs = Runs(bench.cluster.lab.shared, "sweep")
    runs.copy_from(bench.reference.wait(), BEFORE["make_seeds"])
    command = f"wsss sweep {bench.home}/wsss/{FILE} --on auto --set runtime.runs={runs.inside}"
    with watched(bench, runs) as seen:
        job = bench.cluster.submit(command, name="sweep")
        wait_until(lambda: len(seen.hosts) == 2, "a trial on each host", timeout=240, pause=0.5)
        host = workers(bench.hosts, TRIAL)[0].host
        host.cut()
        try:
            bench.cluster.wait_for_nodes(len(bench.hosts), timeout=NOTICED)
            ended = _ended(job.logs())
            wait_until(lambda: _ended(job.logs()) > ended, "a trial without that host", timeout=240, pause=1)
            for driver in bench.cluster.head.find(DRIVER):
                with suppress(ProcessLookupError):
                    bench.cluster.head.kill(driver)
            assert job.wait(timeout=120) == "FAILED"
            again = bench.cluster.submit(command, name="sweep-again")
        finally:
            host.mend()
        again.succeeds(timeout=420)
    content = json.loads((runs.folder / "thresholds" / "sweep.json").read_text())
    trials = [json.dumps(trial["values"], sort_keys=True) for trial in content["trials"]]
    assert len(trials) == len(set(trials)) == NUM_TRIALS
    assert [trial["state"] for trial in content["trials"]] == ["done"] * NUM_TRIALS
    twice = [name for name, times in seen.finished.items() if len(times) > 1]
    assert not twice, f"executed twice: {twice}"
    made = [name.rpartition("-")[0] for name in seen.finished]
    assert [made.count(kind) for kind in ("make_seeds", "train_segmenter", "predict")] == [3, 3, NUM_TRIALS]
    with mlflow_tunnel(bench.cluster) as mlflow:
        own = [run for run in mlflow.runs() if run.tags.get("wsss.sweep") == "thresholds"]
    pipelines = [run.tags["wsss.pipeline"] for run in own if run.tags["wsss.kind"] == "pipeline"]
    assert len(pipelines) == len(set(pipelines)) == 1 + NUM_TRIALS
    assert sum(run.tags["wsss.kind"] == "sweep" for run in own) == 1
    bench.comes_back()


def _ended(log: str) -> int:
    """Number of trials that a log says are done."""
    return log.count(f" of {NUM_TRIALS}: mean IoU")
