from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from wsss.pipeline import instance_lock, lock_holder
from wsss.pipeline.instance_lock import locked
from wsss.pipeline.lock_holder import HOLDER, UNKNOWN, claimed, dead_holder, describe


class OfOneHost:
    """A `flock` that other hosts do not see: every taker gets it."""

    def __init__(self, path: Path, **options: Any) -> None:
        assert path and options == {"fallback_to_soft": False}

    def acquire(self, timeout: float) -> None:
        assert timeout == 0

    def release(self) -> None:
        pass


class Absent(OfOneHost):
    """A file system without `flock`."""

    def acquire(self, timeout: float) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats of a twentieth of a second; every thread is a host of its own, named after the thread."""
    monkeypatch.setattr(lock_holder, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock_holder, "MISSED_BEATS", 12)
    monkeypatch.setattr(lock_holder, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(instance_lock, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("socket.gethostname", lambda: threading.current_thread().name)


def left(folder: Path, **content: Any) -> dict[str, Any]:
    """The file of a holder."""
    holder = {"host": "elsewhere", "pid": 1, "since": 0.0, "command": "wsss run x", "claim": "c", "beat": 3} | content
    (folder / HOLDER).write_text(json.dumps(holder))
    return holder


@pytest.mark.parametrize("kind", [OfOneHost, Absent])
def test_hosts_take_turns_where_the_lock_of_the_system_does_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    monkeypatch.setattr(instance_lock, "FileLock", kind)
    inside, most, entered = [0], [0], list[str]()

    def work() -> None:
        with locked(tmp_path, waiting=lambda holder: None):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            entered.append(threading.current_thread().name)
            time.sleep(0.2)
            inside[0] -= 1

    hosts = [threading.Thread(target=work, name=f"host{number}") for number in range(4)]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join(timeout=60)
    assert most[0] == 1, "two were at work at the same time"
    assert sorted(entered) == ["host0", "host1", "host2", "host3"]
    assert not list(tmp_path.glob(f"{HOLDER}*")), "nothing is left"


def test_a_holder_on_another_host_is_dead_when_its_counter_stands_still(tmp_path: Path) -> None:
    holder = left(tmp_path)
    begun = time.monotonic()
    assert dead_holder(tmp_path, has_flock=True) == holder
    assert time.monotonic() - begun >= 0.5
    (tmp_path / HOLDER).unlink()
    assert dead_holder(tmp_path, has_flock=True) == {}


def test_a_holder_whose_counter_grows_is_alive(tmp_path: Path) -> None:
    left(tmp_path)
    later = threading.Timer(0.2, lambda: left(tmp_path, beat=4))
    later.start()
    assert dead_holder(tmp_path, has_flock=True) is None
    later.join()


def test_a_holder_on_this_host_is_dead_if_its_lock_or_its_process_is_gone(tmp_path: Path) -> None:
    here = threading.current_thread().name
    holder = left(tmp_path, host=here, pid=os.getpid())
    assert dead_holder(tmp_path, has_flock=True) == holder, "the system has given its lock to the caller"
    assert dead_holder(tmp_path, has_flock=False) is None
    gone = left(tmp_path, host=here, pid=2**22 + 1)
    assert dead_holder(tmp_path, has_flock=False) == gone


def test_a_file_that_names_nobody_is_dead_if_it_stays(tmp_path: Path) -> None:
    """As a machine leaves it that lost its power before the bytes were on the disk."""
    (tmp_path / HOLDER).write_bytes(b"")
    assert describe(tmp_path) == UNKNOWN
    dead = dead_holder(tmp_path, has_flock=True)
    assert dead
    with claimed(tmp_path, instead_of=dead) as mine:
        assert mine
    assert not list(tmp_path.glob(f"{HOLDER}*"))
    (tmp_path / HOLDER).write_bytes(b"")
    later = threading.Timer(0.2, lambda: left(tmp_path, beat=1))
    later.start()
    assert dead_holder(tmp_path, has_flock=True) is None, "it was being written"
    later.join()


def test_the_file_of_an_earlier_version_is_only_information(tmp_path: Path) -> None:
    holder = left(tmp_path)
    del holder["beat"]
    (tmp_path / HOLDER).write_text(json.dumps(holder))
    assert dead_holder(tmp_path, has_flock=True) == holder
    assert describe(tmp_path).startswith("process 1 on elsewhere, since 1970")


def test_a_file_that_another_host_wrote_in_the_meantime_stays(tmp_path: Path) -> None:
    dead = left(tmp_path)
    other = left(tmp_path, host="third", claim="d", beat=0)
    with claimed(tmp_path, instead_of=dead) as mine:
        assert not mine
    assert json.loads((tmp_path / HOLDER).read_text()) == other
    with claimed(tmp_path, instead_of={}) as mine:
        assert not mine, "there was none before, and now there is"
    assert json.loads((tmp_path / HOLDER).read_text()) == other
    assert [path.name for path in tmp_path.iterdir()] == [HOLDER]


def test_the_counter_grows_while_the_block_lasts(tmp_path: Path) -> None:
    with claimed(tmp_path, instead_of={}) as mine:
        assert mine
        time.sleep(0.4)
        assert json.loads((tmp_path / HOLDER).read_text())["beat"] >= 2
    assert not list(tmp_path.iterdir())
