"""The hosts themselves: they are separate, and nothing of them is left however their process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hosts.lab import PROJECT, SMALL, base_folder, lab, remove_leftovers
from tests.hosts.processes import namespace_of
from tests.hosts.requirements import NOT_RUN, missing
from tests.hosts.runs import wait_until

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(300)]
HOLD = """
import sys, time
from tests.hosts.lab import lab
with lab(workers=1) as hosts:
    print(hosts.folder, hosts.hosts["w1"].pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def possible() -> None:
    if reason := missing():
        pytest.skip(f"{NOT_RUN}separate hosts: {reason}")


@contextmanager
def held() -> Iterator[tuple[subprocess.Popen[str], Path, str]]:
    """Another process with hosts: itself, their folder, and the process namespace of one of them."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        folder, pid = process.stdout.readline().split()
        yield process, Path(folder), namespace_of(int(pid))
    finally:
        process.kill()
        process.wait()


def in_namespace(namespace: str) -> list[int]:
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [number for number in numbers if namespace_of(number) == namespace]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left(number: signal.Signals) -> None:
    with held() as (process, folder, namespace):
        assert folder.parent == base_folder() and folder.exists() and in_namespace(namespace)
        remove_leftovers()
        assert folder.exists(), "its process is alive"
        process.send_signal(number)
        process.wait(timeout=60)
        wait_until(lambda: not in_namespace(namespace), "the end of all processes", timeout=30)
        if number == signal.SIGKILL:
            assert folder in remove_leftovers()
        assert not folder.exists()


def test_hosts_are_separate_and_share_one_folder() -> None:
    with lab(workers=1) as made:
        head, worker = made.head, made.hosts["w1"]
        for path in ("/tmp/mine", "/root/mine", "/dev/shm/mine", "/mnt/shared/ours"):
            head.run(f"echo {head.name} > {path}")
        assert worker.run("cat /mnt/shared/ours") == "head\n"
        for path in ("/tmp/mine", "/root/mine", "/dev/shm/mine"):
            assert worker.run(f"test -e {path} && echo there", check=False) == ""
        assert not Path("/mnt/shared/ours").exists(), "this machine has no such folder"
        head.run("python -m venv --help > /dev/null; touch $(dirname $(which python))/mine")
        assert worker.run("test -e $(dirname $(which python))/mine && echo there", check=False) == ""
        assert not (Path(sys.prefix) / "bin" / "mine").exists()
        processes = worker.run("ps -e -o comm=").split()
        assert "sshd" in processes and len(processes) < 12, processes
        assert worker.run(f"getent hosts {worker.name}").split() == ["127.0.1.1", "w1"]


def test_cable_power_and_disk() -> None:
    with lab(workers=1) as made:
        head, worker = made.head, made.hosts["w1"]
        knock = f"timeout 2 bash -c '< /dev/tcp/{worker.address}/22' 2> /dev/null && echo open"
        assert head.run(knock, check=False) == "open\n"
        worker.cut()
        assert head.run(knock, check=False) == ""
        worker.mend()
        wait_until(lambda: head.run(knock, check=False) == "open\n", "the link", timeout=20, pause=0.5)
        worker.run("touch /tmp/mine ~/mine; nohup sleep 600 > /dev/null 2>&1 &")
        namespace = namespace_of(worker.pid)
        worker.power_off()
        assert not in_namespace(namespace)
        assert head.run(knock, check=False) == ""
        worker.start()
        assert worker.run("ls ~/mine /tmp", check=False).split() == [f"{Path.home()}/mine", "/tmp:"]
        assert head.run(knock, check=False) == "open\n"
        with made.small_disk_full():
            full = worker.run(f"echo more > /mnt/shared/{SMALL}/file", check=False)
            assert "No space left on device" in full
            assert head.run("echo more > /mnt/shared/file && cat /mnt/shared/file") == "more\n"
        assert worker.run(f"echo more > /mnt/shared/{SMALL}/file && cat /mnt/shared/{SMALL}/file") == "more\n"
