from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shards.overlap import Waiting, handed_on, prepared_ahead
from shards.work_notes import forget_notes, named_work, note, noted

SECONDS = 30
"""For what must happen: a test that waits so long has failed."""


def test_items_come_prepared_and_in_order() -> None:
    waiting = Waiting()
    found = prepared_ahead(iter(range(23)), lambda n: n * n, ahead=5, threads=3, waiting=waiting)
    assert list(found) == [n * n for n in range(23)]
    assert waiting.takes == 24 and waiting.seconds > 0


def test_the_next_item_is_prepared_while_one_is_worked_on() -> None:
    second_is_prepared = threading.Event()

    def prepare(number: int) -> int:
        if number == 1:
            second_is_prepared.set()
        return number

    items = prepared_ahead(iter(range(3)), prepare, ahead=1, threads=1, waiting=Waiting())
    assert next(items) == 0
    assert second_is_prepared.wait(SECONDS), "nobody asked for the second item, and nobody prepares it"
    items.close()  # type: ignore[attr-defined]


def test_no_more_than_asked_are_read_ahead() -> None:
    taken: list[int] = []
    last_is_read = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            if number == 3:
                last_is_read.set()
            yield number

    items = prepared_ahead(numbers(), lambda n: n, ahead=3, threads=2, waiting=Waiting())
    assert next(items) == 0
    assert last_is_read.wait(SECONDS)
    items.close()  # type: ignore[attr-defined]
    assert taken == [0, 1, 2, 3]


def test_a_failure_is_raised_when_its_item_is_due_and_names_it() -> None:
    forget_notes()

    def numbers() -> Iterator[int]:
        for number in range(9):
            note(sample=f"k{number}")
            if number == 7:
                raise ValueError("torn")
            yield number

    items = prepared_ahead(numbers(), lambda n: n, ahead=4, threads=1, waiting=Waiting())
    assert [next(items) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="torn") as caught:
        next(items)
    assert named_work(caught.value) == {"sample": "k7"}
    assert noted() == {}, "the threads' notes are not those of the thread that computes"


def test_what_is_handed_on_is_done_in_order_beside_the_others() -> None:
    done: list[int] = []
    first_is_done = threading.Event()

    def work(number: int) -> None:
        done.append(number)
        first_is_done.set()

    waiting = Waiting()
    with handed_on(work, ahead=2, waiting=waiting) as hand_on:
        hand_on(0)
        assert first_is_done.wait(SECONDS), "it waits for the next item"
        for number in range(1, 17):
            hand_on(number)
    assert done == list(range(17)) and waiting.takes == 17


def test_a_failure_of_what_was_handed_on_is_raised() -> None:
    def work(number: int) -> None:
        note(sample=f"k{number}")
        raise ValueError(f"no room for {number}")

    with (
        pytest.raises(ValueError, match="no room for 0") as caught,
        handed_on(work, ahead=5, waiting=Waiting()) as hand_on,
    ):
        hand_on(0)
        hand_on(1)
    assert named_work(caught.value) == {"sample": "k0"}


def test_a_failure_of_the_block_ends_the_thread() -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), handed_on(lambda item: None, ahead=2, waiting=Waiting()) as hand_on:
        hand_on(0)
        raise KeyError
    assert threading.active_count() == before
