"""Folders of runs: a reference made without Ray, how far a run on the hosts is, and whether its bytes are the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.dashboard import ENDED, Job
from tests.hosts.lab import PROJECT

RECIPE = "tests/recipes/hosts.toml"


class Reference:
    """A run of the recipe in processes of this machine, without Ray; it starts at once and is waited for on use."""

    def __init__(self, folder: Path, *overrides: str, last: str = "submit") -> None:
        """`last`: the last instance to run."""
        self.folder = folder
        folder.mkdir(parents=True)
        self.began = time.monotonic()
        settings = [word for override in overrides for word in ("--set", override)]
        command = [sys.executable, "-m", "wsss", "run", RECIPE, "--on", "local", "--to", last]
        command += ["--set", f"runtime.runs={folder}"]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        self._log = folder / "log.txt"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *settings], cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self) -> Path:
        """Its folder, once it is finished."""
        assert self._process.wait() == 0, self._log.read_text()[-3000:]
        return self.folder

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True)
class Runs:
    """A folder of runs in the shared folder, seen from outside."""

    shared: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.shared / self.name

    @property
    def inside(self) -> str:
        """The same folder on the hosts."""
        return f"/mnt/shared/{self.name}"

    def instance(self, kind: str) -> Path | None:
        """The newest folder of an instance of this kind."""
        found = sorted((self.folder / "store").glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)
        return found[-1] if found else None

    def shards_done(self, kind: str) -> set[str]:
        path = self.instance(kind)
        return {tar.stem for tar in path.glob("[!.]*.tar")} if path is not None else set()

    def num_shards(self, kind: str = "build_shards") -> int:
        return len(self.shards_done(kind))

    def step(self, kind: str = "train_classifier") -> int:
        """The step of the latest checkpoint; 0 if there is none."""
        path = self.instance(kind)
        try:
            return int(json.loads((path / "checkpoints" / "latest.json").read_text())["step"]) if path else 0
        except (OSError, ValueError):
            return 0

    def wait_for_step(self, step: int, *, job: Job, kind: str = "train_classifier", timeout: float = 300.0) -> int:
        """Wait for a checkpoint of this step or later; its step. Raises AssertionError if the job ends before."""

        def reached() -> bool:
            assert job.status() not in ENDED or self.step(kind) >= step, job.logs()[-3000:]
            return self.step(kind) >= step

        wait_until(reached, f"a checkpoint of step {step} in {self.folder}", timeout=timeout, pause=0.3)
        return self.step(kind)

    def copy_from(self, reference: Path, kinds: Sequence[str]) -> None:
        """Put finished instances of these kinds into this folder, which is emptied before."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "store").mkdir(parents=True)
        for path in sorted((reference / "store").iterdir()):
            if path.name.rpartition("-")[0] in kinds:
                target = self.folder / "store" / path.name
                shutil.copytree(path, target)
                for record in target.glob("run.json"):
                    record.write_text(record.read_text().replace(str(reference), self.inside))


def digests(runs: Path) -> dict[str, str]:
    """Instance and file -> digest of what must not depend on how it came about: tars, rows, indices, weights, zips.

    The name of an instance's folder contains the fingerprint, so equal names have equal settings.
    """
    found = {}
    for path in sorted((runs / "store").glob("*/[!.]*")):
        is_row = path.suffix == ".json" and (path.name == "index.json" or path.with_suffix(".tar").exists())
        if path.suffix in (".tar", ".safetensors") or is_row:
            found[f"{path.parent.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    for path in sorted(runs.glob("*/submit-*.zip")):
        found[f"{path.parent.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def metrics(runs: Path, instance: str) -> dict[str, float]:
    """The metrics in the record of a finished instance."""
    for path in (runs / "store").glob("*/run.json"):
        record = json.loads(path.read_text())
        if record["instance"] == instance:
            found: dict[str, float] = record["metrics"]
            return found
    raise AssertionError(f"{instance} is not done in {runs}")


def differences(runs: Path, reference: Path, *, kinds: Sequence[str] = ()) -> list[str]:
    """What differs between two runs, or is in one only; of all instances, or of these kinds.

    Raises AssertionError if there is nothing to compare.
    """
    ours, theirs = digests(runs), digests(reference)
    if kinds:
        ours, theirs = _of_kinds(ours, kinds), _of_kinds(theirs, kinds)
    assert theirs, f"nothing to compare in {reference}"
    changed = [f"{name} differs" for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
    missing = [f"{name} is missing" for name in sorted(theirs.keys() - ours.keys())]
    return changed + missing + [f"{name} is new" for name in sorted(ours.keys() - theirs.keys())]


def _of_kinds(found: Mapping[str, str], kinds: Sequence[str]) -> dict[str, str]:
    return {name: digest for name, digest in found.items() if name.partition("/")[0].rpartition("-")[0] in kinds}


def wait_until(condition: Callable[[], bool], what: str, *, timeout: float, pause: float = 0.05) -> float:
    """Seconds until the condition held. Raises AssertionError if it does not within the time."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < timeout, f"not within {timeout:.0f} s: {what}"
        time.sleep(pause)
    return time.monotonic() - begun
