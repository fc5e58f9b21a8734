"""What the runs of a pipeline are from its start to its end, in a real SQLite store."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from rich.console import Console

from cluster.tracking.mlflow_store import find_runs
from cluster.tracking.outbox import Outbox
from cluster.tracking.sweep_run import tracked_sweep
from cluster.tracking.tracker import MlflowTracker, connect
from shards.records import RunRecord
from tests.tuning.mlflow_store import empty_store, tracker_of
from wsss.contract.curve import CURVE, append_point, remove_points_after
from wsss.contract.runtime import Ending, PipelineRecord, PipelineStart, StageStart, SubmissionRecord, SweepOutcome

FIRST, SECOND = PipelineRecord("toy", "1" * 64), PipelineRecord("toy", "2" * 64)
DATA = {"name": "build_shards", "digest": "d" * 64, "source": "build_shards-dd", "context": "training"}
START = PipelineStart(
    changed={},
    resolved={"train.lr": 0.1, "evaluate.splits": ["val"]},
    command="wsss run toy",
    user="ada",
    git_commit="0123abc-dirty",
    files={"recipe.toml": "[recipe]", "resolved_recipe.toml": "[recipe]\nseed = 1"},
    data=[DATA],
)
STAGE = StageStart("train", "train_segmenter", "a" * 64, 1_700_000_000.0, f"store/train_segmenter-{'a' * 16}")
TRAINED = RunRecord(
    recipe="toy", instance="train", kind="train_segmenter", fingerprint="a" * 64, settings={"train.lr": 0.1},
    upstream={}, git_commit="0123abc", metrics={"train.loss": 0.5}, finished=1_700_000_100.0, trains="affinity network",
    weights={"last": "weights.safetensors", "best": "best.safetensors"}, data=[DATA],
)  # fmt: skip
SCORED = replace(
    TRAINED, instance="evaluate", kind="evaluate", fingerprint="e" * 64, settings={"evaluate.splits": ["val"]},
    metrics={"mean_iou": 0.5, "val.mean_iou": 0.5, "labels_given": 0.0}, trains="", weights={}, model="a" * 64,
    data=[DATA | {"context": "evaluation"}],
)  # fmt: skip


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield empty_store(tmp_path_factory, "writer")


def client_of(runs: Path) -> MlflowClient:
    return connect(f"sqlite:///{runs / 'mlflow.db'}")


def stored(runs: Path) -> dict[str, Run]:
    client = client_of(runs)
    experiment = client.get_experiment_by_name("wsss")
    assert experiment is not None
    found = find_runs(client, experiment=experiment.experiment_id, tags={})
    assert len({run.info.run_name for run in found}) == len(found)
    return {str(run.info.run_name): run for run in found}


def curve(runs: Path) -> Path:
    path = runs / STAGE.path / CURVE
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def history(runs: Path, run: Run, name: str) -> list[tuple[int, float]]:
    points = client_of(runs).get_metric_history(run.info.run_id, name)
    return [(point.step, point.value) for point in sorted(points, key=lambda point: point.timestamp)]


def test_the_experiment_opens_on_its_runs_and_says_where_to_look(runs: Path) -> None:
    client, own = client_of(runs), "mlflow.note.content"
    client.create_experiment(
        "wsss", (runs / "mlartifacts").as_uri(), tags={own: "ours"}
    )  # of an older version, described by its user
    tracker_of(runs).pipeline_started(FIRST, START)
    experiment = client.get_experiment_by_name("wsss")
    assert experiment is not None and experiment.tags[own] == "ours"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_pipeline_is_recorded_from_its_start(runs: Path) -> None:
    tracker = tracker_of(runs)
    tracker.pipeline_started(FIRST, START)
    changed = {"labels.background_threshold": 0.3, "labels.crf_iterations": 0, "train.lr": 1e-4, "evaluate.title": "x"}
    tracker.pipeline_started(SECOND, replace(START, changed=changed, resolved=START.resolved | changed))
    found = stored(runs)
    assert set(found) == {"toy", "toy, background_threshold 0.3, crf_iterations 0, lr 0.0001, 1 more"}
    run, other = found.pop("toy"), found.popitem()[1]
    assert run.info.status == "RUNNING" and run.data.params == {"train.lr": "0.1", "evaluate.splits": '["val"]'}
    tags = run.data.tags
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == ("ada", "wsss run toy")
    assert tags["mlflow.source.git.commit"] == "0123abc" and "wsss.changed_settings" not in tags
    assert other.data.tags["wsss.changed_settings"].startswith("labels.background_threshold = 0.3, ")
    assert "none, the recipe file as it is" in tags["mlflow.note.content"]
    files = {file.path for file in client_of(runs).list_artifacts(run.info.run_id)}
    assert files == {"recipe.toml", "resolved_recipe.toml"}
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest, data.tags[0].value) == ("build_shards", "d" * 32, "training")


def test_a_setting_that_changes_no_result_may_differ_when_a_pipeline_continues(runs: Path) -> None:
    for value in (1, 2):
        start = replace(START, resolved=START.resolved | {"train.world_size": value})
        tracker_of(runs).pipeline_started(FIRST, start)
    assert stored(runs)["toy"].data.params["train.world_size"] == "1"
    assert not (runs / "outbox" / "rejected").exists()


def test_a_kept_stage_is_a_link_and_its_metrics_are_taken_over(runs: Path) -> None:
    tracker = tracker_of(runs)
    for pipeline in (FIRST, SECOND):
        tracker.pipeline_started(pipeline, START)
        tracker.stage_finished(pipeline, TRAINED)
        tracker.stage_finished(pipeline, SCORED)
    found = stored(runs)
    assert set(found) == {"toy", "toy (22222222)", "train", "evaluate"}
    linked = {name: id for name, id in found["toy (22222222)"].data.tags.items() if name.startswith("wsss.kept.")}
    assert linked == {f"wsss.kept.{name}": found[name].info.run_id for name in ("train", "evaluate")}
    assert not [name for name in found["toy"].data.tags if name.startswith("wsss.kept.")]
    once = {"train.train.loss": 0.5, "evaluate.val.mean_iou": 0.5, "evaluate.labels_given": 0.0}
    for name in ("toy", "toy (22222222)"):
        assert found[name].data.metrics == once, "by instance, without `mean_iou`, which repeats `val.mean_iou`"


@pytest.mark.parametrize(("status", "reason"), [("KILLED", "stopped"), ("FAILED", "train: the loss is nan")])
def test_what_was_stopped_or_failed_says_so_until_it_is_resumed_as_the_same_run(
    runs: Path, status: str, reason: str
) -> None:
    tracker = tracker_of(runs)
    tracker.pipeline_started(FIRST, START)
    tracker.stage_started(FIRST, STAGE)
    assert stored(runs)["train"].info.status == "RUNNING"
    tracker.ended(FIRST, Ending(status, reason, STAGE))  # type: ignore[arg-type]
    tracker.ended(FIRST, Ending(status, reason))  # type: ignore[arg-type]
    ended = stored(runs)
    for name in ("toy", "train"):
        assert (ended[name].info.status, ended[name].data.tags["wsss.reason"]) == (status, reason)
    resumed = tracker_of(runs)
    resumed.pipeline_started(FIRST, START)
    resumed.stage_started(FIRST, STAGE)
    assert {run.info.status for run in stored(runs).values()} == {"RUNNING"}
    resumed.stage_finished(FIRST, TRAINED)
    resumed.pipeline_finished(FIRST, {}, {})
    found = stored(runs)
    assert {name: run.info.run_id for name, run in found.items()} == {n: r.info.run_id for n, r in ended.items()}
    for run in found.values():
        assert run.info.status == "FINISHED" and "wsss.reason" not in run.data.tags


def test_points_arrive_while_training_runs_and_once_although_it_resumes(runs: Path) -> None:
    tracker = tracker_of(runs)
    tracker.stage_started(FIRST, STAGE)
    for step in range(1, 6):
        append_point(curve(runs), step=step, values={"train/loss": 1 / step, "validation/mean_iou": step / 10})
        if step == 3:
            tracker.curve_grew(FIRST, STAGE)
            assert [point[0] for point in history(runs, stored(runs)["train"], "train/loss")] == [1, 2, 3]
    tracker.ended(FIRST, Ending("KILLED", "stopped", STAGE))
    remove_points_after(curve(runs), step=2)  # the training resumes from a checkpoint
    other = tracker_of(runs)
    other.stage_started(FIRST, STAGE)
    for step in range(3, 9):
        append_point(curve(runs), step=step, values={"train/loss": 1 / step, "validation/mean_iou": step / 10})
        other.curve_grew(FIRST, STAGE)
    other.stage_finished(FIRST, TRAINED)
    other.stage_finished(FIRST, TRAINED)
    run = stored(runs)["train"]
    assert history(runs, run, "train/loss") == [(step, 1 / step) for step in range(1, 9)]
    assert [step for step, _ in history(runs, run, "validation/mean_iou")] == list(range(1, 9))


def test_points_wait_while_the_server_is_down_in_one_record(runs: Path, tmp_path: Path) -> None:
    refused = MlflowTracker(uri="http://127.0.0.1:9", runs=runs, console=Console(file=io.StringIO()))
    refused.stage_started(FIRST, STAGE)
    for step in range(1, 31):
        append_point(curve(runs), step=step, values={"train/loss": 1 / step})
        refused.curve_grew(FIRST, STAGE)
    assert len(Outbox(runs / "outbox").waiting()) == 2, "the start, and one for the curve"
    assert tracker_of(runs).flush()
    assert [step for step, _ in history(runs, stored(runs)["train"], "train/loss")] == list(range(1, 31))


def test_a_training_keeps_a_model_for_each_file_and_scores_are_tied_to_the_data_set(runs: Path) -> None:
    tracker = tracker_of(runs)
    for _ in range(2):
        tracker.stage_finished(FIRST, TRAINED)
        tracker.stage_finished(FIRST, SCORED)
    client, run = client_of(runs), stored(runs)["train"]
    models = client.search_logged_models([run.info.experiment_id])
    assert sorted(model.name for model in models) == ["toy-train-best", "toy-train-last"]
    assert {model.source_run_id for model in models} == {run.info.run_id}
    assert {model.model_type for model in models} == {"affinity network"}
    assert len(run.outputs.model_outputs) == 2
    (read,) = [client.get_logged_model(m.model_id) for m in models if m.name == "toy-train-last"]
    scores = {(metric.key, metric.value, metric.dataset_name, metric.dataset_digest) for metric in read.metrics}
    assert ("val.mean_iou", 0.5, "build_shards", "d" * 32) in scores
    assert ("train.loss", 0.5, "build_shards", "d" * 32) in scores
    evaluated = stored(runs)["evaluate"].inputs.dataset_inputs
    assert [(one.dataset.digest, one.tags[0].value) for one in evaluated] == [("d" * 32, "evaluation")]


def test_a_submission_is_a_run_of_its_own(runs: Path, tmp_path: Path) -> None:
    archive = runs / "toy" / "submit-1.zip"
    archive.parent.mkdir()
    archive.write_bytes(b"zip")
    made = SubmissionRecord(
        instance="submit", fingerprint="5" * 64, settings={"train.lr": 0.1}, changed={"train.lr": 0.1},
        lineage={"submit": "5" * 64, "train": "a" * 64}, metrics={"LID/val_mean_iou": 0.5, "class_iou/cat": 0.25},
        score="mean IoU 50.0 on val (evaluate)", verdict="in order", git_commit="0123abc",
        files={archive.name: str(archive)}, data=[DATA],
    )  # fmt: skip
    tracker = tracker_of(runs)
    tracker.pipeline_started(FIRST, START)
    for _ in range(2):
        tracker.submission_made(FIRST, made)
    run = stored(runs)["submission toy, lr 0.1"]
    tags = run.data.tags
    assert "mlflow.parentRunId" not in tags and run.info.status == "FINISHED"
    assert (tags["wsss.verdict"], tags["wsss.archive"]) == ("in order", "submit-1.zip")
    assert tags["wsss.upstream.train"] == "a" * 64 and tags["mlflow.source.name"] == "wsss run toy"
    assert run.data.params == {"train.lr": "0.1"}
    assert run.data.metrics == {"LID/val_mean_iou": 0.5, "class_iou/cat": 0.25}
    client = client_of(runs)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["submit-1.zip"]
    assert len(client.get_metric_history(run.info.run_id, "class_iou/cat")) == 1


def test_a_sweep_is_finished_only_when_it_ends(runs: Path) -> None:
    tracker = tracker_of(runs)
    with pytest.raises(KeyboardInterrupt), tracked_sweep(tracker, "thresholds"):
        trial = replace(FIRST, parent="thresholds")
        tracker.pipeline_finished(trial, {"mean_iou": 0.5}, {})
        found = stored(runs)
        assert (found["thresholds"].info.status, found["toy"].info.status) == ("RUNNING", "FINISHED")
        raise KeyboardInterrupt
    assert stored(runs)["thresholds"].info.status == "KILLED"
    with tracked_sweep(tracker, "thresholds"):
        assert stored(runs)["thresholds"].info.status == "RUNNING"
    assert stored(runs)["thresholds"].info.status == "FINISHED"
    with pytest.raises(RuntimeError), tracked_sweep(tracker, "thresholds"):
        raise RuntimeError("no trial has a result")
    ended = stored(runs)["thresholds"]
    assert (ended.info.status, ended.data.tags["wsss.reason"]) == ("FAILED", "no trial has a result")


def test_a_sweep_holds_its_best_settings_scores_and_files(runs: Path) -> None:
    (runs / "thresholds").mkdir()
    (runs / "thresholds" / "best.toml").write_text("best")
    files = {"best.toml": str(runs / "thresholds" / "best.toml")}
    about = {"settings": "labels.threshold", "metric": "mean IoU of evaluate on val"}
    first = SweepOutcome(
        about, {"best.mean_iou": 0.5, "trials": 3.0}, {"labels.threshold": 0.3, "labels.crf": 2}, files
    )
    tracker = tracker_of(runs)
    tracker.sweep_finished("thresholds", first)
    tracker.sweep_finished("thresholds", replace(first, metrics={"best.mean_iou": 0.7}, best={"labels.threshold": 0.4}))
    run = stored(runs)["thresholds"]
    assert {name: tag for name, tag in run.data.tags.items() if ".best." in name} == {
        "wsss.best.labels.threshold": "0.4"
    }
    assert run.data.metrics == {"best.mean_iou": 0.7, "trials": 3.0}
    note = run.data.tags["mlflow.note.content"]
    assert "Metric: mean IoU of evaluate on val" in note and "`labels.threshold = 0.4`" in note and "0.3" not in note
    assert [file.path for file in client_of(runs).list_artifacts(run.info.run_id)] == ["best.toml"]
    client_of(runs).set_tag(run.info.run_id, "mlflow.note.content", "ours")
    tracker.sweep_finished("thresholds", first)
    assert stored(runs)["thresholds"].data.tags["mlflow.note.content"] == "ours"


def test_a_trial_says_what_its_score_depends_on(runs: Path) -> None:
    behind = {"train": "a" * 64, "evaluate": "e" * 64}
    tracker_of(runs).pipeline_finished(replace(FIRST, parent="thresholds", lineage=behind), {"mean_iou": 0.5}, {})
    tags = stored(runs)["toy"].data.tags
    assert {name: tag for name, tag in tags.items() if "upstream" in name} == {
        "wsss.upstream.train": "a" * 64, "wsss.upstream.evaluate": "e" * 64,
    }  # fmt: skip
