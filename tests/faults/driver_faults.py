"""The driver of a job dies, two drivers meet in one folder, MLflow is down."""

from __future__ import annotations

import signal

from tests.faults.bench import CAMS, LIMIT, TRAINING, Bench, Work
from tests.faults.worker_faults import first_new_step
from tests.hosts.runs import differences, metrics, wait_until
from tests.hosts.work import RANK, frozen_actor, frozen_counter, rank_past_checkpoint, workers

NOWHERE = "http://127.0.0.1:5999"
"""No MLflow server listens there."""


def driver_killed_in_a_training(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """SIGKILL to the driver of a training; submitted again, it resumes from the last checkpoint."""
    work = bench.start("driver_killed_in_a_training", TRAINING, *overrides, program=program)
    rank, saved, _ = rank_past_checkpoint(bench.hosts, work.runs, work.job)
    kill_driver(bench, work)
    rank.resume()
    work.submit_again()
    first = first_new_step(bench, work)
    assert first == saved + 1, f"resumed with step {first} after the checkpoint of step {saved}"
    work.ends_like_the_reference()
    return work


def driver_killed_in_a_layer(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """SIGKILL to the driver of a layer; submitted again, it makes the missing shards only."""
    work = bench.start("driver_killed_in_a_layer", CAMS, *overrides, program=program)
    actor, _ = frozen_actor(bench.hosts, work.runs, CAMS, work.job)
    kill_driver(bench, work)
    actor.resume()
    work.submit_again()
    work.ends_like_the_reference()
    return work


def driver_killed_while_counting(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """SIGKILL to the driver of an evaluation, whose counts are kept nowhere; submitted again, it gives the same."""
    work = bench.start("driver_killed_while_counting", "evaluate", *overrides, program=program)
    actor = frozen_counter(bench.hosts, work.runs, "evaluate", work.job)
    kill_driver(bench, work)
    actor.resume()
    work.submit_again().succeeds(timeout=LIMIT)
    assert metrics(work.runs.folder, "evaluate_seeds") == metrics(bench.reference.wait(), "evaluate_seeds")
    return work


def kill_driver(bench: Bench, work: Work) -> None:
    """And wait until Ray has ended its workers."""
    work.note_done()
    drivers = bench.cluster.head.find(f"runtime.runs={work.runs.inside} ")
    assert drivers, "the driver runs on the head"
    for driver in drivers:
        bench.cluster.head.kill(driver, signal.SIGKILL)
    assert work.job.wait(timeout=120) == "FAILED"


def two_drivers(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """Two jobs with the same folder, each with an actor for every CPU: both succeed, one does each piece of work."""
    first = bench.start("two_drivers", CAMS, "runtime.num_actors=4", *overrides, program=program, last="make_seeds")
    second = bench.cluster.submit(first.command, name="two_drivers-second")
    bench.work.append(Work(bench, CAMS, first.runs, second, first.command))
    actor, _ = frozen_actor(bench.hosts, first.runs, CAMS, first.job)
    actor.resume()
    first.note_done()
    logs = [first.ends_like_the_reference(), second.succeeds(timeout=LIMIT)]
    wrong = differences(first.runs.folder, bench.reference.wait(), kinds=["make_seeds"])
    assert not wrong, "; ".join(wrong)
    done = sum(log.count(f"done   {stage}") for log in logs for stage in ("make_cams", "make_seeds"))
    assert done == 2, f"{done} stages were run instead of 2"
    return first


def mlflow_down(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """Nothing listens at the tracking address: the run succeeds, and its records wait."""
    address = f"runtime.tracking_uri={NOWHERE}"
    work = bench.start("mlflow_down", CAMS, address, *overrides, program=program)
    actor, _ = frozen_actor(bench.hosts, work.runs, CAMS, work.job)
    actor.resume()
    work.note_done()
    log = work.ends_like_the_reference()
    waiting = list((work.runs.folder / "outbox").glob("[!.]*.json"))
    assert waiting, "the record of the stage waits"
    assert "cannot be written to" in log and "the run continues" in log, log[-2000:]
    command = work.command.replace(NOWHERE, f"sqlite:///{work.runs.inside}/mlflow.db")
    again = bench.cluster.submit(command, name="mlflow_up")
    assert "now in MLflow: " in again.succeeds(timeout=LIMIT)
    assert not list((work.runs.folder / "outbox").glob("[!.]*.json"))
    return work


def sigterm_with_grace(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """`ray job stop` in a training: it saves a checkpoint and ends; submitted again, no step is done twice."""
    work = bench.start("sigterm_with_grace", TRAINING, *overrides, program=program)
    rank, saved, at_work = rank_past_checkpoint(bench.hosts, work.runs, work.job)
    rank.resume()
    work.note_done()
    work.job.stop()
    assert work.job.wait(timeout=120) in ("STOPPED", "FAILED")
    wait_until(lambda: not workers(bench.hosts, RANK), "the end of all ranks", timeout=60)
    stopped = work.runs.step()
    assert stopped >= at_work > saved, f"stopped at step {at_work}, and the checkpoint is of step {stopped}"
    work.submit_again()
    first = first_new_step(bench, work)
    assert first == stopped + 1, f"resumed with step {first} after the checkpoint of step {stopped}"
    work.ends_like_the_reference()
    return work
