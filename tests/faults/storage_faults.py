"""Disks that are full, an object store that is full, a checkpoint that is half there."""

from __future__ import annotations

import json

from tests.faults.bench import CAMS, TRAINING, Bench, Work
from tests.faults.driver_faults import kill_driver
from tests.faults.worker_faults import first_new_step
from tests.hosts.runs import wait_until
from tests.hosts.work import frozen_actor, rank_past_checkpoint

HOG = """
import ray, time
ray.init(address='auto', log_to_driver=False)

@ray.remote(num_cpus=0)
class Hog:
    def fill(self):
        store = ray.cluster_resources()
        self.kept = []
        while len(self.kept) < 40:
            self.kept.append(ray.put(bytes(10_000_000)))
        return len(self.kept)

nodes = [node['NodeManagerAddress'] for node in ray.nodes() if node['Alive']]
hogs = [Hog.options(resources={f'node:{node}': 0.01}).remote() for node in nodes]
print('filled', ray.get([hog.fill.remote() for hog in hogs]), flush=True)
time.sleep(600)
"""
"""Puts twice as many bytes into the object store of every node as it holds."""


def disk_full_in_a_layer(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """No room for the next shard: the job fails, names the disk, tries nothing again; with room it is finished."""
    work = bench.start("small/disk_full_in_a_layer", CAMS, *overrides, program=program)
    actor, _ = frozen_actor(bench.hosts, work.runs, CAMS, work.job)
    work.note_done()
    with bench.cluster.lab.small_disk_full():
        actor.resume()
        assert work.job.wait(timeout=180) == "FAILED"
        log = work.job.logs()
    _names_the_disk(log, "make_cams")
    work.submit_again()
    work.ends_like_the_reference()
    return work


def disk_full_in_a_checkpoint(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """No room for the next checkpoint: the last one stays whole, and the training resumes from it."""
    work = bench.start("small/disk_full_in_a_checkpoint", TRAINING, *overrides, program=program)
    rank, saved, _ = rank_past_checkpoint(bench.hosts, work.runs, work.job)
    work.note_done()
    with bench.cluster.lab.small_disk_full():
        rank.resume()
        assert work.job.wait(timeout=180) == "FAILED"
        log = work.job.logs()
    _names_the_disk(log, "checkpoint")
    assert work.runs.step() == saved
    work.submit_again()
    first = first_new_step(bench, work)
    assert first == saved + 1, f"resumed with step {first} after the checkpoint of step {saved}"
    work.ends_like_the_reference()
    return work


def _names_the_disk(log: str, what: str) -> None:
    assert "no space is left on its disk" in log and what in log, log[-3000:]
    assert "replaced" not in log, "no process died, and nothing was tried again"


def object_store_full(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """Twice as much in the object store of every node as it holds: Ray writes to the disk, the layer is the same."""
    code = bench.cluster.head.home / "hog.py"
    code.write_text(HOG)
    hog = bench.cluster.submit(f"python {bench.home}/hog.py", name="hog")
    wait_until(lambda: "filled" in hog.logs(), "a full object store", timeout=180, pause=1.0)
    try:
        work = bench.start("object_store_full", CAMS, *overrides, program=program)
        actor, _ = frozen_actor(bench.hosts, work.runs, CAMS, work.job)
        actor.resume()
        work.note_done()
        work.ends_like_the_reference()
    finally:
        hog.stop()
        hog.wait(timeout=60)
    return work


def half_written_checkpoint(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """A file of the latest checkpoint is cut short: the training says so, and resumes from the one before."""
    work = bench.start("half_written_checkpoint", TRAINING, *overrides, program=program)
    rank, saved, _ = rank_past_checkpoint(bench.hosts, work.runs, work.job, least=6)
    kill_driver(bench, work)
    rank.resume()
    folder = work.runs.instance(TRAINING)
    assert folder is not None
    pointer = json.loads((folder / "checkpoints" / "latest.json").read_text())
    before = json.loads((folder / "checkpoints" / "previous.json").read_text())["step"]
    file = max((folder / "checkpoints").rglob(f"step-{pointer['step']:08d}*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    work.submit_again()
    first = first_new_step(bench, work)
    assert first == before + 1, f"resumed with step {first} although the checkpoint of step {saved} is damaged"
    log = work.ends_like_the_reference()
    assert file.name in log, f"the log does not name {file.name}"
    return work
