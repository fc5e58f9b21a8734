"""Whole hosts: cut off, without power, the head among them."""

from __future__ import annotations

import shutil
import time

from tests.faults.bench import CAMS, TRAINING, Bench, Work
from tests.faults.worker_faults import first_new_step
from tests.hosts.host import Host
from tests.hosts.runs import wait_until
from tests.hosts.work import Worker, frozen_actor, rank_past_checkpoint

NOTICED = 150.0
"""Seconds within which Ray must take a host that is cut off for dead: five checks of 13 s, on a busy machine."""


def host_cut_off(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """The cable of a host at work on a shard is pulled: the other hosts finish the layer; then the host comes back."""
    work = bench.start("host_cut_off", CAMS, *overrides, program=program)
    actor, _ = frozen_actor(bench.hosts, work.runs, CAMS, work.job)
    work.note_done()
    actor.host.cut()
    try:
        actor.resume()
        work.ends_like_the_reference()
    finally:
        actor.host.mend()
    bench.comes_back()
    return work


def host_of_a_rank_cut_off(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """The cable of a rank's host is pulled, and put back when the host is taken for dead: the training resumes."""
    work = bench.start("host_of_a_rank_cut_off", TRAINING, *overrides, program=program)
    rank, saved, _ = rank_past_checkpoint(bench.hosts, work.runs, work.job)
    work.note_done()
    rank.host.cut()
    rank.resume()
    try:
        bench.cluster.wait_for_nodes(len(bench.hosts), timeout=NOTICED)
        work.notices_a_loss()
    finally:
        rank.host.mend()
    assert first_new_step(bench, work) >= saved + 1
    work.ends_like_the_reference()
    bench.comes_back()
    return work


def link_cut_for_30_seconds(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """Too short for the host to be taken for dead: the same bytes, at the cost of at most one restart."""
    work = bench.start("link_cut_for_30_seconds", TRAINING, *overrides, program=program)
    rank, saved, _ = rank_past_checkpoint(bench.hosts, work.runs, work.job)
    work.note_done()
    rank.host.cut()
    rank.resume()
    time.sleep(30)
    rank.host.mend()
    assert bench.cluster.num_alive() == 1 + len(bench.hosts)
    log = work.ends_like_the_reference()
    assert log.count("replaced") <= 2, log[-2000:]
    assert work.runs.step() >= saved
    return work


def head_killed(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """The head loses its power and its disk: `ray up` again, the job submitted again; no shard is made twice."""
    work = bench.start("head_killed", CAMS, *overrides, program=program)
    actor, _ = frozen_actor(bench.hosts, work.runs, CAMS, work.job)
    work.note_done()
    restart_head(bench, actor)
    work.submit_again()
    work.ends_like_the_reference()
    return work


def restart_head(bench: Bench, frozen: Worker) -> None:
    """Power off and on, and what a user does then."""
    head: Host = bench.cluster.head
    head.power_off()
    shutil.rmtree(head.home / ".wsss", ignore_errors=True)  # the machine in its place has no MLflow database
    frozen.resume()
    head.start()
    bench.cluster.up()


def raylet_killed(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """SIGKILL to the raylet of a host at work: the other hosts finish; Ray's autoscaler starts it again."""
    work = bench.start("raylet_killed", CAMS, *overrides, program=program)
    actor, _ = frozen_actor(bench.hosts, work.runs, CAMS, work.job)
    work.note_done()
    (raylet,) = actor.host.find("/raylet/raylet ")
    actor.host.kill(raylet)
    actor.resume()
    work.ends_like_the_reference()
    wait_until(lambda: bool(actor.host.find("/raylet/raylet ")), "a raylet again", timeout=420, pause=1.0)
    bench.comes_back()
    return work


def host_loses_power(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """A host with a rank loses its power and starts again: the training resumes."""
    work = bench.start("host_loses_power", TRAINING, *overrides, program=program)
    rank, saved, _ = rank_past_checkpoint(bench.hosts, work.runs, work.job)
    work.note_done()
    rank.host.power_off()
    rank.host.start()
    assert first_new_step(bench, work, timeout=420) == saved + 1
    work.ends_like_the_reference()
    return work


def strict_spread_with_a_host_away(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """One rank on each of two hosts, one of them away for long: the job waits and says for what, and then resumes."""
    work = bench.start("strict_spread_with_a_host_away", TRAINING, *overrides, program=program)
    rank, saved, _ = rank_past_checkpoint(bench.hosts, work.runs, work.job)
    work.note_done()
    rank.host.power_off()
    bench.cluster.wait_for_nodes(len(bench.hosts), timeout=NOTICED)
    time.sleep(20)
    assert work.job.status() == "RUNNING", f"{work.job.status()}\n{work.job.logs()[-2000:]}"
    assert work.runs.step() == saved, "a single host cannot hold both ranks"
    rank.host.start()
    assert first_new_step(bench, work, timeout=420) == saved + 1
    log = work.ends_like_the_reference()
    assert rank.host.name in log, f"the log does not name {rank.host.name}:\n{log[-2000:]}"
    return work
