"""What a fault needs: the running cluster, a reference to compare with, and jobs that are under way.

A job of a fault runs the code that is installed on the nodes. It starts with the finished instances of the reference
before the stage that is hurt, so that a fault costs about a minute.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts.dashboard import ENDED, Job
from tests.hosts.host import Host
from tests.hosts.ray_cluster import RayCluster
from tests.hosts.runs import RECIPE, Reference, Runs, differences
from tests.hosts.work import RANK, workers

TRAINING = "train_classifier"
CAMS = "make_cams"
BEFORE = {
    TRAINING: ("build_shards",),
    CAMS: ("build_shards", TRAINING),
    "make_seeds": ("build_shards", TRAINING, CAMS),
    "evaluate": ("build_shards", TRAINING, CAMS, "make_seeds"),
}
"""Stage -> the instances that its job finds finished. Of two instances of one kind, the first is meant."""
NAMES = {"evaluate": "evaluate_seeds"}
LIMIT = 420.0
"""Seconds within which a job must end after its fault."""


@dataclass
class Work:
    """A job at work on one stage."""

    bench: Bench
    kind: str
    runs: Runs
    job: Job
    command: str
    since: float = field(default_factory=time.monotonic)
    reference: Reference | None = None
    """What it must give, if not the bench's reference."""
    stamps: dict[str, int] = field(default_factory=dict)
    ranks: set[int] = field(default_factory=set)
    """Processes of the ranks at the fault."""
    said: int = 0
    """Characters of the driver's log at the fault."""
    resumed: float = 0.0
    """Seconds from the fault to the first new step; 0 if that was not measured."""

    def note_done(self) -> None:
        """Remember which shards are done, the ranks, and the time: the fault comes now."""
        self.ranks = {rank.process.pid for rank in workers(self.bench.hosts, RANK)}
        self.stamps = self._stamps()
        self.said = len(self.job.logs())
        self.since = time.monotonic()

    def seconds(self) -> float:
        """Since the fault."""
        return time.monotonic() - self.since

    def notices_a_loss(self, *, timeout: float = 120.0) -> None:
        """Wait until the driver has said since the fault that something is lost, or has ended: a host that comes back
        earlier may finish the training as if nothing had happened."""
        end = time.monotonic() + timeout
        while "lost" not in self.job.logs()[self.said :] and self.job.status() not in ENDED:
            assert time.monotonic() < end, f"the driver noticed nothing:\n{self.job.logs()[-3000:]}"
            time.sleep(0.5)

    def ends_like_the_reference(self, job: Job | None = None, *, limit: float = LIMIT) -> str:
        """Its log, after the job succeeded with the bytes of the reference, and no finished shard was made again."""
        log = (job or self.job).succeeds(timeout=limit)
        reference = self.reference or self.bench.reference
        wrong = differences(self.runs.folder, reference.wait(), kinds=[self.kind])
        assert not wrong, "; ".join(wrong)
        now = self._stamps()
        again = [shard for shard, stamp in self.stamps.items() if now[shard] != stamp]
        assert not again, f"made twice: {', '.join(again)}"
        return log

    def submit_again(self) -> Job:
        self.job = self.bench.cluster.submit(self.command, name=f"{self.runs.folder.name}-again")
        return self.job

    def _stamps(self) -> dict[str, int]:
        folder = self.runs.instance(self.kind)
        return {tar.stem: tar.stat().st_mtime_ns for tar in folder.glob("[!.]*.tar")} if folder is not None else {}


@dataclass
class Bench:
    """The cluster and the reference."""

    cluster: RayCluster
    reference: Reference
    work: list[Work] = field(default_factory=list)

    @property
    def hosts(self) -> list[Host]:
        return self.cluster.workers

    def start(self, name: str, kind: str, *overrides: str, program: str = "wsss", last: str = "") -> Work:
        """Submit a job for one stage, or from that to the instance `last`."""
        runs = Runs(self.cluster.lab.shared, name)
        runs.copy_from(self.reference.wait(), BEFORE[kind])
        first = NAMES.get(kind, kind)
        command = self.command(runs, *overrides, first=first, last=last or first, program=program)
        job = self.cluster.submit(command, name=name.replace("/", "-"))
        work = Work(self, kind, runs, job, command)
        self.work.append(work)
        return work

    @property
    def home(self) -> Path:
        """The user's home folder on every host."""
        return Path.home()

    def first_record(self, kind: str, *, nth_shard: int) -> tuple[str, str]:
        """The key of the first record of a training shard, and the shard."""
        (row,) = (self.reference.wait() / "store").glob(f"{kind}-*/train-{nth_shard:06d}.json")
        return str(json.loads(row.read_text())["keys"][0]), row.stem

    def command(self, runs: Runs, *overrides: str, first: str, last: str, program: str = "wsss") -> str:
        settings = [
            f"runtime.runs={runs.inside}",
            "runtime.num_actors=2",
            "runtime.placement=STRICT_SPREAD",
            *overrides,
        ]
        words = [word for setting in settings for word in ("--set", setting)]
        recipe = f"{self.home}/wsss/{RECIPE}"
        return " ".join([program, "run", recipe, "--on auto", "--from", first, "--to", last, *words])

    def comes_back(self, *, timeout: float = 300.0) -> float:
        """Wait until all hosts are nodes again; the seconds that it took."""
        return self.cluster.wait_for_nodes(1 + len(self.hosts), timeout=timeout)

    def mend(self, *, failed: bool) -> None:
        """All hosts are nodes again before the next fault. After a failure, which may leave anything behind, and where
        a host does not come back, all of them are switched off and on, and the cluster is started anew."""
        if not failed:
            with suppress(AssertionError):
                self.comes_back(timeout=60)
                return
        self.cluster.start_anew()

    def stop_jobs(self) -> None:
        """After a fault that failed: nothing may be at work when the next one begins."""
        for work in self.work:
            if work.job.status() not in ("SUCCEEDED", "FAILED", "STOPPED"):
                work.job.stop()
        self.work.clear()
