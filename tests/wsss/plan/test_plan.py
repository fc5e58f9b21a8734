"""Plans of whole recipes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from wsss.__main__ import main
from wsss.contract.cost import DatasetStats, FitWork, ShardWork
from wsss.ops.random_walk import chebyshev_power
from wsss.pipeline.dry_recipe import dry_recipe
from wsss.pipeline.recipe import RecipeError
from wsss.plan import networks
from wsss.plan.context import Context
from wsss.plan.costs import PlanError, load_costs
from wsss.plan.dataset_stats import parse_images
from wsss.plan.hardware import DECODE, GPU, STORAGE, Cluster, Usage, cluster_of
from wsss.plan.networks import Networks, _counted
from wsss.plan.plan import MANY_IMAGES, SCALES, Plan, Planned, make_plan
from wsss.plan.render import plan_page
from wsss.report.layout import fit
from wsss.report.tables import text_of
from wsss.stages.affinity.cost import WALK_TOLERANCE

ROOT = Path(__file__).resolve().parents[3]
# A folder's classes are known from its own table alone.
RECIPES = sorted(path for path in (ROOT / "tuning" / "recipes").glob("*.toml") if path.stem != "folder")
CHAIN = """
[recipe]
name = "small"

[defaults]
pretrained = "none"
encoder = "test_efficientnet"

[stages.build_shards]
source = "toy"
counts = { train = 4000, val = 400 }
size = 128
shard_size = 100

[stages.train_classifier]
crop_size = 128
batch_size = 16
num_epochs = 3
world_size = 4

[stages.make_cams]
scales = [1.0, 2.0]
max_shards = 20

[stages.make_seeds]
crf_iterations = 5

[stages.train_affinity]
num_epochs = 2
batch_size = 10

[stages.make_scores]

[stages.make_pseudo_labels]
"""


def used(planned: Planned) -> Usage:
    assert planned.usage is not None
    return planned.usage


def cluster(**changes: object) -> Cluster:
    options = {"nodes": 4, "gpus_per_node": 8, "gpu": "A100", "cores_per_node": None}
    return cluster_of(**{**options, "network_gbps": 100.0, "storage_gbps": 20.0, **changes})  # type: ignore[arg-type]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(CHAIN)
    return path


def plan(path: Path, *overrides: str, images: str | None = None, **changes: object) -> Plan:
    runs = f"runtime.runs={path.parent / 'runs'}"
    return make_plan(path, [runs, *overrides], cluster=cluster(**changes), images=images)


def work(path: Path, name: str, *overrides: str) -> ShardWork | FitWork:
    recipe, _ = dry_recipe(path, list(overrides))
    stats = DatasetStats(
        images={"train": 4000, "val": 400},
        size=(128, 128),
        labelled_share=1.0,
        labels=2.0,
        masked_splits=frozenset({"train", "val"}),
        shard_images=100,
    )
    instance = recipe.instance(name)
    found = instance.stage.cost(instance, Context(instance, stats, load_costs(), Networks()))
    assert isinstance(found, ShardWork | FitWork)
    return found


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.slow
def test_every_recipe_can_be_planned(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("VOC_ROOT", "ILSVRC_ROOT", "LID_PACKAGE"):
        monkeypatch.delenv(variable, raising=False)
    images = "train=1000,val=100" + (",test=100" if path.stem == "imagenet_s" else "")  # no list says how many
    made = make_plan(path, [f"runtime.runs={tmp_path}/runs"], cluster=cluster(), images=images)
    assert [planned.instance.name for planned in made.stages] == [i.name for i in made.recipe.instances]
    assert all(used(planned).seconds > 0 for planned in made.stages)
    assert len(made.scaled) == 2 * len(SCALES)
    assert not (tmp_path / "runs").exists(), "a plan writes nothing"


COST = re.compile(
    r"# Cost: (?:VOC_ROOT=\.\.\. )?wsss plan (?P<name>\w+) --gpu A100 --gpus-per-node 1 "
    r"--images (?P<images>\S+): (?P<hours>[\d.]+) hours"
)
PUBLISHED = [path for path in RECIPES if path.stem.partition("_voc")[1]]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
@pytest.mark.slow
def test_the_cost_in_a_recipes_header_is_the_plans(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("".join(f"{number}\n" for number in range(1464)))  # as many masks as VOC's list has images
    monkeypatch.setenv("VOC_ROOT", str(tmp_path))
    said = COST.search(path.read_text())
    assert said is not None and said["name"] == path.stem
    one = cluster(nodes=1, gpus_per_node=1, gpu="A100", cores_per_node=None)
    made = make_plan(path, [f"runtime.runs={tmp_path}/runs"], cluster=one, images=said["images"])
    assert sum(used(planned).seconds for planned in made.stages) / 3600 == pytest.approx(float(said["hours"]), rel=0.1)


def test_a_plan_says_which_given_settings_nothing_reads() -> None:
    path = ROOT / "tuning" / "recipes" / "irnet_voc.toml"
    given = ["train_affinity.levels=conv4_conv5_fc7"]
    heading = plan_page(make_plan(path, given, cluster=cluster(), images="train=100,val=10")).heading
    assert any(line.startswith("not read: train_affinity.levels = 'conv4_conv5_fc7' (--set)") for line in heading)


def test_a_plan_says_that_it_has_no_list_of_masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VOC_ROOT", raising=False)
    path = ROOT / "tuning" / "recipes" / "self_correcting_voc.toml"
    made = make_plan(path, [f"runtime.runs={tmp_path}/runs"], cluster=cluster(), images="train=1000,val=100")
    noted = {
        p.instance.name for p in made.stages if any("full_list is not here: all training" in note for note in p.notes)
    }
    assert noted == {i.name for i in made.recipe.instances if i.stage.kind.startswith("train_")}


def test_work_by_hand(small: Path) -> None:
    cams = work(small, "make_cams")
    assert isinstance(cams, ShardWork)
    assert (cams.images, cams.shards) == (2000 + 400, 20 + 4)
    assert cams.load.passes == 2  # both scales, an image beside its mirror image
    assert cams.load.core["decode_image"] == pytest.approx(128 * 128 / 1e6)
    assert cams.load.arrays["cam_maps"] == pytest.approx(2 * 2 * 2 * 32 * 32 / 1e6)  # classes, scales, flips, nodes
    seeds = work(small, "make_seeds")
    assert isinstance(seeds, ShardWork) and not seeds.has_network
    assert seeds.images == 2400, "no more than there are maps"
    assert seeds.load.core["crf_step_label"] == pytest.approx(0.016384 * 5 * 3 * 2)  # steps, labels, both maps
    scores = work(small, "make_scores", "make_scores.num_steps_log2=4")
    terms = len(chebyshev_power(16, tolerance=WALK_TOLERANCE))
    assert isinstance(scores, ShardWork)
    assert scores.load.arrays["walk_step"] == pytest.approx(1024 / 1e6 * 2 * terms)
    training = work(small, "train_classifier")
    assert isinstance(training, FitWork)
    assert (training.examples, training.steps, training.ranks) == (4000, 3 * 250, 4)
    affinity = work(small, "train_affinity")
    assert isinstance(affinity, FitWork)
    assert (affinity.examples, affinity.steps) == (2000, 2 * 200)
    assert affinity.load.core["read_mask"] == pytest.approx(0.016384)


def test_maps_of_all_stages_cost_a_backward_pass_per_class_and_a_map_per_stage(small: Path) -> None:
    cams, similar, region, coarse = (
        work(small, "make_cams", *(f"make_cams.{setting}" for setting in settings))
        for settings in (
            (),
            ("method=self_similarity",),
            ("method=region_cam",),
            ("method=region_cam", "finest_stride=16"),
        )
    )
    assert all(isinstance(one, ShardWork) for one in (cams, similar, region, coarse))
    assert similar.load.arrays["cam_maps"] == pytest.approx(4 * cams.load.arrays["cam_maps"])
    assert similar.load.flops == cams.load.flops and similar.load.passes == cams.load.passes == 2
    assert region.load.passes == 2 + 2 * 2, "two classes, backwards in both scales"
    backward = region.load.flops / cams.load.flops - 1
    assert 0.3 < backward < 2, "of two classes, each at most a forward pass, without the layers before stride 4"
    assert cams.load.flops < coarse.load.flops < region.load.flops


def test_prototypes_cost_one_pass_of_the_chosen_images(small: Path) -> None:
    small.write_text(CHAIN.replace("[stages.make_seeds]", "[stages.make_prototypes]\n\n[stages.make_seeds]"))
    made, all_images = (
        work(small, "make_prototypes", f"make_prototypes.images_per_class={number}") for number in (100, 5000)
    )
    assert isinstance(made, ShardWork) and isinstance(all_images, ShardWork)
    assert made.images == 100 * 5 / 2, "of five classes, two in an image"
    assert all_images.images == 2000, "no more than there are maps of the split train"
    assert made.load == all_images.load and made.load.passes == 1 and not made.has_network


def test_every_scale_of_boundaries_is_a_pass_of_its_own(small: Path) -> None:
    one, three = (work(small, "make_scores", f"make_scores.edge_scales={s}") for s in ("[1.0]", "[1.0, 0.5, 2.0]"))
    assert isinstance(one, ShardWork) and isinstance(three, ShardWork)
    assert (one.load.passes, three.load.passes) == (1, 3)
    assert three.load.flops == pytest.approx(one.load.flops * (1 + 0.25 + 4), rel=0.05)
    assert three.load.arrays == one.load.arrays, "there is one walk"


def test_masks_of_some_make_an_epoch_one_pass_over_the_others(small: Path) -> None:
    small.write_text(
        CHAIN.replace('name = "small"', 'name = "small"\nsupervision = "semi"')
        + "\n[stages.train_segmenter]\nbatch_size = 8\nfull_share = 0.25\nfull_per_batch = 2\n"
    )
    mixed = work(small, "train_segmenter")
    assert isinstance(mixed, FitWork)
    assert mixed.examples == 0.75 * 2000 * 8 / 6


def test_shards_cut_by_bytes_hold_as_many_images_as_fit(small: Path) -> None:
    """`shard_size = 0`, the default: the images of a shard follow from what an image file takes."""
    small.write_text(CHAIN.replace("shard_size = 100\n", ""))
    assert plan(small).data.stats.shard_images == 128, "the toy data set's pictures have no size before they are drawn"
    voc = 'source = "voc"\nroot = "nowhere"\nlists = { train = "a", val = "b" }\nshard_megabytes = 10.0'
    toy = 'source = "toy"\ncounts = { train = 4000, val = 400 }\nsize = 128\nshard_size = 100'
    small.write_text(CHAIN.replace(toy, voc))
    made = plan(small, images="train=4000,val=400")
    image = load_costs()["image_bytes"] * 375 * 500 / 1e6
    assert made.data.stats.shard_images == int(10e6 / image)


def test_networks_of_one_structure_are_counted_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another dropout, another loss, another split change no number of operations; another encoder does."""
    counted: list[float] = []

    def counting(call: Callable[[], object]) -> float:
        counted.append(_counted(call))
        return counted[-1]

    monkeypatch.setattr(networks, "_counted", counting)
    same = ("train_classifier.dropout=0.5", "train_classifier.loss=focal", "train_classifier.balance=up")
    together = Networks()
    for overrides in ((), same):
        instance = dry_recipe(small, list(overrides))[0].instance("train_classifier")
        together.forward(instance, (128, 128))
    assert len(counted) == 1
    larger = dry_recipe(small, ["train_classifier.encoder=resnet18"])[0].instance("train_classifier")
    assert together.forward(larger, (128, 128)) != counted[0]


def test_a_counted_call_may_change_its_network(small: Path) -> None:
    """What it changes is a copy: a training that is counted afterwards still learns all of its parameters."""
    recipe, _ = dry_recipe(small, [])
    one, other, instance = Networks(), Networks(), recipe.instance("train_classifier")
    images = []

    def freeze(network: nn.Module, image_B3HW: torch.Tensor) -> None:
        images.append(image_B3HW.shape)
        network.requires_grad_(False)
        network.forward(image_B3HW, generator=torch.Generator())

    counted = one.count(instance, (64, 96), name="frozen", call=freeze)
    assert images == [(2, 3, 64, 96)]
    assert counted == one.forward(instance, (64, 96))
    assert one.count(instance, (64, 96), name="frozen", call=freeze) == counted and len(images) == 1
    assert one.training(instance, 64) == other.training(instance, 64)


def test_doubled_images_double_what_is_not_fixed(small: Path) -> None:
    once, twice = (plan(small, images=f"train={n},val=400") for n in (40_000, 80_000))
    for place, part in ((0, STORAGE), (1, GPU), (1, DECODE)):
        one, two = (used(made.stages[place]).parts[part] for made in (once, twice))
        assert two == pytest.approx(2 * one, rel=0.02), "but for the 400 images of val"
    assert used(twice.stages[0]).read == pytest.approx(2 * used(once.stages[0]).read, rel=0.02)


def test_settings_reach_the_plan(small: Path) -> None:
    def hours(*overrides: str) -> dict[str, float]:
        return {planned.instance.name: used(planned).seconds for planned in plan(small, *overrides).stages}

    usual, more = (
        hours(),
        hours("train_classifier.num_epochs=6", "make_seeds.crf_iterations=10", "make_cams.flip=false"),
    )
    assert more["train_classifier"] > 1.5 * usual["train_classifier"]
    assert more["make_seeds"] > usual["make_seeds"]
    assert more["make_pseudo_labels"] == usual["make_pseudo_labels"]
    assert hours("train_classifier.world_size=8")["train_classifier"] < usual["train_classifier"]
    larger = hours("make_cams.long_side=2000", "make_scores.long_side=2000")
    assert larger["make_cams"] > usual["make_cams"] and larger["make_scores"] > usual["make_scores"]


def test_bottlenecks_come_from_the_same_model(small: Path) -> None:
    made = plan(small, images="train=40000,val=400")
    assert [(scaled.gpus, scaled.images) for scaled in made.scaled] == [
        (gpus, images) for images in (40_000, MANY_IMAGES) for gpus in SCALES
    ]
    eight = made.scaled[0]
    alone = plan(
        small,
        "train_classifier.world_size=8",
        "train_affinity.world_size=5",
        images="train=40000,val=400",
        nodes=1,
    )
    assert eight.seconds == pytest.approx(sum(used(planned).seconds for planned in alone.stages))
    assert eight.usage.seconds == max(used(planned).seconds for planned in alone.stages)
    classifier = next(s for s in made.scaled if s.gpus == 512).usage
    assert classifier.used <= 16, "a batch of 16 feeds 16 ranks"


def test_images(small: Path) -> None:
    assert plan(small).data.stats.images == {"train": 4000, "val": 400}
    assert plan(small, images="456_567").data.stats.images == {"train": 456_567, "val": 400}
    lid = plan(small, "recipe.rules=lid_track1").data
    assert (lid.stats.images, lid.origin) == ({"train": 456_567, "val": 4690}, "LID's track 1")
    assert parse_images("train=5, val=3") == {"train": 5, "val": 3}
    for twice in ("train=5,train=7", "5,train=7"):
        with pytest.raises(PlanError, match=f"--images {twice}: train is given twice; give it once"):
            parse_images(twice)
    for wrong in ("0", "many", "train=", "=5", "-3"):
        with pytest.raises(PlanError, match=r"write a number of training images, or SPLIT=NUMBER"):
            parse_images(wrong)
    with pytest.raises(PlanError, match=r"--images train=5,vall=3: unknown split 'vall'; did you mean val\?"):
        plan(small, images="train=5,vall=3")
    voc = ROOT / "tuning" / "recipes" / "voc_animals.toml"
    with pytest.raises(PlanError, match=r"how many images\? build_shards is not done.*give --images train=N,val=N"):
        make_plan(voc, [f"runtime.runs={small.parent}/runs"], cluster=cluster(), images=None)
    message = r"--images train=9: the number of images of val is not known; give --images train=9,val=N"
    with pytest.raises(PlanError, match=message):
        make_plan(voc, [f"runtime.runs={small.parent}/runs"], cluster=cluster(), images="train=9")


def test_more_ranks_than_gpus_are_refused_for_all_trainings_at_once(small: Path) -> None:
    with pytest.raises(
        PlanError, match=r"train_classifier\.world_size = 4, but the cluster has 2 GPUs; plan more nodes"
    ):
        plan(small, nodes=1, gpus_per_node=2)
    message = r"world_size = 4, train_affinity.world_size = 3, but .* --set train_classifier.world_size=2 --set train_"
    with pytest.raises(PlanError, match=message):
        plan(small, "train_affinity.world_size=3", nodes=1, gpus_per_node=2)


def test_other_faults_of_a_recipe_are_reported(small: Path) -> None:
    with pytest.raises(RecipeError, match=r"make_cams\.flp: unknown setting"):
        plan(small, "make_cams.flp=true")


def test_operations_by_hand() -> None:
    """Forward: two per weight and position. Back: as much towards the weights, and towards the input where asked."""
    image = torch.zeros(1, 6, 8, 8, device="meta")
    for groups in (1, 3):
        layer = nn.Conv2d(6, 12, 3, padding=1, groups=groups, bias=False, device="meta")
        forward = 2 * 64 * 12 * 9 * 6 // groups
        assert _counted(lambda layer=layer: layer(image)) == forward  # type: ignore[misc]
        assert _counted(lambda layer=layer: layer(image).sum().backward()) == 2 * forward  # type: ignore[misc]
        learned = image.clone().requires_grad_()
        assert _counted(lambda layer=layer, x=learned: layer(x).sum().backward()) == 3 * forward  # type: ignore[misc]


def test_what_is_printed(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ["--set", f"runtime.runs={small.parent}/runs"]
    assert main(["plan", str(small), "--nodes", "2", "--gpu", "H200", *runs]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    for name in ("build_shards", "train_classifier", "make_pseudo_labels", "total"):
        assert any(line.startswith(name) for line in lines)
    assert "what would be the bottleneck" in out and "100,000,000" in out
    assert "assumed" in out and "NVIDIA H200" in out and "tests/benchmarks/costs.py" in out
    assert main(["plan", str(small), "--nodes", "2", "--gpu", "H200", *runs, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"notes", "stages", "bottlenecks", "figures"}
    total = content["stages"][-1]
    assert total["stage"] == "total" and 0 < total["hours"] == pytest.approx(
        sum(row["hours"] for row in content["stages"][:-1])
    )
    assert all(row["source"] for row in content["figures"]), "the source itself, not its number in the lines below"
    assert main(["plan", str(small), "--gpu", "B7", *runs]) == 1
    assert "allowed are T4, V100" in capsys.readouterr().err
    assert main(["plan", str(small), "--gpus-per-node", "0", *runs]) == 0
    assert "GPU-hours" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_terminal_shows_every_number_and_name(small: Path, width: int) -> None:
    cluster = cluster_of(
        nodes=2, gpus_per_node=8, gpu="H200", cores_per_node=None, network_gbps=100.0, storage_gbps=20.0
    )
    page = plan_page(make_plan(small, [], cluster=cluster, images=None))
    for table in page.tables.values():
        lines = fit(table, width)
        words = set(" ".join(lines).split())
        for row in table.rows:
            for column, cell in zip(table.columns, row, strict=True):
                assert column.role == "data" or set(text_of(cell).split()) <= words
        longest = max(len(word) for line in lines for word in line.split())
        assert max(map(len, lines)) <= max(width, longest + 4)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "--storage-gbps" in capsys.readouterr().out


AFFINITYNET = """
[recipe]
name = "affinitynet"
[defaults]
pretrained = "none"
encoder = "{encoder}"
output_stride = 8
[stages.build_shards]
source = "toy"
counts = {{ train = 4000, val = 400 }}
size = 128
[stages.train_classifier]
crop_size = 128
[stages.make_cams]
square_root = true
[stages.make_seeds]
rule = "exponents"
keep_scores = true
[stages.train_affinity]
network = "affinitynet"
levels = "{levels}"
radius = 5
crop_size = 128
[stages.make_scores]
background_exponent = 16.0
[stages.make_pseudo_labels]
background = "propagated"
"""


@pytest.mark.parametrize(
    ("encoder", "levels", "parameters"),
    # 14,714,688 of VGG16's convolutions, 4,719,616 of fc6 and 1,049,600 of fc7; ResNet-38: tests/wsss/models.
    [("vgg16_affinitynet", "conv4_conv5_fc7", 20_483_904), ("resnet38", "conv4_conv5_conv6", 105_070_912)],
)
def test_affinitynets_encoders_can_be_planned(tmp_path: Path, encoder: str, levels: str, parameters: int) -> None:
    path = tmp_path / "affinitynet.toml"
    path.write_text(AFFINITYNET.format(encoder=encoder, levels=levels))
    made = plan(path, images="train=1000,val=100")
    assert all(used(planned).seconds > 0 for planned in made.stages)
    recipe, _ = dry_recipe(path, ["train_classifier.norm=batch"])
    instance, features = recipe.instance("train_classifier"), 1024 if encoder.startswith("vgg") else 4096
    assert Networks().parameters(instance) == parameters + len(instance.taxonomy) * features


def test_bytes_of_kept_scores(tmp_path: Path) -> None:
    """Two planes of float16 for each class and the background, at the image's size."""
    path = tmp_path / "affinitynet.toml"
    path.write_text(AFFINITYNET.format(encoder="vgg16_affinitynet", levels="conv4_conv5_fc7"))

    def with_scores(name: str, keep: str) -> ShardWork | FitWork:
        return work(path, name, f"make_seeds.keep_scores={keep}", "train_affinity.grid_labels=pixels")

    kept, without = (with_scores("make_seeds", keep) for keep in ("true", "false"))
    assert kept.storage.written - without.storage.written == pytest.approx(4400 * 2 * 3 * 2 * 128 * 128)
    assert kept.load.core["write_maps"] == pytest.approx(2 * 3 * 128 * 128 / 1e6)
    kept, without = (with_scores("train_affinity", keep) for keep in ("true", "false"))
    assert kept.load.core["read_maps"] == pytest.approx(2 * 3 * 128 * 128 / 1e6)
    assert "read_maps" not in without.load.core


def test_the_heading_has_the_images_of_all_data_sets() -> None:
    path = ROOT / "tuning" / "recipes" / "lid_submit.toml"
    heading = plan_page(make_plan(path, [], cluster=cluster(gpu="A100"), images="train=900,test=70")).heading
    line = next(one for one in heading if one.startswith("images: "))
    assert line.startswith("images: train 900, val 4,690, test 70 (") and "of 375 x 500 pixels (assumed)" in line


def test_an_image_of_imagenet_s_has_one_label() -> None:
    path = ROOT / "tuning" / "recipes" / "imagenet_s.toml"
    made = make_plan(path, [], cluster=cluster(gpu="A100"), images="train=900,val=90,test=9")
    assert made.data.stats.labels == 1 and made.data.stats.labelled_share == 1
