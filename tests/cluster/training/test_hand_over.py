"""SIGTERM with time to spare: a training saves a checkpoint at its next step, ends, and loses no finished step."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from cluster.training import hand_over
from cluster.training.hand_over import HandOver
from tests.cluster.driver import run, start, terminate, wait_for
from wsss.contract.stopping import TerminatedError, asked_first, raise_if_stopped, stop_on_sigterm

FIT = {"batch_size": 4, "num_epochs": 5, "learning_rate": 0.05}
EPOCH = 3
"""Steps of an epoch; without `checkpoint_every` there is one checkpoint per epoch."""


def test_a_rank_is_asked_by_the_file_or_by_its_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand_over, "LOOK_SECONDS", -1.0)
    first, second = HandOver(tmp_path, rank=0), HandOver(tmp_path, rank=1)
    assert not first.is_asked()
    hand_over.ask(tmp_path, "the driver was asked to stop")
    assert first.is_asked() and not second.is_asked(), "rank 0 looks for the file, the engine adds up the answers"
    assert str(second.done(7)) == "handed over after step 7: another rank's process will end soon"
    assert hand_over.handed_over(tmp_path) is None
    first.done(7)
    assert hand_over.handed_over(tmp_path) == hand_over.HandedOver(7, "the driver was asked to stop")
    hand_over.withdraw(tmp_path)
    assert hand_over.handed_over(tmp_path) is None and not HandOver(tmp_path, rank=0).is_asked()
    noticed = HandOver(tmp_path, rank=1, notice=lambda: "its node ends")
    assert noticed.is_asked()


def test_sigterm_asks_first_and_raises_when_the_time_is_over() -> None:
    asked: list[float] = []
    begun = time.monotonic()
    with (
        stop_on_sigterm(),
        pytest.raises(TerminatedError),
        asked_first(lambda: asked.append(time.monotonic()) is None, seconds=0.5),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(asked) == 1
        raise_if_stopped()  # not yet
        os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing
        time.sleep(30)
    assert 0.4 < time.monotonic() - begun < 10 and len(asked) == 1


def test_work_that_ends_in_time_is_stopped_after_the_block() -> None:
    with stop_on_sigterm():
        with asked_first(lambda: True, seconds=60):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(TerminatedError):
            raise_if_stopped()


@pytest.mark.parametrize(("answers", "seconds"), [(True, 0), (False, 60)])
def test_without_time_or_an_answer_sigterm_raises_at_once(answers: bool, seconds: float) -> None:
    with stop_on_sigterm(), pytest.raises(TerminatedError), asked_first(lambda: answers, seconds=seconds):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)


def step_of(folder: Path) -> int:
    return int(json.loads((folder / "checkpoints" / "latest.json").read_bytes())["step"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow, pytest.mark.extended])]
)
def test_training_is_saved_at_the_step_at_which_sigterm_arrives(place: str, tmp_path: Path) -> None:
    stage = {**FIT, "slow": 0.3}
    (tmp_path / "whole").mkdir()
    assert run(tmp_path / "whole", "fit", stage=FIT)[0] == 0
    steps = {}
    for name, seconds in (("asked", 60.0), ("control", 0.0)):
        folder = tmp_path / name
        process = start(folder, "fit", place=place, stage=stage, runtime={"stop_seconds": seconds})
        wait_for(folder / "checkpoints" / "latest.json", process)  # of the first epoch
        while json.loads((folder / "progress.json").read_bytes())["step"] <= EPOCH:
            time.sleep(0.05)
        status, printed, alive = terminate(process)
        assert (status, alive) == (143, []), printed
        assert printed.strip().splitlines()[-1] == "stopped; the same command resumes from here"
        steps[name] = step_of(folder)
    assert steps["control"] == EPOCH, "without time, the steps since the last checkpoint are lost"
    assert steps["asked"] > EPOCH, "the step past the last checkpoint is saved"
    handed = hand_over.handed_over(tmp_path / "asked")
    assert handed == hand_over.HandedOver(steps["asked"], "the driver was asked to stop (SIGTERM)")
    status, printed = run(tmp_path / "asked", "fit", place=place, stage=FIT)
    assert status == 0, printed
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("asked", "whole")]
    assert weights[0] == weights[1]
    assert hand_over.handed_over(tmp_path / "asked") is None
