"""One command with all its processes: CPU seconds of each over time, and their memory."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

COMMAND = "command"
_PAUSE = 1.0


@dataclass
class Watched:
    """What was seen of a command."""

    pid: int
    begun: float
    """Unix time."""
    ended: float = 0.0
    cpu: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    """Process -> (Unix time, its CPU seconds until then), about once a second."""

    def cpu_after(self, when: float, *, without: frozenset[int] = frozenset()) -> float:
        """CPU seconds of all processes but `without` after a Unix time."""
        total = 0.0
        for pid, seen in self.cpu.items():
            if pid not in without:
                before = [seconds for time_, seconds in seen if time_ <= when]
                total += seen[-1][1] - (before[-1] if before else 0.0)
        return total


def run_watched(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    output: Path,
    seen: Path,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Run a command in `folder`; returns its exit code. When `stop` returns True it is sent SIGTERM.

    Its output is appended to the file `output`. What was seen is written to COMMAND in the folder `seen`, also if the
    benchmark itself is interrupted.
    """
    begun = time.time()
    with output.open("ab") as file:
        process = subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=file, stderr=subprocess.STDOUT)
        watched = Watched(pid=process.pid, begun=begun)
        ended = threading.Event()
        thread = threading.Thread(target=_watch, args=(psutil.Process(process.pid), watched, ended), daemon=True)
        thread.start()
        try:
            while process.poll() is None:
                if stop():
                    process.send_signal(signal.SIGTERM)
                    process.wait()
                    break
                time.sleep(0.2)
        except BaseException:  # the benchmark was interrupted: the command stops too, and resumes next time
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
        finally:
            ended.set()
            thread.join()
            watched.ended = time.time()
            (seen / COMMAND).write_text(json.dumps(asdict(watched)))
    return process.returncode


def read_command(seen: Path) -> Watched:
    """What was seen of a command."""
    found = json.loads((seen / COMMAND).read_text())
    return Watched(**found | {"cpu": {int(pid): [tuple(one) for one in each] for pid, each in found["cpu"].items()}})


def _watch(driver: psutil.Process, watched: Watched, ended: threading.Event) -> None:
    known: dict[int, psutil.Process] = {driver.pid: driver}
    while not ended.wait(_PAUSE):
        try:
            known |= {child.pid: child for child in driver.children(recursive=True) if child.pid not in known}
        except psutil.NoSuchProcess:
            return
        now = time.time()
        for pid, process in list(known.items()):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                del known[pid]
                continue
            watched.cpu.setdefault(pid, []).append((now, times.user + times.system))
