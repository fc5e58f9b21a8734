"""A bounded folder of fetched shards: each fetched once, whatever fails, however many ask, never beyond its room."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import storage
from shards.shard_cache import ShardCache
from shards.storage import Retries, StorageError
from tests.shards.object_store import BUCKET, Faults, object_store, proxy, put, use

SIZE, NUM = 20_011, 5
SHARDS = [np.random.default_rng(n).integers(0, 256, SIZE, dtype=np.uint8).tobytes() for n in range(NUM)]
HASHES = [hashlib.sha256(shard).hexdigest() for shard in SHARDS]
QUICK = Retries(attempts=3, first_pause=0.01, longest_pause=0.02)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with object_store() as address:
        for number, shard in enumerate(SHARDS):
            put(address, f"{number}.tar", shard)
        yield address


@pytest.fixture
def faults(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    reported = Faults()
    with proxy(server, reported) as address:
        use(monkeypatch, address)
        yield reported


def cache_in(folder: Path, *, shards: float = NUM) -> ShardCache:
    return ShardCache(folder=folder / "cache", max_bytes=int(shards * SIZE), retries=QUICK)


def fetched(cache: ShardCache, number: int) -> bytes | None:
    file = cache.open(f"s3://{BUCKET}/{number}.tar", num_bytes=SIZE, sha256=HASHES[number])
    if file is None:
        return None
    with file:
        return file.read()


def held(cache: ShardCache) -> set[int]:
    return {HASHES.index(path.stem) for path in cache.folder.glob("*.tar")}


def test_a_shard_is_fetched_once(tmp_path: Path, faults: Faults) -> None:
    cache = cache_in(tmp_path)
    for _ in range(3):
        assert [fetched(cache, number) for number in range(NUM)] == SHARDS
    assert len(faults.requests) == NUM and held(cache) == set(range(NUM))
    assert not list(cache.folder.glob("*.part"))


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, faults: Faults) -> None:
    cache = cache_in(tmp_path, shards=3.5)
    for place, number in enumerate((0, 1, 2, 0)):
        fetched(cache, number)
        os.utime(cache.folder / f"{HASHES[number]}.tar", (place, place))
    fetched(cache, 3)
    assert held(cache) == {0, 2, 3}
    assert sum(path.stat().st_size for path in cache.folder.glob("*.tar")) <= cache.max_bytes


def test_a_reader_keeps_what_it_has_open(tmp_path: Path, faults: Faults) -> None:
    cache = cache_in(tmp_path, shards=1)
    file = cache.open(f"s3://{BUCKET}/0.tar", num_bytes=SIZE, sha256=HASHES[0])
    assert file is not None
    assert fetched(cache, 1) == SHARDS[1] and held(cache) == {1}
    with file:
        assert file.read() == SHARDS[0]


def test_a_flipped_byte_is_seen_and_fetched_anew(tmp_path: Path, faults: Faults) -> None:
    cache = cache_in(tmp_path)
    faults.coming = ["damaged", "damaged"]
    assert fetched(cache, 0) == SHARDS[0] and len(faults.requests) == 3
    faults.coming = ["damaged"] * 3
    with pytest.raises(StorageError, match=r"/1.tar: its content does not match its hash in the index \(3 attempts\)"):
        fetched(cache, 1)
    assert held(cache) == {0} and not list(cache.folder.glob("*.part"))


def test_a_shard_larger_than_the_cache_is_not_fetched(tmp_path: Path, faults: Faults) -> None:
    assert fetched(cache_in(tmp_path, shards=0.5), 0) is None and not faults.requests


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = cache_in(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert fetched(cache, 0) is None
    assert held(cache) == set() and not list(cache.folder.glob("*.part"))
    monkeypatch.undo()


def test_a_part_of_a_killed_process_is_room_again(tmp_path: Path, faults: Faults) -> None:
    cache = cache_in(tmp_path, shards=1)
    cache.folder.mkdir()
    left = cache.folder / f"{HASHES[4]}.999999999.part"
    left.write_bytes(SHARDS[4])
    assert fetched(cache, 0) == SHARDS[0] and not left.exists()


def test_an_object_that_is_gone_is_reported(tmp_path: Path, faults: Faults) -> None:
    with pytest.raises(StorageError, match=r"there is no such object \(404"):
        cache_in(tmp_path).open(f"s3://{BUCKET}/none.tar", num_bytes=SIZE, sha256=HASHES[0])


def _read_all(folder: Path, orders: list[int], out: Any) -> None:
    storage._s3.cache_clear()
    cache = cache_in(folder, shards=2)
    # Beside what three others fetch there may be no room for a fourth: then the reader has to ask elsewhere.
    out.put([fetched(cache, number) in (SHARDS[number], None) for number in orders])


def test_processes_share_a_cache_that_is_too_small_for_all(tmp_path: Path, faults: Faults) -> None:
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    orders = [np.random.default_rng(n).integers(0, NUM, 30).tolist() for n in range(4)]
    processes = [context.Process(target=_read_all, args=(tmp_path, order, out)) for order in orders]
    for process in processes:
        process.start()
    found = [out.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found == [[True] * 30] * 4
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")) <= 2 * SIZE
    assert not list((tmp_path / "cache").glob("*.part"))
