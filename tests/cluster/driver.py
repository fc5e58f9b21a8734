"""Runs one tiny instance as the command line would: python -m tests.cluster.driver FOLDER KIND [...].

It calls `wsss.__main__.main`, so that signals, messages, files and exit statuses are the same as for a user.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import psutil
from rich.console import Console

from tests.cluster.tiny import TinyFit, TinyMap, TinyReduce, instance_of
from wsss import __main__ as command_line
from wsss.contract.runtime import Runtime, RuntimeSettings
from wsss.pipeline.progress import Reporter
from wsss.pipeline.recipe import Recipe
from wsss.pipeline.run import RunSummary, run_instance

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"map": TinyMap, "reduce": TinyReduce, "fit": TinyFit}


class OneInstance:
    """The part of a recipe that `run_instance` uses, because tiny stages are not registered for recipe files."""

    class settings:  # noqa: N801
        name = "driver"

    def __init__(self, runtime: RuntimeSettings) -> None:
        self.runtime = runtime


def start(folder: Path, kind: str, *, place: str = "local", debug: bool = False, **options: Any) -> Any:
    """Start a driver in a new process session; the options `stage` and `runtime` are settings."""
    words = [str(folder), kind, place, json.dumps(options.get("stage", {})), json.dumps(options.get("runtime", {}))]
    command = [*options.get("before", ()), sys.executable, "-m", "tests.cluster.driver", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"WSSS_TEST_DEBUG": "1"} if debug else {})
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, env=environment, **pipes)


def run(folder: Path, kind: str, **options: Any) -> tuple[int, str]:
    """Run a driver until it exits; returns its exit status and its output."""
    process = start(folder, kind, **options)
    printed, _ = process.communicate(timeout=300)
    return process.returncode, printed


def wait_for(path: Path, process: Any, *, seconds: float = 120) -> None:
    """Wait until a file exists."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"{path} was not written in time"
        time.sleep(0.02)


def terminate(process: Any) -> tuple[int, str, list[str]]:
    """Send SIGTERM as a batch system does; returns the exit status, the output, and its processes still alive."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    names = {one.pid: " ".join(one.cmdline())[:200] for one in family}
    os.kill(process.pid, signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(family[1:], timeout=20)
    return process.returncode, printed, [names[one.pid] for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def _work(folder: Path, kind: str, place: str, stage: dict[str, Any], runtime: dict[str, Any]) -> int:
    settings = RuntimeSettings(**{"runs": folder, "num_actors": 2, **runtime})
    instance = instance_of(KINDS[kind](**stage), folder)
    reporter = Reporter(Console(stderr=True, highlight=False, width=10_000))
    opened = _open(settings, place)
    try:
        recipe = cast(Recipe, OneInstance(settings))
        record = run_instance(recipe, instance, runtime=opened, reporter=reporter, summary=RunSummary())
    finally:
        opened.close()
    print(json.dumps({"restarts": record.restarts}))
    return 0


def _open(settings: RuntimeSettings, place: str) -> Runtime:
    if place == "local":
        from cluster.local import LocalRuntime

        return LocalRuntime(settings)
    settings.runs.mkdir(parents=True, exist_ok=True)
    (settings.runs / "started").touch()
    from cluster.ray_runtime import RayRuntime

    return RayRuntime(settings, address=None if place == "ray" else place)


def main(words: Iterable[str]) -> int:
    folder, kind, place, stage, runtime = words

    def work(options: argparse.Namespace) -> int:
        return _work(Path(folder), kind, place, json.loads(stage), json.loads(runtime))

    command_line.COMMANDS["run"] = work
    debug = ["--debug"] if os.environ.get("WSSS_TEST_DEBUG") else []
    return command_line.main(["run", "tiny.toml", *debug])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
