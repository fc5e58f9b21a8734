"""Records whose processing ends the process: a worker reads its shard without them, and they are recorded as missing.

Set for one attempt at a shard by the worker that makes it. Readers ask before they decode a record, because decoding
may be what ends the process.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager

from shards.records import Missing, Record

_reasons: dict[str, str] = {}
_alone = False


@contextmanager
def setting_aside(reasons: Mapping[str, str], *, alone: bool = False) -> Iterator[None]:
    """Inside the block, the records with these keys are not read; `reasons`: key -> why.

    `alone`: records are processed one at a time and in order, so that the notes of a process that ends name the one.
    """
    global _alone
    _reasons.update(reasons)
    _alone = alone
    try:
        yield
    finally:
        _reasons.clear()
        _alone = False


def why_set_aside(key: str) -> str | None:
    """Why a record is not to be read, or None."""
    return _reasons.get(key)


def one_at_a_time() -> bool:
    """True if records are to be processed one at a time and in order."""
    return _alone


def with_set_aside(records: Iterable[Record | Missing]) -> Generator[Record | Missing, None, None]:
    """`records`, and a `Missing` for each record set aside that is not among them."""
    left = dict(_reasons)
    for record in records:
        left.pop(record.key, None)
        yield record
    for key, reason in left.items():
        yield Missing(key=key, reason=reason)
