"""LID's recipes: what they share, what they plan, and each of them from drawn data to a submission.

The extended tests use the recipes' own networks on random weights, their crops and their views. Only numbers of images,
epochs and ranks are smaller, and all classes without a drawn image are dropped (the networks keep their outputs).
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shards.images import decode_index_png
from shards.reader import read_shard
from shards.records import CamRecord, PseudoLabel, ScoreRecord, SeedRecord
from shards.taxonomy import ilsvrc_det_200
from tests.pipeline.chain import run
from tests.tuning.recipes.lid_data import CLASSES, SIZES, TEST, TRAIN, VAL, draw_lid
from wsss.__main__ import main
from wsss.contract.fit import Fit
from wsss.contract.stage import Instance, Map
from wsss.pipeline.dry_recipe import without_data
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.plan.costs import PlanError
from wsss.plan.hardware import cluster_of
from wsss.plan.plan import Plan, make_plan
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.submit import Submit

RECIPES = Path(__file__).resolve().parents[3] / "tuning" / "recipes"
NAMES = ("lid", "npa_lid", "lid_submit", "best_lid")
ENTRY = ("npa_lid", "lid_submit")
DRAWN = sorted(set(CLASSES) - {"person"})
DROPPED = [name for name in ilsvrc_det_200().names if name not in DRAWN]
SHORT = (
    "defaults.pretrained=none",
    "defaults.world_size=1",
    "defaults.loader_workers=0",
    "defaults.crf_iterations=2",
    f"train_classifier.dropped_classes={json.dumps(DROPPED)}",
    "train_classifier.batch_size=4",
    "train_classifier.num_epochs=1",
    # A larger first step makes the logits of random weights negative, and all maps 0.
    "train_classifier.learning_rate=1e-7",
    "make_cams.batch_images=1",
    "make_seeds.min_probability=0.0",
    "train_affinity.batch_size=2",
    "train_affinity.num_epochs=1",
    "train_affinity.mean_shift_images=1",
    "make_scores.min_probability=0.0",
    "make_scores.batch_images=1",
    "train_segmenter.batch_size=2",
    "train_segmenter.num_epochs=1",
)


MADE = ("make_cams", "make_seeds", "make_scores", "make_pseudo_labels", "make_segmenter_maps")
PERSON = ("make_cams.second_classifier=true", "make_cams.normalisation=per_class")
COST = re.compile(r"`wsss plan (\S+) --nodes (\d+) --gpus-per-node (\d+) --gpu A100`: ([\d.]+) hours")


def resolved(name: str, *overrides: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.toml", overrides, stand_in=without_data)


def behind(instance: Instance) -> set[str]:
    return {instance.name}.union(*map(behind, instance.inputs.values()))


def header(name: str) -> str:
    text = (RECIPES / f"{name}.toml").read_text()
    return " ".join(line.removeprefix("#").strip() for line in text[: text.index("[recipe]")].splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_what_it_takes(name: str) -> None:
    said = header(name)
    assert f"wsss run {name} " in said or f"wsss run tuning/recipes/{name}.toml " in said
    for part in ("Needs:", "Cost:", "Published:", "Not run", "the data set was not available."):
        assert part in said, part
    assert COST.search(said)
    assert resolved(name).settings.rules == "lid_track1"


def test_a_submission_reuses_all_results_of_the_entry() -> None:
    entry, submission = resolved("npa_lid"), resolved("lid_submit")
    assert [one.name for one in submission.instances][: len(entry.instances)] == [one.name for one in entry.instances]
    for one in entry.instances:
        assert submission.instance(one.name).fingerprint == one.fingerprint, one.name
    test, val = submission.instance("predict_test").stage, submission.instance("predict").stage
    assert {**vars(test), "splits": ()} == {**vars(val), "splits": ()}, "test is segmented as val is"


def test_only_the_submission_reads_the_test_images() -> None:
    recipe = resolved("lid_submit")
    for one in recipe.instances:
        reads_test = "test_shards" in behind(one)
        assert reads_test == (one.name in ("test_shards", "predict_test", "submit")), one.name
        if isinstance(one.stage, Map) and not reads_test:
            assert "test" not in one.stage.splits
    submit = recipe.instance("submit").stage
    assert isinstance(submit, Submit) and submit.split == "test"
    assert not recipe.instance("predict_test").stage.given_labels()  # type: ignore[attr-defined]


def test_the_classifier_of_person_belongs_to_the_table_alone() -> None:
    assert "person_classifier" not in [one.name for one in resolved("npa_lid").instances]
    recipe = resolved("npa_lid", *PERSON)
    one, other = recipe.instance("train_classifier"), recipe.instance("person_classifier")
    assert recipe.instance("make_cams").inputs["second_classifier"] is other
    assert isinstance(one.stage, ClassifierTraining) and isinstance(other.stage, ClassifierTraining)
    assert other.stage.learned(other) == [CLASSES["person"]]
    assert sorted(one.stage.learned(one) + other.stage.learned(other)) == list(range(1, 201))


def planned(name: str, runs: Path) -> tuple[Plan, float]:
    """The plan that the recipe's header gives, and the hours that it says."""
    found = COST.search(header(name))
    assert found is not None and found[1] == name
    options = {"nodes": int(found[2]), "gpus_per_node": int(found[3]), "gpu": "A100", "cores_per_node": None}
    cluster = cluster_of(**options, network_gbps=100.0, storage_gbps=20.0)  # type: ignore[arg-type]
    return make_plan(RECIPES / f"{name}.toml", [f"runtime.runs={runs}"], cluster=cluster, images=None), float(found[4])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_cost_in_the_header_is_that_of_the_plan(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ILSVRC_ROOT", "LID_PACKAGE"):
        monkeypatch.delenv(variable, raising=False)
    plan, hours = planned(name, tmp_path)
    assert sum(used.seconds for used in plan.used) / 3600 == pytest.approx(hours, rel=0.02)
    images = {one.instance.name: one.images for one in plan.stages}
    if name in ENTRY:
        # 461 images for each of 199 classes, 1.08 classes an image, 12 of 84 held out: the entry has 72,000.
        assert images["make_cams"] == round(461 * 199 / 1.08 * (1 - 0.143)) == pytest.approx(72_000, rel=0.02)
        assert images["train_segmenter"] == 40 * images["make_cams"]
    if name == "lid_submit":
        assert images["predict_test"] == images["submit"] == 10_000


@pytest.mark.slow
def test_images_of_a_plan_may_be_those_of_any_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ILSVRC_ROOT", "LID_PACKAGE"):
        monkeypatch.delenv(variable, raising=False)
    cluster = cluster_of(
        nodes=1, gpus_per_node=2, gpu="A100", cores_per_node=None, network_gbps=100.0, storage_gbps=20.0
    )
    for given, num_test in (("train=900,test=70", 70), ("900", 10_000)):
        plan = make_plan(RECIPES / "lid_submit.toml", [f"runtime.runs={tmp_path}"], cluster=cluster, images=given)
        images = {one.instance.name: one.images for one in plan.stages}
        assert (images["train_classifier"], images["test_shards"]) == (50 * round(900 * 0.857), num_test)
        assert images["predict_test"] == num_test and images["predict"] == 4690
    with pytest.raises(PlanError, match="unknown split 'tset'; did you mean test"):
        make_plan(RECIPES / "lid_submit.toml", [], cluster=cluster, images="tset=5")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of runs, with the drawn data set in the environment variables of the recipes."""
    folder = tmp_path_factory.mktemp("lid")
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in draw_lid(folder).items():
            patch.setenv(variable, value)
        yield folder / "runs"


def short(name: str, runs: Path, *overrides: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.toml", [f"runtime.runs={runs}", *SHORT, *overrides])


def check(recipe: Recipe, *, samples: str, split: str) -> dict[str, np.ndarray]:
    """The masks in the recipe's submission, after `wsss check-submission`."""
    path = recipe.instance("submit").path / "results.zip"
    folder = str(recipe.instance(samples).path)
    assert main(["check-submission", str(path), "--samples", folder, "--split", split]) == 0
    with zipfile.ZipFile(path) as archive:
        return {name: decode_index_png(archive.read(name)) for name in archive.namelist()}


def check_chain(recipe: Recipe) -> None:
    """Every training took a step, and every image with a learned class went through every stage."""
    for one in recipe.instances:
        record = one.run_record()
        assert record is not None, one.name
        if isinstance(one.stage, Fit):
            assert [np.isfinite(row["loss"]) for row in record.tables["history"]] == [True], one.name  # type: ignore[call-overload]
    kept = {key for key, names in TRAIN.items() if set(names) & set(DRAWN)}
    made = [one.name for one in recipe.instances if one.stage.kind in MADE]
    for name in made:
        layer = recipe.instance(name).layer
        records = [record for shard in layer.shards() for record in read_shard(layer, shard)]
        assert {record.key for record in records} == kept, name
        for record in records:
            if isinstance(record, CamRecord):
                assert record.classes.tolist() == [CLASSES[n] for n in TRAIN[record.key] if n in DRAWN]
                assert record.maps.max() == pytest.approx(1, abs=1e-3)
            elif isinstance(record, SeedRecord | PseudoLabel):
                label = record.label if isinstance(record, SeedRecord) else record.mask
                present = {CLASSES[name] for name in TRAIN[record.key]}
                assert label.shape in SIZES
                assert set(np.unique(label).tolist()) <= {0, 255, *present} - {CLASSES["person"]}
                assert isinstance(record, SeedRecord) or (label != 255).all(), (
                    "every class is known in an image that has a label"
                )
            else:
                assert isinstance(record, ScoreRecord)
    left_out = recipe.instance("make_cams").layer.left_out()["train"]
    assert set(left_out) == set(TRAIN) - kept, "person alone, and the negative"
    measured = recipe.instance("evaluate").run_record()
    assert measured is not None and measured.metrics["val.images"] == len(VAL)


@pytest.mark.extended
def test_one_command_makes_a_submission_for_test(drawn: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = [word for override in (f"runtime.runs={drawn}", *SHORT) for word in ("--set", override)]
    assert main(["run", str(RECIPES / "lid_submit.toml"), "--on", "local", *given]) == 0
    recipe = short("lid_submit", drawn)
    masks = check(recipe, samples="test_shards", split="test")
    assert [name.removesuffix(".png") for name in masks] == list(TEST), "in the order of the list"
    assert [mask.shape for mask in masks.values()] == [SIZES[0], SIZES[1]]
    check_chain(recipe)
    said = capfd.readouterr()
    assert "2 images of split 'test' by predict_test, mean IoU" in said.err, "the score of the same network on val"
    assert "on val (evaluate)" in said.err and "--split test" in said.err
    # The entry's own recipe finds every result there.
    entry = run(short("npa_lid", drawn))
    assert entry.executed == [] and len(entry.reused) == len(resolved("npa_lid").instances)


@pytest.mark.extended
def test_a_classifier_of_person_adds_its_maps(drawn: Path) -> None:
    small = ("person_classifier.batch_size=2", "person_classifier.num_epochs=1", "person_classifier.hold_out=0.0")
    recipe = short("npa_lid", drawn, *PERSON, *small, "person_classifier.validation_split=val")
    run(recipe, last="make_cams")
    layer = recipe.instance("make_cams").layer
    found = {
        record.key: set(record.classes.tolist())
        for shard in layer.shards()
        for record in read_shard(layer, shard)
        if isinstance(record, CamRecord)
    }
    assert found == {key: {CLASSES[n] for n in names} for key, names in TRAIN.items() if set(names) & set(DRAWN)}


SECOND = ("train_segmenter_2.batch_size=2", "train_segmenter_2.num_epochs=1")


@pytest.mark.extended
@pytest.mark.parametrize(("name", "more"), [("lid", ()), ("best_lid", SECOND)])
def test_the_recipe_of_all_images_makes_a_submission_for_val(name: str, more: tuple[str, ...], drawn: Path) -> None:
    recipe = short(name, drawn, *more)
    run(recipe)
    masks = check(recipe, samples="build_shards", split="val")
    assert [name.removesuffix(".png") for name in masks] == list(VAL)
    check_chain(recipe)
