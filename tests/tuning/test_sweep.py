from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from filelock import FileLock, Timeout
from rich.console import Console

from cluster.session.ray_session import connect as connect_ray
from cluster.tracking.tracker import EXPERIMENT, KIND, PARENT_RUN, SWEEP, connect, find_runs
from cluster.tracking.tracking_address import tracking_uri
from tuning.search_space import load_sweep
from tuning.sweep import run_sweep
from wsss.pipeline.instance_lock import LOCK
from wsss.pipeline.recipe import RecipeError

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RECIPE = """
[recipe]
name = "tiny"
seed = 1
[runtime]
runs = "RUNS"
[stages.build_shards]
source = "toy"
counts = { train = 16, val = 8 }
size = 64
shard_size = 4
[stages.train_classifier]
encoder = "test_efficientnet"
pretrained = "none"
crop_size = 64
resize_long = [56, 72]
batch_size = 8
num_epochs = 1
[stages.make_cams]
scales = [1.0]
[stages.make_seeds]
refine = "none"
[stages.train_affinity]
encoder = "test_efficientnet"
encoder_from = "classifier"
pretrained = "none"
radius = 3
crop_size = 64
resize_long = [56, 72]
batch_size = 8
num_epochs = 1
mean_shift_images = 4
[stages.make_scores]
radius = 3
[stages.make_pseudo_labels]
refine = "none"
[stages.train_segmenter]
[stages.evaluate]
inputs = { records = "make_pseudo_labels" }
[stages.evaluate_walk]
kind = "evaluate"
inputs = { records = "make_scores" }
"""
SWEEP_FILE = """
[sweep]
name = "thresholds"
recipe = "tiny.toml"
metric = "evaluate"
num_trials = 6
seed = 3
[space]
make_seeds.foreground_threshold = { choices = [0.04, 0.3] }
make_pseudo_labels.background_threshold = { low = 0.1, high = 0.3, step = 0.1 }
"""
"""Six settings in all. Three of them are impossible: the background threshold of the seeds is 0.05."""


COUNTED = """
[sweep]
name = "cuts"
recipe = "tiny.toml"
metric = "evaluate_walk"
num_trials = 6
[space]
make_scores.beta = { choices = [5.0, 10.0] }
make_pseudo_labels.background_threshold = { choices = [0.125, 0.25, 0.5] }
"""


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One Ray session for all sweeps of this file."""
    started = connect_ray(None)
    yield
    if started:
        ray.shutdown()


def swept(folder: Path, *, place: str, overrides: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    """The files that the sweep wrote, and its output."""
    said = io.StringIO()
    sweep = load_sweep(folder / "thresholds.toml", overrides)
    status = run_sweep(sweep, place=place, console=Console(file=said, width=200))
    assert status == 0
    content: dict[str, Any] = json.loads((folder / "runs" / "thresholds" / "sweep.json").read_text())
    return content, said.getvalue()


def by_setting(content: dict[str, Any]) -> dict[str, Any]:
    return {json.dumps(trial["values"]): (trial["state"], trial["mean_iou"]) for trial in content["trials"]}


def test_trials_share_what_their_settings_leave_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    (tmp_path / "thresholds.toml").write_text(SWEEP_FILE)

    first, said = swept(tmp_path, place="local")
    assert len(by_setting(first)) == 6, "every setting is tried once"
    pruned = [trial for trial in first["trials"] if trial["state"] == "pruned"]
    assert len(pruned) == 3
    assert all("foreground_threshold = 0.04 must be above" in trial["reason"] for trial in pruned)
    # Three stages before the trials; five in the first valid trial; two in each of the other two.
    assert first["base"]["executed"] == ["build_shards", "train_classifier", "make_cams"]
    assert sorted(len(trial["executed"]) for trial in first["trials"]) == [0, 0, 0, 2, 2, 5]
    assert (first["executed"], first["asked"]) == (12, 24)
    assert not list((tmp_path / "runs" / "store").glob("train_segmenter-*")), "the metric does not read it"
    assert said.count("trial ") == 6
    printed = capsys.readouterr().out
    assert "--set make_seeds.foreground_threshold=0.3 --set make_pseudo_labels.background_threshold=" in printed
    assert "two-fold mean IoU" in printed

    again, _ = swept(tmp_path, place="local")
    assert again["executed"] == 0, "started again, everything is found"
    assert again["trials"][0]["values"] == first["trials"][0]["values"]
    assert by_setting(again) == by_setting(first)
    assert again["two_fold"] == first["two_fold"]

    for folder in (tmp_path / "runs" / "store").glob("make_pseudo_labels-*"):
        shutil.rmtree(folder)
    concurrent, _ = swept(tmp_path, place="ray", overrides=("sweep.max_concurrent=2",))
    # If two trials run at the same time, the search may repeat a setting and miss another.
    assert by_setting(concurrent).items() <= by_setting(first).items()
    done = [state for state, _ in by_setting(concurrent).values() if state == "done"]
    assert concurrent["executed"] == len(done), "only layers that were removed, each once"

    client = connect(tracking_uri("", runs=tmp_path / "runs"))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    sweeps = find_runs(client, experiment=experiment.experiment_id, tags={KIND: "sweep"})
    pipelines = find_runs(client, experiment=experiment.experiment_id, tags={KIND: "pipeline"})
    assert [run.data.tags[SWEEP] for run in sweeps] == ["thresholds"], (
        "one parent run, however often the sweep is started"
    )
    assert len(pipelines) == 1 + 3, "what all trials share, and the three that could run"
    assert {run.data.tags[PARENT_RUN] for run in pipelines} == {sweeps[0].info.run_id}


def test_thresholds_are_read_off_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    (tmp_path / "cuts.toml").write_text(COUNTED)
    assert run_sweep(load_sweep(tmp_path / "cuts.toml"), place="local", console=Console(quiet=True)) == 0
    content: dict[str, Any] = json.loads((tmp_path / "runs" / "cuts" / "sweep.json").read_text())
    assert [trial["state"] for trial in content["trials"]] == ["done"] * 6
    executed = sorted(trial["executed"] for trial in content["trials"])
    assert executed == [[]] * 4 + [["make_scores", "evaluate_walk"]] * 2, "one pass for each beta"
    assert not list((tmp_path / "runs" / "store").glob("make_pseudo_labels-*"))
    printed = capsys.readouterr().out
    assert "no labels were made: trials read the counts of evaluate_walk" in printed
    assert "make_pseudo_labels.background_threshold=" in printed

    client = connect(tracking_uri("", runs=tmp_path / "runs"))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    pipelines = find_runs(client, experiment=experiment.experiment_id, tags={KIND: "pipeline", SWEEP: "cuts"})
    found = sorted(
        (run.data.metrics["background_threshold"], run.data.metrics["mean_iou"])
        for run in pipelines
        if "background_threshold" in run.data.metrics
    )
    wanted = [
        (trial["values"]["make_pseudo_labels.background_threshold"], trial["mean_iou"]) for trial in content["trials"]
    ]
    assert found == sorted(wanted), "every trial is a run of its own"
    trials = [run for run in pipelines if "background_threshold" in run.data.metrics]
    assert all({"wsss.upstream.make_cams", "wsss.upstream.evaluate_walk"} <= run.data.tags.keys() for run in trials)

    (own,) = find_runs(client, experiment=experiment.experiment_id, tags={KIND: "sweep"})
    best = content["trials"][content["best"]["trial"] - 1]
    assert own.data.metrics["best.mean_iou"] == best["mean_iou"] and own.data.metrics["trials.done"] == 6
    assert own.data.metrics["two_fold.mean_iou"] == content["two_fold"]["mean_iou"]
    named = {name: json.dumps(value) for name, value in best["values"].items()}
    assert {name: own.data.tags[f"wsss.best.{name}"] for name in named} == named
    files = {file.path for file in client.list_artifacts(own.info.run_id)}
    assert {"best.toml", "importance.png", "sweep.md", "sweep.json"} <= files


def test_one_process_at_a_time_runs_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two would write the same table, and the first to end would call the sweep's run finished."""
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    (tmp_path / "cuts.toml").write_text(COUNTED)
    sweep = load_sweep(tmp_path / "cuts.toml")
    seen = []

    def look(*_: object, **__: object) -> int:
        with pytest.raises(Timeout):
            FileLock(sweep.folder / LOCK).acquire(timeout=0)
        seen.append(True)
        return 0

    monkeypatch.setattr("tuning.sweep._run_tracked", look)
    assert run_sweep(sweep, place="local", console=Console(quiet=True)) == 0
    assert seen == [True]


def test_a_folder_of_runs_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("RUNS", str(tmp_path / "file" / "runs")))
    (tmp_path / "cuts.toml").write_text(COUNTED)
    said = io.StringIO()
    with pytest.raises(RecipeError, match="cannot be written to"):
        run_sweep(load_sweep(tmp_path / "cuts.toml"), place="local", console=Console(file=said))
    assert said.getvalue() == ""


TABLE = """
[sweep]
name = "table"
recipe = "tiny.toml"
metric = "evaluate"
method = "grid"
[space]
make_pseudo_labels.background_threshold = { choices = [0.1, 0.3] }
[cases.walk]
near = { make_scores.beta = 5.0, make_scores.radius = 3 }
far = { make_scores.beta = 1.0, make_scores.radius = 5 }
"""


@pytest.mark.extended
def test_a_grid_tries_every_combination_once_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    (tmp_path / "table.toml").write_text(TABLE)

    def run() -> dict[str, Any]:
        assert run_sweep(load_sweep(tmp_path / "table.toml"), place="local", console=Console(quiet=True)) == 0
        found: dict[str, Any] = json.loads((tmp_path / "runs" / "table" / "sweep.json").read_text())
        return found

    content = run()
    order = [tuple(trial["values"].values()) for trial in content["trials"]]
    assert order == [(0.1, "near"), (0.1, "far"), (0.3, "near"), (0.3, "far")]
    assert [trial["state"] for trial in content["trials"]] == ["done"] * 4
    made = ["make_pseudo_labels", "evaluate"]
    assert [trial["executed"] for trial in content["trials"]] == [["make_scores", *made]] * 2 + [made] * 2
    printed = capsys.readouterr().out
    assert "every combination was tried" in printed
    assert "--set make_scores.beta=" in printed, "the best setting is printed as settings, not as the name of a case"

    shutil.rmtree(next(iter((tmp_path / "runs" / "store").glob("make_pseudo_labels-*"))))
    again = run()
    assert sorted(len(trial["executed"]) for trial in again["trials"]) == [0, 0, 0, 1], (
        "only the result that was removed is computed again"
    )
    assert by_setting(again) == by_setting(content)

    client = connect(tracking_uri("", runs=tmp_path / "runs"))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    pipelines = find_runs(client, experiment=experiment.experiment_id, tags={KIND: "pipeline", SWEEP: "table"})
    rows = {
        (float(run.data.params["make_pseudo_labels.background_threshold"]), run.data.params["walk"])
        for run in pipelines
        if "walk" in run.data.params
    }
    assert rows == set(order) and len(pipelines) == 1 + 4, "a run for each trial, and one for the shared stages"


RATES = """
[sweep]
name = "rates"
recipe = "tiny.toml"
metric = "evaluate"
method = "grid"
stop_by = "train_classifier"
grace_epochs = 6
reduction_factor = 2
objectives = ["mean_iou", "seconds"]
[fixed]
train_classifier.validate_every = 1
train_classifier.num_epochs = 6
make_seeds.foreground_threshold = 0.3
[space]
train_classifier.learning_rate = { choices = [0.01, 1e-6, 2e-6] }
"""


@pytest.mark.extended
def test_a_search_with_one_objective_stops_bad_trainings(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    search = RATES.replace('method = "grid"', "num_trials = 3").replace('objectives = ["mean_iou", "seconds"]\n', "")
    (tmp_path / "rates.toml").write_text(search)
    assert run_sweep(load_sweep(tmp_path / "rates.toml"), place="local", console=Console(quiet=True)) == 0
    content = json.loads((tmp_path / "runs" / "rates" / "sweep.json").read_text())
    states = [trial["state"] for trial in content["trials"]]
    assert len(states) == 3 and "done" in states and set(states) <= {"done", "stopped"}


@pytest.mark.extended
def test_bad_trainings_are_stopped_and_stay_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the only rung, its last epoch, the first training is better than chance, and those of tiny rates are not."""
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    (tmp_path / "rates.toml").write_text(RATES)

    def run() -> dict[str, Any]:
        assert run_sweep(load_sweep(tmp_path / "rates.toml"), place="local", console=Console(quiet=True)) == 0
        found: dict[str, Any] = json.loads((tmp_path / "runs" / "rates" / "sweep.json").read_text())
        return found

    content = run()
    states = [trial["state"] for trial in content["trials"]]
    assert states == ["done", "stopped", "stopped"]
    stopped = [trial for trial in content["trials"] if trial["state"] == "stopped"]
    assert all(re.match(r"stopped after epoch \d: its validation score", trial["reason"]) for trial in stopped)
    assert not any(trial["fold_iou"] for trial in stopped)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs" / "store").glob("*/run.json")}
    assert "in both mean IoU and seconds: trials" in capsys.readouterr().out

    again = run()
    assert [trial["state"] for trial in again["trials"]] == states
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert again["executed"] == 0, "a trial that was stopped does not run again"
