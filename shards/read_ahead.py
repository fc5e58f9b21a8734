"""Reading ahead: what waits for a disk or a network waits beside what computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_THREADS, _PIECE = 4, 16
"""Threads, and how many items each takes at a time: handing over one by one would cost as much as a small image."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def read_ahead(read: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """`read` of every item, in their order, from threads that are a few pieces ahead of whoever asks.

    What `read` raises is raised when its item's piece is asked for.
    """

    def piece(start: int) -> list[_Result]:
        return [read(item) for item in items[start : start + _PIECE]]

    for item in items[:1]:
        yield read(item)  # before there are threads: what the first one looks up and keeps is looked up once
    waiting: deque[Future[list[_Result]]] = deque()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for start in range(1, len(items), _PIECE):
            waiting.append(pool.submit(piece, start))
            if len(waiting) > _THREADS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
