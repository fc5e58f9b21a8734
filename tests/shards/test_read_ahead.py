from __future__ import annotations

import itertools
import threading

import pytest

from shards.read_ahead import read_ahead


@pytest.mark.parametrize("number", [0, 1, 2, 17, 200])
def test_all_items_come_in_their_order(number: int) -> None:
    assert list(read_ahead(lambda item: 2 * item, range(number))) == [2 * item for item in range(number)]


def test_reads_wait_beside_each_other() -> None:
    together = threading.Barrier(4, timeout=30)  # broken, and so an error, where one reads after the other

    def read(item: int) -> int:
        if item and (item - 1) % 16 == 0:
            together.wait()
        return item

    assert list(read_ahead(read, range(1 + 8 * 16))) == list(range(1 + 8 * 16))


def test_no_more_is_read_than_a_few_pieces_ahead() -> None:
    seen: list[int] = []

    def read(item: int) -> int:
        seen.append(item)
        return item

    threads = set(threading.enumerate())
    results = read_ahead(read, range(10_000))
    assert list(itertools.islice(results, 100)) == list(range(100))
    results.close()  # type: ignore[attr-defined]
    assert len(seen) < 100 + 6 * 16
    assert set(threading.enumerate()) <= threads


def test_what_read_raises_is_raised_after_what_stands_before_its_piece() -> None:
    def read(item: int) -> int:
        if item == 50:
            raise OSError("no disk")
        return item

    results = read_ahead(read, range(200))
    assert list(itertools.islice(results, 49)) == list(range(49))
    with pytest.raises(OSError, match="no disk"):
        next(results)
