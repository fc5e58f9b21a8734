from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from shards.images import encode_png
from tests.shards.sources.voc_folder import make_voc
from wsss.contract.fit import Fit
from wsss.pipeline.recipe import Recipe, RecipeError, dotted_settings, load_recipe
from wsss.pipeline.recipe_tables import RENAMED
from wsss.pipeline.run import selected
from wsss.stages.registry import STAGES

CHAIN = """
[recipe]
name = "small"
seed = 3

[stages.build_shards]
source = "toy"
counts = { train = 5, val = 2 }

[stages.train_classifier]
pretrained = "none"

[stages.make_cams]

[stages.make_seeds]

[stages.train_affinity]
pretrained = "none"

[stages.make_scores]

[stages.make_pseudo_labels]

[stages.train_segmenter]
pretrained = "none"

[stages.predict]

[stages.evaluate]
"""
ORDER = [line[8:-1] for line in CHAIN.splitlines() if line.startswith("[stages.")]

Load = Callable[..., Recipe]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def make(text: str = CHAIN, *overrides: str) -> Recipe:
        path = tmp_path / "small.toml"
        path.write_text(text)
        return load_recipe(path, overrides)

    return make


def fails(load: Load, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides)
    return str(caught.value)


def fingerprints(recipe: Recipe) -> dict[str, str]:
    return {instance.name: instance.fingerprint for instance in recipe.instances}


def changed(load: Load, *overrides: str, text: str = CHAIN) -> list[str]:
    """The instances whose fingerprint is another one with these overrides."""
    before, after = fingerprints(load(text)), fingerprints(load(text, *overrides))
    return [name for name in before if before[name] != after[name]]


def test_instances_in_order_with_their_inputs(load: Load) -> None:
    recipe = load()
    assert [instance.name for instance in recipe.instances] == ORDER
    reads = {i.name: {slot: up.name for slot, up in i.inputs.items()} for i in recipe.instances}
    assert reads["make_scores"] == {"samples": "build_shards", "cams": "make_cams", "affinity": "train_affinity"}
    assert reads["train_affinity"] == {"samples": "build_shards", "seeds": "make_seeds"}
    assert reads["evaluate"] == {"samples": "build_shards", "records": "predict"}
    assert recipe.instance("predict").taxonomy.names == recipe.instance("build_shards").taxonomy.names


def test_latest_earlier_instance_is_read_unless_another_is_named(load: Load) -> None:
    text = CHAIN + '[stages.others]\nkind = "make_cams"\n[stages.late]\nkind = "make_seeds"\n'
    assert load(text).instance("late").inputs["cams"].name == "others"
    named = load(text, "late.inputs.cams=make_cams").instance("late")
    assert named.inputs["cams"].name == "make_cams"
    assert named.fingerprint == load().instance("make_seeds").fingerprint, "a name is no setting"


def test_values_and_where_they_came_from(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDE", "80")
    text = CHAIN.replace('source = "toy"', 'source = "toy"\nsize = "$SIDE"')
    overrides = ["make_cams.scales=[1.0, 0.5]", "make_seeds.rule=two_thresholds", "build_shards.counts.train=9"]
    recipe = load(text, *overrides, "runtime.threads=2", "make_cams.flip=false")
    cams, shards = recipe.instance("make_cams"), recipe.instance("build_shards")
    assert dotted_settings(cams)["make_cams.scales"] == [1.0, 0.5]
    assert dotted_settings(cams)["make_cams.flip"] is False
    assert dotted_settings(shards)["build_shards.counts"] == {"train": 9, "val": 2}
    assert dotted_settings(shards)["build_shards.size"] == 80
    assert recipe.runtime.threads == 2
    assert recipe.origins["build_shards.size"] == "environment SIDE"
    assert recipe.origins["build_shards.counts"] == "--set"
    assert recipe.origins["recipe.seed"] == "small.toml"
    assert "make_cams.num_samples" not in recipe.origins


def test_variable_may_begin_a_path(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE", "/somewhere")
    assert load(CHAIN, "runtime.runs=$SPACE/runs").runtime.runs == Path("/somewhere/runs")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("make_seeds.forground_threshold=0.3", "make_seeds.forground_threshold: unknown setting 'forground_threshold'; "
         "did you mean foreground_threshold"),
        ("make_sedes.rule=ficklenet", "--set: unknown instance 'make_sedes'; did you mean make_seeds"),
        ("runtime.treads=1", "runtime.treads: unknown setting 'treads'; did you mean threads"),
        ("build_shards.unchecked=absent", "build_shards.unchecked: this setting now belongs to the stages that read "
         "labels: train_classifier, make_cams"),
        ("recipe.owner=me", "recipe.owner: unknown setting 'owner'; there are name, seed"),
        ("make_seeds", "--set make_seeds: write --set INSTANCE.SETTING=VALUE"),
        ("seed=3", "--set seed=3: write --set INSTANCE.SETTING=VALUE"),
        ("make_cams.flip.x=1", "make_cams.flip: it must be true or false"),
        ("make_seeds.foreground_threshold=1.5", "make_seeds.foreground_threshold: it must be less than 1 "
         "(got 1.5)"),
        ("make_seeds.foreground_threshold=nan", "make_seeds.foreground_threshold: it must be a finite number"),
        ("train_classifier.learning_rate=inf", "train_classifier.learning_rate: it must be a finite number"),
        ("train_classifier.batch_size=many", "train_classifier.batch_size: it must be a whole number (got 'many')"),
        ("make_seeds.rule=best", "make_seeds.rule: unknown value 'best'; there are two_thresholds, expon"),
        ("train_classifier.resize_long=[640, 320]", "train_classifier.resize_long: the first number must"),
        ("train_segmenter.resize_long=[640, 320]", "train_segmenter.resize_long: the first number must"),
        ("train_affinity.resize_long=[0, 320]", "train_affinity.resize_long: the first number must be at least 1"),
        ("train_classifier.std=[0.2, 0, 0.2]", "train_classifier.std.1: it must be more than 0 (got 0)"),
        ("make_cams.max_shards=0", "make_cams.max_shards: it must be at least 1 (got 0)"),
        ("predict.splits=[]", "predict.splits: "),
        ("make_seeds.foreground_threshold=0.05", "make_seeds.foreground_threshold = 0.05 must be above "
         "make_seeds.background_threshold = 0.05"),
        ("make_seeds.rule=ficklenet", "make_seeds.rule = 'ficklenet' needs the maximum of stochastic maps, "
         "which make_cams does not store"),
        ("make_cams.method=stochastic", "method = 'stochastic' needs a classifier with head = 'stochastic'"),
        ("train_classifier.world_size=17", "train_classifier.batch_size = 16 is less than world_size = 17: ranks would "
         "have no examples; set world_size to at most 16, or raise batch_size"),
        ("trane_*.world_size=2", "--set trane_*.world_size=2: no instance has such a name; there are build_shards, "
         "train_classifier"),
        ("train_classifier.stochastic_kernel=4", "train_classifier.stochastic_kernel is 4; it must be odd"),
        ("evaluate.splits=[\"train\"]", "evaluate.splits names 'train', but predict makes only val"),
        ("evaluate.inputs.record=predict", "evaluate.inputs.record: unknown input 'record'; did you mean records"),
        (
            "train_affinity.inputs.classifier=train_classifier",
            "train_affinity.inputs.classifier: not read with the other settings of train_affinity; remove it",
        ),
        ("evaluate.inputs.records=predicts", "unknown earlier instance 'predicts'; did you mean predict"),
        ("evaluate.inputs.records=build_shards", "evaluate.inputs.records names build_shards, a build_shards; "
         "it takes records of kind prediction or"),
        ("evaluate.inputs=predict", "evaluate.inputs is 'predict'; write inputs = { SLOT = \"INSTANCE\" }"),
        ("evaluate.inputs.records=3", "evaluate.inputs is {'records': 3}; write inputs"),
        ("evaluate.kind=evalute", "[stages.evaluate]: unknown kind 'evalute'; did you mean evaluate"),
        ("evaluate.kind=3", "[stages.evaluate]: unknown kind '3'; there are build_shards"),
        ("make_cams.inputs.classifier=train_segmenter", "unknown earlier instance 'train_segmenter'"),
        ("recipe.name=a b", "recipe.name: it must match the pattern"),
        ("recipe.seed=-1", "recipe.seed: it must be at least 0 (got -1)"),
        ("recipe.seed=99999999999999999999", "recipe.seed: it must be less than 2147483648"),
        ("recipe.name=store", "recipe.name: store, outbox, mlartifacts are names of folders that every run has"),
        ("recipe.supervision=full", "recipe.supervision = 'full', but its stages train with 'image'; declare"),
        ("recipe.expected_seconds={make_cams=-3}", "recipe.expected_seconds.make_cams: it must be"),
        ("runtime.rank_gpus=2", "runtime.rank_gpus: it must be at most 1"),
        ("make_cams.scales=[]", "make_cams.scales: it must hold at least 1 (got 0: [])"),
        ("predict.scales=[1e9]", "predict.scales.0: it must be at most 16"),
        ("make_cams.splits=[\"../x\"]", "make_cams.splits.0: it must match the pattern"),
        ("make_cams.scales=[1.0, 0.5, 1]", "make_cams.scales: values must be unique, got 1.0 more than once"),
        ("make_cams.splits=[\"val\", \"val\"]", "make_cams.splits: values must be unique, got 'val' more than once"),
        ("make_seeds.crf_gaussian=[0, 3]", "make_seeds.crf_gaussian.0: it must be at least 0.1"),
        ("make_pseudo_labels.crf_bilateral=[50, 5, -1]", "make_pseudo_labels.crf_bilateral.2: it must be"),
        ("train_classifier.mean=[100, 0, 0]", "train_classifier.mean.0: it must be at most 1"),
        ("train_classifier.validation_split=foo", "train_classifier.validation_split = 'foo', but build_shards has"),
        ("train_classifier.repeat_threshold=0.3", "train_classifier.repeat_threshold = 0.3 is only for balance"),
        ("make_cams.normalisation=globally", "make_cams.normalisation: unknown value 'globally'; did you mean global?"),
        ("build_shards.counts.test=9", "counts.test does not name a split; splits has train, val"),
        ("build_shards.masked_splits=[\"foo\"]", "masked_splits is given, but source = 'toy' does not read it"),
        ("build_shards.counts.val=0", "[stages.build_shards]: split 'val' of the toy data set has 0 images"),
        ("train_classifier.pretrained=none.safetensors", "train_classifier.pretrained: there is no such weight file; "
         "allowed are imagenet, none, or a .safetensors file's path (got 'none.safetensors')"),
    ],
)  # fmt: skip
def test_bad_settings_are_reported_by_their_dotted_names(load: Load, override: str, message: str) -> None:
    assert message in fails(load, CHAIN, override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[recipe]\nname = "x"\n', "a recipe needs at least one [stages.NAME] table"),
        ("[recipe", "is not valid TOML"),
        ("seed = 3\n" + CHAIN, "seed is not in any table; a recipe has [recipe], [runtime], [defaults] "
         "and [stages.NAME]"),
        ("stages = 3", "stages is not in any table"),
        ('[stages]\nmake_cams = "yes"\n', "make_cams is not in any table"),
        (CHAIN + "[tracking]\nx = 1\n", "unknown table [tracking]; a recipe has [recipe], [runtime], [defaults] "
         "and [stages.NAME]"),
        ("defaults = 1\n" + CHAIN, "defaults is not in any table"),
        (CHAIN + "[defaults]\npretraind = 1\n", "defaults.pretraind: unknown setting or kind 'pretraind'; did you mean "
         "pretrained"),
        (CHAIN + "[defaults]\nmake_cams = 1\n", "defaults.make_cams is not a setting; write defaults.KIND"),
        (CHAIN + "[defaults]\ncounts = 1\n", "defaults.counts applies to no instance: build_shards set"),
        (CHAIN + "[defaults]\nzz = 1\n", "unknown setting or kind 'zz'; there are the settings of build_sh"),
        (CHAIN + "[defaults.submit]\nsplit = 1\n", "[defaults.submit]: no instance of this recipe is of that kind"),
        (CHAIN + "[defaults.predict]\ninputs = {}\n", "defaults.predict.inputs belongs to a single instance"),
        (CHAIN + "[defaults.predict]\nflips = 1\n", "predict.flips: unknown setting 'flips'; did you mean flip"),
        (CHAIN + "[stages.train_classifer]\n", "[stages.train_classifer]: unknown kind 'train_classifer'; did you mean "
         "train_classifier"),
        ('[recipe]\nname = "x"\n[stages.make_cams]\n', "make_cams reads samples from build_shards, but there is "
         "no such instance before it"),
        ("[stages.build_shards]\nsource = 'toy'\n", "recipe.name: "),
        ('[recipe]\nname = "x"\n[stages.build_shards]\n', "build_shards.source: "),
    ],
)  # fmt: skip
def test_bad_files(load: Load, text: str, message: str) -> None:
    assert message in fails(load, text)


def test_a_default_of_the_file_may_be_replaced_everywhere_by_overrides(load: Load) -> None:
    text = CHAIN + "[defaults]\nlevels = 'last'\n"
    (affinity,) = (one for one in load(text, "train_affinity.levels=last").instances if one.name == "train_affinity")
    assert affinity.stage.levels == "last"  # type: ignore[attr-defined]
    message = fails(load, CHAIN, "defaults.levels=last", "train_affinity.levels=last")
    assert "defaults.levels applies to no instance" in message


def fingerprint_of(load: Load, *overrides: str) -> str:
    return load(CHAIN, *overrides).instance("train_classifier").fingerprint


def test_what_nothing_reads_and_what_is_only_fast_enters_no_fingerprint(load: Load) -> None:
    plain = fingerprint_of(load)
    for setting in (
        "focal_gamma=1.0",
        "stochastic_kernel=5",
        "loader_workers=2",
        "checkpoint_every=7",
        "step_factor=0.5",
    ):
        assert fingerprint_of(load, f"train_classifier.{setting}") == plain, setting
    focal = fingerprint_of(load, "train_classifier.loss=focal")
    assert focal != plain
    assert fingerprint_of(load, "train_classifier.loss=focal", "train_classifier.focal_gamma=1.0") not in (plain, focal)
    assert fingerprint_of(load, "train_classifier.poly_power=1.0") != plain


def test_defaults_of_a_kind_reach_instances_that_give_nothing_themselves(load: Load) -> None:
    text = (
        CHAIN
        + """
[stages.second]
kind = "predict"
scales = [2.0]
[defaults.predict]
scales = [0.5]
flip = false
"""
    )
    recipe = load(text, "defaults.predict.flip=true", "defaults.train_segmenter.crop_size=96")
    values = {name: dotted_settings(recipe.instance(name)) for name in ("predict", "second")}
    assert values["predict"]["predict.scales"] == [0.5] and values["second"]["second.scales"] == [2.0]
    assert values["predict"]["predict.flip"] is True and values["second"]["second.flip"] is True
    assert dotted_settings(recipe.instance("train_segmenter"))["train_segmenter.crop_size"] == 96
    origins = {name: recipe.origins.get(name) for name in ("predict.scales", "predict.flip", "second.scales")}
    assert origins == {"predict.scales": "small.toml", "predict.flip": "--set", "second.scales": "small.toml"}
    spelled_out = load(text.split("[defaults")[0], "predict.scales=[0.5]", "predict.flip=true")
    assert (
        spelled_out.instance("predict").fingerprint == load(text, "predict.flip=true").instance("predict").fingerprint
    )


def test_defaults_of_all_kinds_reach_those_that_have_the_setting(load: Load) -> None:
    text = CHAIN.replace('[stages.train_affinity]\npretrained = "none"', "[stages.train_affinity]")
    recipe = load(
        text + '[defaults]\npad_type = "same"\n[defaults.train_segmenter]\npad_type = ""\n',
        "defaults.pretrained=none",
        "defaults.mean=[0.5, 0.5, 0.5]",
    )
    found = {name: recipe.instance(name).stage for name in ("train_classifier", "train_affinity", "train_segmenter")}
    assert [getattr(stage, "pad_type") for stage in found.values()] == ["same", "same", ""]  # noqa: B009
    assert {getattr(stage, "mean") for stage in found.values()} == {(0.5, 0.5, 0.5)}  # noqa: B009
    assert dotted_settings(recipe.instance("train_affinity"))["train_affinity.pretrained"] == "none"
    assert recipe.origins["train_affinity.pretrained"] == "--set"
    assert recipe.origins["train_affinity.pad_type"] == "small.toml"
    assert recipe.origins["train_classifier.pretrained"] == "small.toml"


def test_default_from_the_environment(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCODER", "resnet18")
    recipe = load(CHAIN, "defaults.train_classifier.encoder=$ENCODER")
    assert recipe.instance("train_classifier").stage.encoder == "resnet18"  # type: ignore[attr-defined]
    assert recipe.origins["train_classifier.encoder"] == "environment ENCODER"


def test_recipe_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the recipe does not exist: .*none.toml"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="is not valid TOML"):
        load_recipe(tmp_path / "binary.toml")


def test_variable_that_is_not_set(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    message = fails(load, CHAIN, "build_shards.root=$NOWHERE")
    assert message == (
        "build_shards.root is read from the environment variable NOWHERE, which is not set; "
        "set it, or give --set build_shards.root=VALUE"
    )


def test_instance_by_name(load: Load) -> None:
    with pytest.raises(RecipeError, match="unknown instance 'make_camps'; did you mean make_cams"):
        load().instance("make_camps")


# Fingerprints.


def test_equal_recipes_have_equal_fingerprints(load: Load) -> None:
    assert fingerprints(load()) == fingerprints(load())
    assert len(set(fingerprints(load()).values())) == len(ORDER)


@pytest.mark.parametrize(
    ("override", "from_here_on"),
    [
        ("make_pseudo_labels.background_threshold=0.3", "make_pseudo_labels"),
        ("make_pseudo_labels.crf_iterations=3", "make_pseudo_labels"),
        ("predict.flip=false", "predict"),
        ("build_shards.shard_size=3", "build_shards"),
    ],
)
def test_a_changed_setting_changes_only_what_stands_after_it(load: Load, override: str, from_here_on: str) -> None:
    assert changed(load, override) == ORDER[ORDER.index(from_here_on) :]


def test_the_number_of_ranks_changes_no_fingerprint(load: Load) -> None:
    """A training is resumed by another number of ranks; the batch over all of them is part of the fingerprint."""
    assert changed(load, "train_*.world_size=3") == []
    recipe = load(CHAIN, "train_*.world_size=3")
    trained = {i.name: i.stage.world_size for i in recipe.instances if isinstance(i.stage, Fit)}
    assert len(trained) > 1 and set(trained.values()) == {3}
    assert {recipe.origins[f"{name}.world_size"] for name in trained} == {"--set"}
    assert changed(load, "train_segmenter.batch_size=3") == ORDER[ORDER.index("train_segmenter") :]


def test_a_new_seed_changes_only_what_draws(load: Load) -> None:
    """Shards are copied and maps are made without a draw: they depend on the seed only through a trained network."""
    after = [name for name in ORDER if name != "build_shards"]
    assert changed(load, "recipe.seed=4") == after


def test_a_left_over_expected_time_stops_nothing(load: Load) -> None:
    load(CHAIN, "recipe.expected_seconds={removed_instance=3}")


def test_branches_that_do_not_read_a_setting_keep_their_fingerprint(load: Load) -> None:
    after_seeds = ["make_seeds", "train_affinity", "make_scores", "make_pseudo_labels", "train_segmenter", "predict"]
    assert changed(load, "make_seeds.background_threshold=0.1") == [*after_seeds, "evaluate"]
    text = CHAIN + '[stages.evaluate_cam]\nkind = "evaluate"\ninputs = { records = "make_cams" }\n'
    assert "evaluate_cam" not in changed(load, "make_seeds.background_threshold=0.1", text=text)


def test_writing_a_default_down_changes_nothing(load: Load) -> None:
    assert changed(load, "make_seeds.foreground_threshold=0.30", "make_cams.method=cam") == []


def test_runtime_never_enters(load: Load, tmp_path: Path) -> None:
    overrides = ["threads=3", "num_actors=5", "max_missing=0.5", "placement=SPREAD", f"runs={tmp_path}", "rank_gpus=1"]
    assert changed(load, *(f"runtime.{override}" for override in overrides)) == []
    assert load(CHAIN, f"runtime.runs={tmp_path}").instance("make_cams").path.parent == tmp_path / "store"


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_folder_of_runs_is_refused(empty: str, load: Load) -> None:
    """As from a variable of the shell that is not set; it would be the current folder."""
    with pytest.raises(RecipeError, match=r"runtime\.runs: it is empty, .* name a folder"):
        load(CHAIN, f"runtime.runs={empty}")
    assert load(CHAIN, "runtime.runs=.").instance("make_cams").path.parent == Path.cwd() / "store"


def test_an_empty_first_or_last_instance_is_refused(load: Load) -> None:
    for first, last in (("", None), (None, "")):
        with pytest.raises(RecipeError):
            selected(load(), first, last)


def test_recipes_name_does_not_enter_an_instance(load: Load) -> None:
    assert changed(load, "recipe.name=other") == []
    assert load(CHAIN, "recipe.name=other").fingerprint != load().fingerprint


def test_unused_inputs_do_not_enter(load: Load) -> None:
    without = load(CHAIN, "make_scores.propagation=none").instance("make_scores")
    assert set(without.inputs) == {"samples", "cams"}
    assert "make_scores" not in [
        name
        for name, value in fingerprints(load(CHAIN, "make_scores.propagation=none")).items()
        if value != fingerprints(load(CHAIN, "make_scores.propagation=none", "train_affinity.num_epochs=9"))[name]
    ]


def test_weight_files_content_enters_and_its_place_does_not(load: Load, tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in ("one.safetensors", "copy.safetensors", "other.safetensors"))
    one.write_bytes(b"weights")
    shutil.copy(one, copy)
    other.write_bytes(b"others!")

    def of(path: Path) -> str:
        return load(CHAIN, f"train_classifier.pretrained={path}").instance("train_classifier").fingerprint

    assert of(one) == of(copy)
    assert of(one) != of(other)
    assert of(one) != load().instance("train_classifier").fingerprint


VOC = """
[recipe]
name = "voc"
[stages.build_shards]
source = "voc"
root = "$VOC_FOLDER"
labels = "labels.json"
[stages.build_shards.lists]
train = "$VOC_FOLDER/lists/train.txt"
val = "$VOC_FOLDER/lists/val.txt"
"""


@pytest.fixture
def voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_voc(tmp_path / "voc")
    monkeypatch.setenv("VOC_FOLDER", str(root))
    return root


def test_root_does_not_enter_and_files_do(load: Load, voc: Path, tmp_path: Path) -> None:
    before = load(VOC).instances[0].fingerprint
    elsewhere = shutil.copytree(voc, tmp_path / "elsewhere")
    assert load(VOC, f"build_shards.root={elsewhere}").instances[0].fingerprint == before
    (elsewhere / "JPEGImages" / "2007_1.jpg").write_bytes(b"changed")
    assert load(VOC, f"build_shards.root={elsewhere}").instances[0].fingerprint != before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("root=\"\"", "[stages.build_shards]: root is not set; set it to the folder that contains JPEGImages"),
        ("masks=nope", "masks = 'nope' is not a folder in root = "),
        ("root=/nowhere", "root = '/nowhere' is not a folder; set it to the folder that contains JPEGImages"),
        ("labels=none.json", "labels = 'none.json' is not a file in root"),
        ("saliency=none", "saliency = 'none' is not a folder in root"),
        ("lists.train=none.txt", "lists.train = 'none.txt' does not exist; looked for "),
        ("splits=[\"train\", \"test\"]", "lists.test is not set; set it to the file of that split's keys"),
        ("class_names=[\"catt\"]", "class_names: unknown class 'catt'; did you mean cat"),
        ("class_names=[\"giraffe\"]", "class_names: unknown class 'giraffe'; there are aeroplane, bicycle, bird, boat"),
    ],
)  # fmt: skip
def test_missing_files_of_a_data_set(load: Load, voc: Path, override: str, message: str) -> None:
    text = VOC + "[stages.train_classifier]\npretrained = 'none'\n[stages.make_cams]\n"
    assert message in fails(load, text, f"build_shards.{override}")


def test_boxes_of_annotations_that_are_not_there(load: Load, voc: Path) -> None:
    shutil.rmtree(voc / "Annotations")
    message = fails(load, VOC, "build_shards.boxes=annotations")
    assert f"boxes = 'annotations', but root = '{voc}' contains no folder Annotations" in message


def test_labels_of_annotations_that_are_not_there(load: Load, voc: Path) -> None:
    shutil.rmtree(voc / "Annotations")
    message = fails(load, VOC, "build_shards.labels=''")
    assert f"labels is not set, and root = '{voc}' contains no folder Annotations; set labels to the JSON" in message


OTHER_SHARDS = """
[stages.other_shards]
kind = "build_shards"
source = "toy"
counts = { train = 6, val = 2 }
"""


def test_layers_of_other_shards_are_refused_with_both_named(load: Load) -> None:
    mixed = '[stages.seeds]\nkind = "make_seeds"\ninputs = { samples = "other_shards", cams = "make_cams" }\n'
    message = fails(load, CHAIN + OTHER_SHARDS + mixed)
    recipe = load(CHAIN + OTHER_SHARDS)
    cams, other = recipe.instance("make_cams").fingerprint[:16], recipe.instance("other_shards").fingerprint[:16]
    assert f"other_shards ({other}, of other_shards) and make_cams ({cams}, of build_shards)" in message
    assert "are based on different shards; choose inputs of the same build_shards" in message


def test_a_network_of_another_class_list_is_refused(load: Load, voc: Path) -> None:
    other = VOC.replace('[recipe]\nname = "voc"\n', "").replace("stages.build_shards", "stages.other_shards")
    other = other.replace('source = "voc"', 'kind = "build_shards"\nsource = "voc"')
    other += """
[stages.other_classifier]
kind = "train_classifier"
pretrained = "none"

[stages.other_cams]
kind = "make_cams"
inputs = { samples = "build_shards", classifier = "other_classifier" }
"""
    message = fails(load, CHAIN + other)
    assert "build_shards (" in message and "other_classifier (" in message
    assert "have different class lists; choose inputs that have the same class list" in message


PUPIL = """
[stages.predict_train]
kind = "predict"
splits = ["train"]
SAMPLES

[stages.pupil]
kind = "train_segmenter"
pretrained = "none"
INPUTS
"""


def pupil(*, inputs: str = "", samples: str = "") -> str:
    return CHAIN + OTHER_SHARDS + PUPIL.replace("INPUTS", inputs).replace("SAMPLES", samples)


def test_predictions_are_learned_where_they_are_named_alone(load: Load) -> None:
    mine = 'samples = "build_shards"'
    shards = f"inputs = {{ {mine} }}"
    other = load(pupil(samples=shards, inputs=shards))
    assert other.instance("pupil").inputs["pseudo_labels"].name == "make_pseudo_labels", "though predictions stand last"
    taught = load(pupil(samples=shards, inputs=f'inputs = {{ {mine}, pseudo_labels = "predict_train" }}'))
    assert taught.instance("pupil").inputs["pseudo_labels"].name == "predict_train"
    unnamed = CHAIN.replace("[stages.make_pseudo_labels]\n", "").replace("[stages.train_segmenter]", "[stages.none]")
    message = fails(load, unnamed.replace("[stages.none]", '[stages.none]\nkind = "train_segmenter"'))
    assert (
        "none reads pseudo_labels from make_pseudo_labels or make_agreed_labels or keep_reliable_labels or predict, "
        "but there is no such instance before it" in message
    )


def test_predictions_of_other_shards_are_refused_with_both_named(load: Load) -> None:
    inputs = 'inputs = { samples = "build_shards", pseudo_labels = "predict_train" }'
    message = fails(load, pupil(inputs=inputs, samples='inputs = { samples = "other_shards" }'))
    assert "predict_train (" in message and ", of other_shards)" in message and ", of build_shards)" in message
    assert "are based on different shards" in message


def test_predictions_of_another_class_list_are_refused_with_both_named(load: Load, voc: Path) -> None:
    """Whichever way they are named: by their samples, by their segmenter, or by the classifier beside them."""
    other = VOC.replace('[recipe]\nname = "voc"\n', "").replace("stages.build_shards", "stages.other_shards")
    other = other.replace('source = "voc"', 'kind = "build_shards"\nsource = "voc"')
    mine = 'inputs = { samples = "build_shards", pseudo_labels = "predict_train" }'
    text = pupil(inputs=mine, samples='inputs = { samples = "other_shards" }').replace(OTHER_SHARDS, other)
    message = fails(load, text)
    assert "other_shards (" in message and "train_segmenter (" in message
    assert "have different class lists; choose inputs that have the same class list" in message


def test_dropout_of_a_head_that_has_none(load: Load) -> None:
    text = CHAIN.replace(
        "[stages.train_classifier]", "[stages.train_classifier]\nhead = 'stochastic'\ndropout = 0.5", 1
    )
    assert "train_classifier.dropout = 0.5 is only for head = 'linear'; with head = 'stochastic' set" in fails(
        load, text
    )


def test_image_to_train_and_to_measure_on(load: Load, voc: Path) -> None:
    shutil.copy(voc / "lists" / "train.txt", voc / "lists" / "val.txt")
    assert "is in the lists of both 'train' and 'val'; images used for evaluation must not be trained on" in fails(
        load, VOC
    )


def test_lists_that_name_other_images(load: Load, tmp_path: Path) -> None:
    """Found before the first stage, not after the trainings in front of the one that reads the list."""
    keys = tmp_path / "keys.txt"
    masks = (
        "recipe.supervision=semi",
        "train_segmenter.full_share=0.5",
        f"train_segmenter.full_list={keys}",
        "train_segmenter.full_per_batch=1",
    )
    keys.write_text("val_00000\ntrain_00003\nzzz\n")
    message = fails(load, CHAIN, f"evaluate.image_list={keys}")
    assert "names 'train_00003' (2 such), which is no image of 'val'; remove it" in message
    message = fails(load, CHAIN, *masks)
    assert "names 'val_00000' (2 such), which is not a training image with a mask in build_shards" in message
    keys.write_text("val_00001\n")
    load(CHAIN, f"evaluate.image_list={keys}")
    keys.write_text("train_00001\ntrain_00003\n")
    load(CHAIN, *masks)


def test_empty_data_set(load: Load, voc: Path) -> None:
    (voc / "lists" / "train.txt").write_text("")
    assert "the list of split 'train' is empty" in fails(load, VOC)


def test_self_training_goes_on_from_the_toy_recipe() -> None:
    """What the demo has made is found: only the second round, and what measures it, is new."""
    recipes = Path(__file__).parents[3] / "tuning" / "recipes"
    first, second = fingerprints(load_recipe(recipes / "toy.toml")), load_recipe(recipes / "self_training.toml")
    new = [i.name for i in second.instances if i.fingerprint not in first.values() and i.stage.kind != "evaluate"]
    assert new == ["predict_train", "train_segmenter_2", "predict_2"]
    assert second.instance("train_segmenter_2").inputs["pseudo_labels"].name == "predict_train"


def test_masks_that_only_measure_train_nothing_again(tmp_path: Path, load: Load) -> None:
    """Masks that are added for `evaluate` make new shards and new figures, and leave all trainings as they are."""
    data = tmp_path / "data"
    for name in ("a", "b"):
        (data / "images").mkdir(parents=True, exist_ok=True)
        (data / "masks" / "images").mkdir(parents=True, exist_ok=True)
        (data / "images" / f"{name}.png").write_bytes(encode_png(np.zeros((8, 9, 3), np.uint8)))
        (data / "masks" / "images" / f"{name}.png").write_bytes(encode_png(np.ones((8, 9), np.uint8)))
    (data / "labels.csv").write_text("image,labels,split\nimages/a.png,cat,train\nimages/b.png,cat,val\n")
    (data / "classes.txt").write_text("cat\n")
    source = f'source = "folder"\nroot = "{data}"\nlists = {{ train = "labels.csv", val = "labels.csv" }}\n'
    text = CHAIN.replace('source = "toy"\ncounts = { train = 5, val = 2 }\n', source + 'class_list = "classes.txt"\n')
    added = "build_shards.mask_folder=masks"
    assert changed(load, added, text=text) == ["build_shards", "evaluate"]
    assert changed(load, added, 'build_shards.masked_splits=["val"]', text=text) == ["build_shards", "evaluate"]
    # A training that reads masks, be it for its validation alone, is another one.
    masked = text.replace('class_list = "classes.txt"\n', 'class_list = "classes.txt"\nmask_folder = "masks"\n')
    validated = masked.replace("[stages.train_segmenter]\n", "[stages.train_segmenter]\nvalidate_every = 1\n")
    others = "build_shards.other_classes_as=255"
    assert changed(load, others, text=masked) == ["build_shards", "evaluate"]
    assert changed(load, others, text=validated) == ["build_shards", "train_segmenter", "predict", "evaluate"]
    boxes = text.replace('class_list = "classes.txt"\n', 'class_list = "classes.txt"\nboxes = "masks"\n')
    assert changed(load, added, text=boxes) == ORDER


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train_classifier.num_ranks=2", "train_classifier.num_ranks: this setting is now called world_size"),
        ("defaults.head_rate_factor=2.0", "defaults.head_rate_factor: this setting or kind is now called head_lr_mult"),
        ("make_cams.apart=true", "make_cams.apart: this setting is now called second_classifier"),
        ("make_cams.inputs.apart=train_classifier", "make_cams.inputs.apart: this input is now called second_class"),
    ],
)
def test_an_old_name_is_refused_and_the_new_one_named(load: Load, override: str, message: str) -> None:
    assert message in fails(load, CHAIN, override)


def test_new_names_exist() -> None:
    known = {field.name for kind in STAGES.values() for field in fields(kind)}
    assert set(RENAMED.values()) <= known and not set(RENAMED) & known
