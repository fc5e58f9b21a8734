"""Examines everything, prints it, and gives the exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from cluster.doctor.examined import Examined, plain, text_of
from cluster.doctor.machine import examine_machine
from cluster.doctor.packages import examine_packages
from cluster.doctor.run_folder import examine_folder
from cluster.doctor.services import examine_deepspeed, examine_mlflow, examine_ports, examine_ray


def doctor(runs: Path, *, start: bool, as_json: bool) -> int:
    """Print what was found; 1 if there is a fault. `start`: also start Ray, with one actor."""
    examined = list(examine(runs, start=start))
    print(json.dumps(plain(examined), indent=1) if as_json else text_of(examined), end="\n" if as_json else "")
    return 1 if any(one.state == "fault" for one in examined) else 0


def examine(runs: Path, *, start: bool) -> Iterator[Examined]:
    """Everything, in the order in which faults are best mended."""
    yield from examine_packages()
    yield from examine_machine()
    yield from examine_folder(runs)
    yield from examine_ports()
    ray = list(examine_ray(Path.cwd()))
    yield from ray
    if start and not any(one.state == "fault" for one in ray):
        yield _started()
    yield from examine_mlflow(runs)
    yield from examine_deepspeed()


def _started() -> Examined:
    from cluster.doctor.ray_trial import start_and_end

    problem = start_and_end()
    if problem:
        cure = "see the logs of the newest session in Ray's folder (RAY_TMPDIR)"
        return Examined("fault", "Ray", f"does not start: {problem}", cure)
    return Examined("ok", "Ray", "started, ran a task, and ended")
