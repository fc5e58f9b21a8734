"""Reading ahead in threads, so that waiting for a disk or a network overlaps with computation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_THREADS, _CHUNK = 4, 16
"""Number of threads, and items per task: one task per item would cost as much as decoding a small image."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def read_ahead(read: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """Yield `read(item)` for every item, in order; threads read a few chunks of items ahead of the consumer.

    An exception from `read` is raised when the chunk of its item is due.
    """

    def read_chunk(start: int) -> list[_Result]:
        return [read(item) for item in items[start : start + _CHUNK]]

    for item in items[:1]:
        yield read(item)  # before the threads start, so that values which `read` caches are computed once
    waiting: deque[Future[list[_Result]]] = deque()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for start in range(1, len(items), _CHUNK):
            waiting.append(pool.submit(read_chunk, start))
            if len(waiting) > _THREADS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
