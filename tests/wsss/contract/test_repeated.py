from __future__ import annotations

import threading

import pytest

from wsss.contract.repeated import repeated


def test_it_is_called_until_the_block_ends_and_never_afterwards() -> None:
    enough, calls = threading.Event(), [0]

    def call() -> None:
        calls[0] += 1
        if calls[0] == 3:
            enough.set()

    with repeated(call, seconds=0.001):
        assert enough.wait(30)
    ended = calls[0]
    assert not threading.Event().wait(0.02) and calls[0] == ended


def test_it_ends_with_a_block_that_raises_and_may_not_have_been_called() -> None:
    calls: list[int] = []
    before = threading.active_count()
    with pytest.raises(KeyError), repeated(lambda: calls.append(1), seconds=60.0):
        raise KeyError
    assert threading.active_count() == before and not calls
