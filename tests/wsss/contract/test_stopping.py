from __future__ import annotations

import os
import signal
import threading
import time

import pytest

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
