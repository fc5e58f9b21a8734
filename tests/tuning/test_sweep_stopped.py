"""A sweep that is killed and started again, from a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.tracking.tracker import EXPERIMENT, KIND, PARENT_RUN, PIPELINE, connect, find_runs
from cluster.tracking.tracking_address import tracking_uri
from tests.tuning.test_sweep import RECIPE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.extended]
SWEEP = """
[sweep]
name = "thresholds"
recipe = "tiny.toml"
metric = "evaluate"
num_trials = 5
max_concurrent = CONCURRENT
seed = 3
[space]
make_scores.beta = { choices = [5.0, 10.0] }
make_pseudo_labels.background_threshold = { low = 0.1, high = 0.5, step = 0.1 }
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TUNE_GLOBAL_CHECKPOINT_S": "0"}
    command = [sys.executable, "-m", "wsss", "sweep", str(folder / "thresholds.toml"), "--on", "local"]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


def written(folder: Path) -> dict[str, int]:
    """Every finished stage instance and when it was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (folder / "runs" / "store").glob("*/run.json")}


def wait_for(folder: Path, process: subprocess.Popen[bytes], line: str) -> None:
    end = time.monotonic() + 150
    while line not in (folder / "log.txt").read_text():
        assert process.poll() is None and time.monotonic() < end, (folder / "log.txt").read_text()[-3000:]
        time.sleep(0.1)


def journal(folder: Path) -> list[dict[str, Any]]:
    content = json.loads((folder / "runs" / "thresholds" / "trials.json").read_text())
    return [one["suggestion"] for one in content["trials"]]


def prepare(folder: Path, *, concurrent: int) -> None:
    (folder / "tiny.toml").write_text(RECIPE.replace("RUNS", str(folder / "runs")))
    (folder / "thresholds.toml").write_text(SWEEP.replace("CONCURRENT", str(concurrent)))


def tune_frame(folder: Path) -> Any:
    """The experiment as Ray Tune itself loads it."""
    from ray import tune

    from tuning.sweep_trial import trial

    path = folder / "runs" / "thresholds" / "tune" / "thresholds"
    return tune.Tuner.restore(str(path), trainable=trial).get_results().get_dataframe()


@pytest.mark.parametrize(
    ("number", "concurrent"), [(signal.SIGKILL, 2), (signal.SIGTERM, 1)], ids=["SIGKILL", "SIGTERM"]
)
def test_no_trial_stage_or_run_is_there_twice(tmp_path: Path, number: signal.Signals, concurrent: int) -> None:
    prepare(tmp_path, concurrent=concurrent)
    process = start(tmp_path)
    wait_for(tmp_path, process, "trial 1 of 5")
    before = written(tmp_path)
    process.send_signal(number)
    status = process.wait(timeout=60)
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM)
    begun = journal(tmp_path)
    assert 1 <= len(begun) <= 5

    process = start(tmp_path)
    assert process.wait(timeout=150) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    after = written(tmp_path)
    assert before.items() <= after.items(), "what was finished was executed again"
    content = json.loads((tmp_path / "runs" / "thresholds" / "sweep.json").read_text())
    values = [json.dumps(trial["values"], sort_keys=True) for trial in content["trials"]]
    assert len(values) == len(set(values)) == 5
    assert journal(tmp_path)[: len(begun)] == begun, "the trials that had begun come first, in their order"
    executed = Counter(name for trial in content["trials"] for name in trial["executed"])
    assert executed["make_scores"] <= 2, "one for each beta"
    assert sum(name.startswith("make_scores-") for name in after) == 2
    assert sum(name.startswith("make_pseudo_labels-") for name in after) == 5

    frame = tune_frame(tmp_path)
    assert len(frame) == 5 and sorted(frame["mean_iou"]) == sorted(trial["mean_iou"] for trial in content["trials"])

    client = connect(tracking_uri("", runs=tmp_path / "runs"))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    sweeps = find_runs(client, experiment=experiment.experiment_id, tags={KIND: "sweep"})
    pipelines = find_runs(client, experiment=experiment.experiment_id, tags={KIND: "pipeline"})
    assert len(sweeps) == 1
    assert {run.data.tags[PARENT_RUN] for run in pipelines} == {sweeps[0].info.run_id}
    fingerprints = [run.data.tags[PIPELINE] for run in pipelines]
    assert len(fingerprints) == len(set(fingerprints)) == 1 + 5


def test_the_folder_of_a_killed_sweep_loads_too(tmp_path: Path) -> None:
    prepare(tmp_path, concurrent=1)
    process = start(tmp_path)
    try:
        wait_for(tmp_path, process, "trial 3 of 5")
    finally:
        process.kill()
        process.wait()
    assert len(tune_frame(tmp_path)) >= 1
