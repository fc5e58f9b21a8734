"""Watches the process it runs in: which part of the work its CPU time goes to, its memory, when it began to work.

A thread looks every 20 ms at the stack of each Python thread and gives the CPU time that this thread has used since the
last look to the innermost known place in the stack (`PARTS`). The rest of the process's CPU time is that of threads
which Python does not know. `begin` is called by site/sitecustomize.py, before anything else is imported, so this module
imports nothing of the project. Every process writes its figures to a file of its own every few seconds, since actors
may be killed; `read_watched` reads them all.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TypedDict

PAUSE, WRITE_SECONDS = 0.02, 2.0
OTHER, NATIVE, START = "other", "threads without Python", "start"
PARTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    # end of the file's path; functions, all if empty; the part of the work
    ("<frozen importlib._bootstrap>", (), START),
    ("/numba/core/dispatcher.py", (), START),
    ("/shards/images.py", ("decode_image", "pixels_of", "_open", "_open_jpeg", "image_metadata"), "decode"),
    ("/shards/images.py", ("encode_png", "encode_jpeg"), "encode and write"),
    ("/shards/images.py", (), "read and join"),
    ("/shards/codec.py", ("encode",), "encode and write"),
    ("/shards/codec.py", (), "read and join"),
    ("/shards/writer.py", (), "encode and write"),
    ("/shards/files.py", (), "encode and write"),
    ("/shards/tar_stream.py", (), "encode and write"),
    ("/shards/", (), "read and join"),
    ("/wsss/data/joined_records.py", (), "read and join"),
    ("/wsss/data/images.py", (), "views and augmentation"),
    ("/wsss/data/augment", (), "views and augmentation"),
    ("/albumentations/", (), "views and augmentation"),
    ("/wsss/models/", (), "network"),
    ("/timm/", (), "network"),
    ("/torch/nn/modules/module.py", (), "network"),
    ("/torch/autograd/__init__.py", (), "network"),
    ("/torch/optim/", (), "network"),
    ("/deepspeed/", (), "network"),
    ("/wsss/losses/", (), "operation"),
    ("/wsss/ops/", (), "operation"),
    ("/wsss/stages/", (), "operation"),
    ("/wsss/tasks/", (), "operation"),
    ("/cluster/training/", (), "training loop"),
    ("/cluster/", (), "runtime"),
    ("/ray/", (), "runtime"),
    ("/wsss/", (), "runtime"),
)
AT_WORK = (("/cluster/shard_work.py", ("make_shard", "count_shard")), ("/cluster/training/engine.py", ("_run_epoch",)))
"""A process has begun to work when one of these is in a stack."""


class Figures(TypedDict):
    """What a process wrote about itself."""

    pid: int
    command: str
    first_work: float
    """Unix time; 0 if it did none."""
    wall_at_work: float
    """Seconds."""
    cpu: float
    """Seconds of the whole process."""
    cpu_at_first_work: float
    seconds: dict[str, float]
    """Part of the work -> CPU seconds."""
    peak_bytes: int


def begin(folder: str) -> None:
    """Watch this process, and those that it forks."""
    _Watch(Path(folder)).start()
    os.register_at_fork(after_in_child=lambda: _Watch(Path(folder)).start())


class _Watch(threading.Thread):
    def __init__(self, folder: Path) -> None:
        super().__init__(name="watch", daemon=True)
        self._path = folder / f"{os.getpid()}-{time.time_ns()}.json"
        self._first_work = 0.0
        self._cpu_at_work = 0.0
        self._wall: dict[bool, float] = {True: 0.0, False: 0.0}
        self._seconds: dict[str, float] = {}
        self._used: dict[int, float] = {}
        self._places: dict[tuple[str, str], str | None] = {}
        self._written = 0.0

    def run(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(PAUSE)
            now = time.monotonic()
            self._look(now - last)
            last = now
            if now - self._written > WRITE_SECONDS:
                self._written = now
                self._write()

    def _look(self, passed: float) -> None:
        frames, works = sys._current_frames(), False
        for thread in threading.enumerate():
            if thread is self or thread.ident not in frames or thread.native_id is None:
                continue
            if (used := _cpu_seconds(thread.native_id)) is None:
                continue
            spent = used - self._used.get(thread.native_id, 0.0)
            self._used[thread.native_id] = used
            part, at_work = self._part(frames[thread.ident])
            works |= at_work
            if spent:
                self._seconds[part] = self._seconds.get(part, 0.0) + spent
        del frames
        if works and not self._first_work:  # what came before was the start of this process
            self._first_work, self._cpu_at_work = time.time() - passed, _process_seconds()
            self._seconds = {START: sum(self._seconds.values())}
        self._wall[works] += passed

    def _part(self, innermost: FrameType) -> tuple[str, bool]:
        """The part of the work of a stack, and whether the stack is that of a process at work."""
        part, at_work, frame = "", False, innermost
        while frame is not None:
            code = frame.f_code
            place = (code.co_filename, code.co_name)
            if not part:
                if place not in self._places:
                    self._places[place] = _part_of(*place)
                part = self._places[place] or ""
            at_work |= any(place[0].endswith(end) and place[1] in names for end, names in AT_WORK)
            frame = frame.f_back  # type: ignore[assignment]
        return part or OTHER, at_work

    def _write(self) -> None:
        cpu = _process_seconds()
        known = dict(self._seconds)
        found: Figures = {
            "pid": os.getpid(),
            "command": Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip(),
            "first_work": self._first_work,
            "wall_at_work": self._wall[True],
            "cpu": cpu,
            "cpu_at_first_work": self._cpu_at_work,
            "seconds": known | {NATIVE: max(cpu - sum(known.values()), 0.0)},
            "peak_bytes": _peak_bytes(),
        }
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(found))
            temporary.replace(self._path)
        except OSError:  # the folder is gone: the benchmark has ended
            return


def _peak_bytes() -> int:
    """As tests.peak_memory, which cannot be imported here."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _part_of(file: str, function: str) -> str | None:
    for end, functions, part in PARTS:
        found = (end in file) if end.endswith("/") or not end.endswith((".py", ">")) else file.endswith(end)
        if found and (not functions or function in functions):
            return part
    return None


def _cpu_seconds(native_id: int) -> float | None:
    try:
        with open(f"/proc/self/task/{native_id}/schedstat", "rb") as file:
            return int(file.read().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _process_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def read_watched(folder: Path) -> list[Figures]:
    """The figures of all processes that were watched into a folder."""
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]
