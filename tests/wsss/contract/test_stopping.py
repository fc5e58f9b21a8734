from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection

import pytest

from wsss.contract import stopping
from wsss.contract.stopping import (
    TerminatedError,
    asked_first,
    catch_sigterm,
    exit_status,
    raise_if_stopped,
    stop_on_sigterm,
    uninterrupted,
)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_is_an_interrupt_and_a_second_one_does_not_disturb_the_clean_end() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stop_on_sigterm():
        try:
            terminate()
        finally:
            terminate()
            with pytest.raises(TerminatedError):
                raise_if_stopped()
    assert exit_status() == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_step_that_must_not_be_cut_is_finished_first() -> None:
    done: list[str] = []
    with pytest.raises(TerminatedError), stop_on_sigterm():
        with uninterrupted(), uninterrupted():
            terminate()
            raise_if_stopped()
            done.append("the step")
        done.append("more")
    assert done == ["the step"] and exit_status() == 143
    with stop_on_sigterm(), asked_first(lambda: done.append("asked") is None, seconds=60):
        with uninterrupted():
            terminate()
        done.append("may go on")
    assert done == ["the step", "asked", "may go on"]


def test_one_that_a_destructor_swallows_is_raised_again() -> None:
    class Destroyed:
        def __del__(self) -> None:
            terminate()
            time.sleep(0)

    with pytest.raises(TerminatedError), stop_on_sigterm():
        Destroyed()
        time.sleep(10)


FORKING = """
import os, signal, subprocess, time
from wsss.contract.stopping import TerminatedError, stop_on_sigterm

done = []

def before():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)
    done.append("before")

os.register_at_fork(before=before, after_in_parent=lambda: done.append("after"))
try:
    with stop_on_sigterm():
        process = subprocess.Popen(["true"], preexec_fn=int)  # a function to call makes it fork
        done.append(f"ended with {process.wait()}")
        time.sleep(10)
except TerminatedError:
    print(*done, "stopped", sep=", ")
"""


def test_a_process_that_is_being_started_is_started_first() -> None:
    """A library that keeps locks over a fork (filelock) was left without what it noted before the fork."""
    ran = subprocess.run([sys.executable, "-c", FORKING], text=True, capture_output=True, check=True, timeout=60)
    assert (ran.stdout.strip(), ran.stderr) == ("before, after, ended with 0, stopped", "")


def _wait_long(ready: Connection) -> None:
    ready.send(True)
    time.sleep(10)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_that_has_started_is_stopped_at_once(method: str) -> None:
    """The work of a forked child is below the frames that started it."""
    context = multiprocessing.get_context(method)
    here, there = context.Pipe(duplex=False)
    with stop_on_sigterm():
        child = context.Process(target=_wait_long, args=(there,))
        child.start()
        assert here.recv()
        begin = time.monotonic()
        child.terminate()
        child.join()
    assert time.monotonic() - begin < 2


def test_the_limit_is_that_of_one_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several starts, one after the other, may take longer together."""
    now = 100.0
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now)
    first, second = sys._getframe(), sys._getframe(1)
    assert stopping._may_delay(first)
    now += stopping._STARTING_SECONDS - 1
    assert stopping._may_delay(first) and stopping._may_delay(second)
    now += 2
    assert stopping._may_delay(second)
    now += stopping._STARTING_SECONDS
    assert not stopping._may_delay(second)


def test_a_start_that_hangs_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_STARTING_SECONDS", 0.3)
    begin = time.monotonic()
    with pytest.raises(TerminatedError), stop_on_sigterm():
        terminate_later = threading.Timer(0.1, terminate)
        terminate_later.start()
        subprocess.Popen(["true"], preexec_fn=lambda: time.sleep(2))
    assert 0.3 < time.monotonic() - begin < 1.8


def test_it_is_taken_back_from_a_library() -> None:
    assert not catch_sigterm(), "nobody asked for it"
    with pytest.raises(TerminatedError), stop_on_sigterm():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert catch_sigterm()
        terminate()


def test_elsewhere_than_in_the_main_thread_it_leaves_the_signal_alone() -> None:
    seen = []

    def work() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with stop_on_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM) == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_status_of_ctrl_c() -> None:
    with stop_on_sigterm():
        pass
    assert exit_status() == 130
