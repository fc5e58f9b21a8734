"""Seconds per image read from run records, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shards.records import RunRecord
from tests.wsss.plan.test_hardware import CLUSTER, COSTS, MAPS, TRAINING, cost
from wsss.__main__ import main
from wsss.contract.stage import Instance, Stage
from wsss.pipeline.recipe import Recipe, dotted_settings, load_recipe
from wsss.plan.costs import PlanError
from wsss.plan.hardware import CPU, DECODE, DRIVER, GPU, START, VALIDATION, Limits, time_of
from wsss.plan.measured import Measured, MeasuredRun, measured_lines, read_run
from wsss.plan.plan import make_plan
from wsss.stages.evaluate import Evaluate
from wsss.stages.make_cams import MakeCams
from wsss.stages.train_classifier import TrainClassifier

RECIPE = """
[recipe]
name = "small"

[defaults]
pretrained = "none"
encoder = "test_efficientnet"

[stages.build_shards]
source = "toy"
counts = { train = 40, val = 8 }

[stages.train_classifier]
batch_size = 8
num_epochs = 3

[stages.make_cams]
scales = [1.0]
"""
SHARDS = {"images": 48.0, "seconds": 24.0, "workers": 3.0, "threads": 2.0, "gpus": 0.0, "driver_seconds": 1.0}
FIT = {"workers": 2.0, "threads": 1.0, "gpus": 0.0, "driver_seconds": 0.0}
ALONE = replace(CLUSTER, gpus_per_node=0, gpu=None)
FIGURES = replace(COSTS, costs={**COSTS.costs, "driver_row": cost(1e-5)})
ROWS = replace(MAPS, driver={"driver_row": 6400.0})


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return load_recipe(path, [f"runtime.runs={tmp_path}/planned"])


def leave(folder: Path, instance: Instance, number: int = 0, **changes: object) -> None:
    """A run record in the store of a run's folder."""
    fields: dict[str, object] = {
        "recipe": "small",
        "instance": instance.name,
        "kind": instance.stage.kind,
        "fingerprint": "f",
        "settings": dotted_settings(instance),
        "upstream": {},
        "git_commit": "",
        "metrics": {},
        "seconds": 14.0,
        "work": SHARDS,
    }
    record = RunRecord(**{**fields, **changes})  # type: ignore[arg-type]
    path = folder / "store" / f"{instance.stage.kind}-{number}"
    path.mkdir(parents=True, exist_ok=True)
    replace(instance, path=path).write_run_record(record)


def read(folder: Path, recipe: Recipe, name: str) -> Measured:
    return read_run(folder, (recipe.instance(name),)).found[name]


def measured(**changes: object) -> Measured:
    fields: dict[str, object] = {
        "seconds": 0.5,
        "start": 3.0,
        "driver": 2.0,
        "images": 64,
        "workers": 1,
        "cores": 1,
        "on_gpu": False,
        "idle": None,
        "differing": (),
    }
    return Measured(**{**fields, **changes})  # type: ignore[arg-type]


def test_shards_by_hand(recipe: Recipe, tmp_path: Path) -> None:
    leave(tmp_path, recipe.instance("make_cams"))
    found = read(tmp_path, recipe, "make_cams")
    assert found.seconds == pytest.approx(24 / 48 * 2), "of two cores, which each worker had"
    assert found.start == pytest.approx(14 - 24 / 3 - 1), "what neither workers nor the driver account for"
    assert (found.driver, found.images, found.workers, found.on_gpu) == (1.0, 48, 3, False)
    leave(tmp_path, recipe.instance("make_cams"), work=SHARDS | {"gpus": 0.5})
    on_gpu = read(tmp_path, recipe, "make_cams")
    assert on_gpu.on_gpu and on_gpu.seconds == pytest.approx(24 / 48)


def test_what_is_loaded_once_is_start_up(recipe: Recipe, tmp_path: Path) -> None:
    """Three workers took 15 of their 24 seconds for their first shards, a quarter of the images."""
    later = {"later_images": 36.0, "later_seconds": 9.0}
    leave(tmp_path, recipe.instance("make_cams"), work=SHARDS | later)
    found = read(tmp_path, recipe, "make_cams")
    assert found.seconds == pytest.approx(9 / 36 * 2)
    assert found.start == pytest.approx(14 - 48 * (9 / 36) / 3 - 1)


def test_few_later_images_are_no_measurement(recipe: Recipe, tmp_path: Path) -> None:
    """5 of 48 images are the small last shard of a split, whose fixed costs would count as those of an image."""
    leave(tmp_path, recipe.instance("make_cams"), work=SHARDS | {"later_images": 5.0, "later_seconds": 9.0})
    assert read(tmp_path, recipe, "make_cams").seconds == pytest.approx(24 / 48 * 2), (
        "all shards, as without later ones"
    )


def test_a_training_by_its_history(recipe: Recipe, tmp_path: Path) -> None:
    rows = [{"epoch": n, "step": 5 * n, "images_per_second": rate} for n, rate in ((1, 10.0), (2, 40.0), (3, 20.0))]
    leave(tmp_path, recipe.instance("train_classifier"), work=FIT, tables={"history": rows}, seconds=30.0)
    found = read(tmp_path, recipe, "train_classifier")
    assert found.seconds == pytest.approx(2 * (1 / 40 + 1 / 20) / 2), "two ranks; the first epoch waits for its start"
    assert found.images == 3 * 5 * 8
    assert found.start == pytest.approx(30 - (40 / 10 + 40 / 40 + 40 / 20))


def test_an_epoch_has_as_large_a_part_of_the_images_as_in_the_run(recipe: Recipe, tmp_path: Path) -> None:
    """40 of 100 training images: the others had no label, or were not drawn."""
    rows = [{"epoch": n, "step": 5 * n, "images_per_second": 10.0} for n in (1, 2)]
    leave(tmp_path, recipe.instance("train_classifier"), work=FIT, tables={"history": rows}, seconds=30.0)
    assert read(tmp_path, recipe, "train_classifier").examples == 0.0, "the run has no record of its data set"
    leave(tmp_path, recipe.instance("build_shards"), 2, work=SHARDS, metrics={"records.train": 100.0})
    found = read(tmp_path, recipe, "train_classifier")
    assert found.examples == pytest.approx(0.4)
    assert found.of_as_many(TRAINING, train_images=1000) == replace(TRAINING, examples=400)


def test_of_several_records_the_one_of_the_planned_settings_is_taken(recipe: Recipe, tmp_path: Path) -> None:
    instance = recipe.instance("make_cams")
    other = dotted_settings(instance) | {"make_cams.flip": False, "make_cams.scales": [2.0]}
    one = dotted_settings(instance) | {"make_cams.flip": False}
    leave(tmp_path, instance, 1, settings=other, work=SHARDS | {"seconds": 1.0}, finished=3.0)
    leave(tmp_path, instance, 2, settings=one, work=SHARDS | {"seconds": 2.0}, finished=1.0)
    leave(tmp_path, instance, 3, settings=one, work=SHARDS | {"seconds": 3.0}, finished=2.0)
    found = read(tmp_path, recipe, "make_cams")
    assert found.seconds == pytest.approx(3.0 / 48 * 2)
    assert found.differing == ("make_cams.flip false -> true",)
    lines = measured_lines(read_run(tmp_path, (instance,)), from_tables={})
    assert "    settings that differ (run -> plan): make_cams.flip false -> true" in lines


def test_settings_that_change_no_result_do_not_count_as_different(recipe: Recipe, tmp_path: Path) -> None:
    instance = recipe.instance("train_classifier")
    own = dotted_settings(instance) | {"train_classifier.loader_workers": 8}
    rows = [{"epoch": 1, "step": 5, "images_per_second": 10.0}]
    leave(tmp_path, instance, settings=own, work=FIT, tables={"history": rows})
    assert read(tmp_path, recipe, "train_classifier").differing == ()


def test_what_a_run_does_not_tell_has_its_reason(recipe: Recipe, tmp_path: Path) -> None:
    leave(tmp_path, recipe.instance("make_cams"), work={})
    leave(tmp_path, recipe.instance("build_shards"), work=SHARDS | {"images": 0.0, "seconds": 0.0, "workers": 0.0})
    run = read_run(tmp_path, recipe.instances)
    assert run.found == {}
    assert "run it again with this version" in run.lacking["make_cams"]
    assert "its shards were reused" in run.lacking["build_shards"]
    assert run.lacking["train_classifier"] == "it is not in the run"


def test_a_folder_without_a_run_is_refused(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PlanError, match=r"--measured .*none: it contains no store/\*/run\.json; give the folder"):
        read_run(tmp_path / "none", recipe.instances)
    command = ["plan", str(recipe.path), "--gpus-per-node", "0", "--measured", str(tmp_path / "none")]
    assert main(command) == 1
    assert "runtime.runs" in capsys.readouterr().err


def test_rows_of_the_run_and_of_the_tables_are_distinguished() -> None:
    run = MeasuredRun(folder=Path("runs"), found={"make_cams": measured()}, lacking={})
    lines = measured_lines(run, from_tables={"predict": "from the tables; it is not in the run"})
    assert lines == [
        "measured by the run in runs, used instead of the tables:",
        "  make_cams: 0.5 core-s per image, over 64 images, 1 worker; start-up 3.0 s, driver 2.0 s",
        "not measured by that run:",
        "  predict: from the tables; it is not in the run",
    ]
    assert "2 workers of 4 cores" in measured(workers=2, cores=4).in_words()
    assert "waiting" not in measured(on_gpu=True).in_words()
    found = measured(on_gpu=True, idle=0.123).in_words()
    assert "0.5 GPU-s per image, 12% of it waiting for decoding and writing" in found


@pytest.mark.parametrize(("planned", "is_guess"), [(64 * 150, False), (64 * 150 + 1, True)])
def test_a_run_that_is_far_smaller_than_the_plan_is_said_to_be_a_guess(planned: int, is_guess: bool) -> None:
    run = MeasuredRun(folder=Path("runs"), found={"make_cams": measured(), "predict": measured()}, lacking={})
    lines = measured_lines(run, from_tables={}, planned={"make_cams": planned, "predict": 64})
    guesses = [line for line in lines if "a guess, since the plan has over 150 times as many images" in line]
    assert [line.rpartition(": ")[2] for line in guesses] == ["make_cams"] * is_guess


def test_shards_take_what_was_measured() -> None:
    usage = time_of(ROWS, ALONE, FIGURES, Limits(), measured=measured())
    assert usage.parts[CPU] == pytest.approx(2 * 100 * 0.5)  # 64 shards of 100 on 32 cores
    assert usage.parts[START] == 3.0
    assert usage.parts[DRIVER] == 2.0, "reading rows is not what takes the driver long"
    assert usage.core_seconds == pytest.approx(6400 * 0.5 + 2.0)
    on_gpu = time_of(ROWS, CLUSTER, FIGURES, Limits(), measured=measured(on_gpu=True))
    assert on_gpu.parts[GPU] == pytest.approx(8 * 100 * 0.5)
    packing = replace(MAPS, driver={"driver_row": 6400.0, "walk": 1.0})
    grown = time_of(packing, ALONE, FIGURES, Limits(), measured=measured())
    assert grown.parts[DRIVER] == pytest.approx(2.0 * 6400 / 64), "the driver's own work grows with the images"
    unstated = time_of(ROWS, ALONE, FIGURES, Limits(), measured=measured(), stated=False)
    assert unstated.parts[DRIVER] == pytest.approx(200.0)


def test_a_training_takes_what_was_measured() -> None:
    validated = replace(TRAINING, validation=TRAINING.load * 10)
    tables = time_of(validated, ALONE, COSTS, Limits())
    usage = time_of(validated, ALONE, COSTS, Limits(), measured=measured())
    assert usage.parts[CPU] == pytest.approx(200 * 8 * 0.5), "200 steps of 8 examples a rank"
    assert usage.parts[DECODE] == 0.0, "the loader is in what was measured"
    assert usage.parts[START] == 3.0
    example = 0.01 + 1e10 / 1e10  # what the tables say: decoding and the network
    assert usage.parts[VALIDATION] == pytest.approx(tables.parts[VALIDATION] * 0.5 / example)


def test_cores_say_nothing_of_gpus() -> None:
    assert not measured().fits(has_network=True, plans_gpus=True)
    assert not measured(on_gpu=True).fits(has_network=True, plans_gpus=False)
    assert measured().fits(has_network=False, plans_gpus=True), "a stage without a network works on cores anyway"
    assert measured(on_gpu=True).fits(has_network=True, plans_gpus=True)


def test_a_stage_that_states_no_cost_has_its_images_or_what_a_run_took(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every kind; the network of such a training is not even called."""

    def refuse(*_: object) -> None:
        raise AssertionError("called")

    for stage in (TrainClassifier, MakeCams, Evaluate):
        monkeypatch.setattr(stage, "cost", Stage.cost)
    monkeypatch.setattr(TrainClassifier, "forward_pass", refuse)
    recipe.path.write_text(RECIPE + "[stages.evaluate]\n")
    options = [f"runtime.runs={tmp_path}/planned"]
    silent = make_plan(recipe.path, options, cluster=ALONE, images=None)
    assert [(one.images, one.usage is None) for one in silent.stages] == [
        (48, False), (120, True), (48, True), (8, True),
    ]  # fmt: skip
    planned = load_recipe(recipe.path, options)
    rows = [{"epoch": 1, "step": 5, "images_per_second": 4.0}]
    leave(tmp_path, planned.instance("train_classifier"), work=FIT, tables={"history": rows})
    leave(tmp_path, planned.instance("make_cams"))
    leave(tmp_path, planned.instance("evaluate"), work=SHARDS | {"threads": 1.0})
    usages = [
        one.usage for one in make_plan(recipe.path, options, cluster=ALONE, images=None, measured=tmp_path).stages
    ]
    assert all(usage is not None for usage in usages)
    _, training, maps, measures = usages
    assert training is not None and maps is not None and measures is not None
    assert training.parts[CPU] == pytest.approx(3 * 5 * 8 * 2 / 4.0), "3 epochs of 5 steps of 8, on one rank"
    assert training.written > 0, "checkpoints"
    assert maps.core_seconds == pytest.approx(48 * 1.0 + 1.0)
    assert measures.core_seconds == pytest.approx(8 * 0.5 + 8 / 48)
