"""Threads beside the thread that computes: records are decoded before it asks for them, and written after it made them.

For a worker whose network runs on a GPU: Python's lock is free while the GPU computes, while an image is decoded and
while bytes are compressed, hashed and written. Order and bytes are those of the same work in one thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from shards.work_notes import notes_apart

_Item = TypeVar("_Item")
_End = object()


@dataclass
class Waiting:
    """What the computing thread waited for at one end of a queue."""

    seconds: float = 0.0
    takes: int = 0
    """How often it asked."""
    ready: int = 0
    """Items that were ready when it asked, added up."""


def prepared_ahead(
    items: Iterator[_Item], prepare: Callable[[_Item], _Item], *, ahead: int, threads: int, waiting: Waiting
) -> Iterator[_Item]:
    """`prepare(item)` for every item, in order; up to `ahead` items are read and prepared before they are asked for.

    One thread reads `items`, `threads` threads prepare them. An exception is raised when its item is due, and names
    what its thread was working on. Closing the iterator waits until the threads have ended.
    """
    reader, preparers = ThreadPoolExecutor(1), ThreadPoolExecutor(threads)

    def read() -> Future[object]:
        with notes_apart():
            item = next(items, _End)
        return preparers.submit(_prepared, prepare, item)

    pending: deque[Future[Future[object]]] = deque(reader.submit(read) for _ in range(ahead))
    try:
        while True:
            waiting.takes += 1
            waiting.ready += sum(_is_ready(one) for one in pending)
            with _timed(waiting):
                item = pending.popleft().result().result()
            if item is _End:
                return
            pending.append(reader.submit(read))
            yield item  # type: ignore[misc]
    finally:
        reader.shutdown(cancel_futures=True)  # first: what it reads is given to the others
        preparers.shutdown(cancel_futures=True)


def _prepared(prepare: Callable[[_Item], _Item], item: object) -> object:
    if item is _End:
        return item
    with notes_apart():
        return prepare(item)  # type: ignore[arg-type]


def _is_ready(pending: Future[Future[object]]) -> bool:
    return pending.done() and pending.exception() is None and pending.result().done()


@contextmanager
def handed_on(work: Callable[[_Item], None], *, ahead: int, waiting: Waiting) -> Iterator[Callable[[_Item], None]]:
    """A function that hands an item to a thread, which does `work` on one after the other; at most `ahead` are left.

    At the end of the block everything is done. The first exception of `work` is raised there, or when a later item is
    handed on.
    """
    thread = ThreadPoolExecutor(1)
    pending: deque[Future[None]] = deque()

    def apart(item: _Item) -> None:
        with notes_apart():
            work(item)

    def hand_on(item: _Item) -> None:
        waiting.takes += 1
        waiting.ready += sum(one.done() for one in pending)
        pending.append(thread.submit(apart, item))
        with _timed(waiting):
            while len(pending) > ahead:
                pending.popleft().result()

    try:
        yield hand_on
        with _timed(waiting):
            while pending:
                pending.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)


@contextmanager
def _timed(waiting: Waiting) -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        waiting.seconds += time.monotonic() - begun
