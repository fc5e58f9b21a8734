"""Processes that die: an actor at work, a rank between two checkpoints."""

from __future__ import annotations

import time

from tests.faults.bench import CAMS, TRAINING, Bench, Work
from tests.hosts.runs import Reference
from tests.hosts.work import RANK, frozen_actor, rank_in_checkpoint, rank_past_checkpoint, while_running, workers


def actor_killed(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """SIGKILL to an actor in the middle of a shard: another one makes that shard."""
    work = bench.start("actor_killed", CAMS, *overrides, program=program)
    actor, shard = frozen_actor(bench.hosts, work.runs, CAMS, work.job)
    work.note_done()
    actor.kill()
    log = work.ends_like_the_reference()
    assert shard in log and "replaced" in log, f"the log does not name {shard}:\n{log[-2000:]}"
    return work


def rank_killed(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """SIGKILL to a rank in the middle of a step past the last checkpoint: the training resumes from that checkpoint."""
    work = bench.start("rank_killed", TRAINING, *overrides, program=program)
    _kill_a_rank(bench, work)
    return work


def _kill_a_rank(bench: Bench, work: Work) -> None:
    rank, saved, _ = rank_past_checkpoint(bench.hosts, work.runs, work.job)
    work.note_done()
    rank.kill()
    first = first_new_step(bench, work)
    assert first == saved + 1, f"resumed with step {first} after the checkpoint of step {saved}"
    work.ends_like_the_reference()


def rank_killed_in_a_checkpoint(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """SIGKILL to rank 0 while it writes a checkpoint: the training resumes from the last whole one."""
    work = bench.start("rank_killed_in_a_checkpoint", TRAINING, *overrides, program=program)
    rank, saved = rank_in_checkpoint(bench.hosts, work.runs, work.job)
    work.note_done()
    rank.kill()
    first = first_new_step(bench, work)
    assert first == saved + 1, f"resumed with step {first} after the checkpoint of step {saved}"
    work.ends_like_the_reference()
    return work


def rank_killed_zero_1(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """`rank_killed` with the optimizer's state divided among the ranks."""
    return _rank_killed_with_zero(bench, 1, *overrides, program=program)


def rank_killed_zero_2(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """`rank_killed` with gradients divided as well."""
    return _rank_killed_with_zero(bench, 2, *overrides, program=program)


def rank_killed_zero_3(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """`rank_killed` with weights divided as well."""
    return _rank_killed_with_zero(bench, 3, *overrides, program=program)


def _rank_killed_with_zero(bench: Bench, stage: int, *overrides: str, program: str) -> Work:
    setting, name = f"train_classifier.zero_stage={stage}", f"rank_killed_zero_{stage}"
    reference = Reference(bench.cluster.lab.folder / f"{name}-{time.time_ns()}", setting, last=TRAINING)
    try:
        reference.wait()
        work = bench.start(name, TRAINING, setting, *overrides, program=program)
        work.reference = reference
        _kill_a_rank(bench, work)
    finally:
        reference.end()
    return work


def first_new_step(bench: Bench, work: Work, *, timeout: float = 240.0) -> int:
    """The first step of a rank that was not there at the fault. Raises AssertionError if the job ends before."""
    for _ in while_running(work.job, timeout=timeout):
        for rank in workers(bench.hosts, RANK):
            folder = work.runs.instance(work.kind)
            if rank.process.pid not in work.ranks and folder is not None and (step := rank.notes(folder).get("step")):
                work.resumed = work.seconds()
                return int(step)
    raise AssertionError(f"{work.job.status()}: no rank was at work again:\n{work.job.logs()[-3000:]}")
