"""Nothing is decided by comparing the clocks of two hosts: order of events, durations, who holds a lock."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from cluster.ranks.rank_watch import RankWatch
from cluster.ranks.ray_backend import RankProcess
from cluster.tracking import outbox
from cluster.tracking.outbox import Event, Outbox
from wsss.pipeline import instance_lock
from wsss.pipeline.instance_lock import HOLDER, locked


class Clock:
    """The clocks of three hosts, one after the other: right, an hour behind, a day ahead and then right again."""

    def __init__(self, *offsets: float) -> None:
        self._offsets = list(offsets)

    def time_ns(self) -> int:
        return int((1.8e9 + self._offsets.pop(0)) * 1e9)


def test_events_are_delivered_in_the_order_in_which_they_were_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "time", Clock(0.0, -3600.0, 86_400.0, 1.0))
    box = Outbox(tmp_path)
    for number in range(4):
        box.put({"number": number})
    sent: list[Event] = []
    assert box.deliver(sent.append) == (4, [])
    assert [event["number"] for event in sent] == [0, 1, 2, 3]


def test_a_dead_rank_is_found_by_the_list_of_ranks_whatever_the_times_of_files(tmp_path: Path) -> None:
    path, folder = tmp_path, tmp_path / "ray_train"
    folder.mkdir()
    ranks = [RankProcess("a", 11, "10.0.0.1"), RankProcess("b", 22, "10.0.0.2")]
    (folder / "ranks.json").write_text(json.dumps([vars(rank) for rank in ranks]))
    for host, pid, step, age in (("b", 22, "7", 90_000.0), ("old", 33, "3", 0.0)):
        notes = path / f".{host}-{pid}.notes.tmp"
        notes.write_text(json.dumps({"rank": "1", "step": step}))
        notes.with_name(f".{host}-{pid}.stacks.tmp").touch()
        os.utime(notes, (time.time() - age, time.time() - age))
    failure = RankWatch(path, folder, instance="tiny", retries=3)._died(1, RuntimeError("gone"))
    assert (failure.host, failure.pid, failure.step) == ("b", 22, "7"), "its host's clock is a day behind"


def test_a_lock_depends_on_no_time_of_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / HOLDER).write_text(json.dumps({"host": "b", "pid": 1, "since": time.time() + 1e6, "command": "wsss"}))
    said: list[str] = []
    with locked(tmp_path, waiting=said.append):
        assert not said, "no process holds it, whatever the file of a host with another clock says"
    held = instance_lock.FileLock(tmp_path / instance_lock.LOCK)
    held.acquire()
    (tmp_path / HOLDER).write_text(json.dumps({"host": "b", "pid": 1, "since": 0.0, "command": "wsss run x"}))
    monkeypatch.setattr(instance_lock, "REPORT_SECONDS", 0.0)

    def waiting(holder: str) -> None:
        said.append(holder)
        if len(said) == 3:
            held.release()

    with locked(tmp_path, waiting=waiting):
        assert len(said) == 3 and said[0] == said[2], "it is named again while it is waited for"
    assert said[0].startswith("process 1 on b, since 1970") and said[0].endswith("by its clock: wsss run x")
