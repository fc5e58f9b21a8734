"""Which images train on their masks, what batches are made of, and where boxes come from."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.local import LocalRuntime
from shards.records import Box, CamRecord, PseudoLabel, Sample, grid_size
from tests.wsss.layers import instance_of, records_of, sample, samples_of
from wsss.contract.fit import Draw
from wsss.contract.folds import view_of_fold
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.segmenter.box_planes import grid_planes, planes_of_boxes
from wsss.stages.segmenter.box_source import BoxSource
from wsss.stages.segmenter.images import MixedImages
from wsss.stages.train_ancillary import TrainAncillary
from wsss.stages.train_correction import TrainCorrection
from wsss.stages.train_segmenter import TrainSegmenter

SETTINGS: dict[str, Any] = {
    "encoder": "test_efficientnet",
    "pretrained": "none",
    "dilated": False,
    "crop_size": 32,
    "resize_long": (32, 48),
    "batch_size": 4,
    "num_epochs": 2,
    "decoder_channels": 8,
}
NUM_IMAGES = 12


def picture(number: int, *, masked: bool = True, with_boxes: bool = True) -> Sample:
    generator = np.random.default_rng(number)
    size = (37 + number, 53 - number)
    mask = np.zeros(size, np.uint8)
    top, left = generator.integers(2, 12, 2).tolist()
    mask[top : top + 15, left : left + 21] = 1 + number % 5
    made = sample(f"t{number}", mask, position=number)
    boxes = (Box(1 + number % 5, top, left, top + 15, left + 21),)
    fields = {**vars(made), "mask": mask if masked else None, "boxes": boxes if with_boxes else None}
    return Sample(**fields)


def data(path: Path, **changes: Any) -> tuple[Instance, Instance]:
    pictures = [picture(n, **changes) for n in range(NUM_IMAGES)]
    of = samples_of(path, {f"train-00000{s}": pictures[6 * s : 6 * s + 6] for s in range(2)})
    labels = [
        PseudoLabel(key=p.key, mask=np.full(p.size, 2, np.uint8), confidence=np.zeros(grid_size(p.size), np.uint8))
        for p in pictures
    ]
    shards = {f"train-00000{s}": labels[6 * s : 6 * s + 6] for s in range(2)}
    return of, records_of(MakePseudoLabels(), path, of, shards)


def segmenter(path: Path, inputs: tuple[Instance, Instance] | None = None, **settings: Any) -> Instance:
    of, labels = inputs or data(path)
    stage = TrainSegmenter(**{**SETTINGS, **settings})
    given = {"samples": of, "pseudo_labels": labels}
    instance = instance_of(stage, path, **{slot: given[slot] for slot in stage.used_slots() if slot in given})
    stage.check(instance)
    return instance


def keys(instance: Instance) -> frozenset[str]:
    stage = instance.stage
    assert isinstance(stage, TrainSegmenter | TrainAncillary)
    return stage.full_keys(instance)


def test_a_share_is_drawn_by_the_seed_and_smaller_ones_are_part_of_larger_ones(tmp_path: Path) -> None:
    drawn = [keys(segmenter(tmp_path / str(n), full_share=n / 12, full_per_batch=1)) for n in (1, 3, 6, 12)]
    assert [len(found) for found in drawn] == [1, 3, 6, 12]
    assert all(small < large for small, large in pairwise(drawn))
    assert drawn[2] != {f"t{n}" for n in range(6)}


def test_every_stage_draws_the_same_images_and_another_seed_of_a_training_changes_none(tmp_path: Path) -> None:
    shifted = segmenter(tmp_path / "a", full_share=0.5, full_per_batch=1, seed_shift=7)
    ancillary = instance_of(TrainAncillary(**SETTINGS, full_share=0.5), tmp_path / "b", **shifted.inputs)
    assert keys(shifted) == keys(ancillary)


def test_a_list_in_place_of_all(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("t3\n\nt7\nt5\nt9\n")
    whole = segmenter(tmp_path / "a", full_share=1.0, full_list=str(path), full_per_batch=1)
    half = segmenter(tmp_path / "b", full_share=0.5, full_list=str(path), full_per_batch=1)
    assert keys(whole) == {"t3", "t5", "t7", "t9"} > keys(half) and len(keys(half)) == 2
    assert (
        whole.stage.supervision() == "semi" and segmenter(tmp_path / "c", full_share=1.0).stage.supervision() == "full"
    )
    before = hashed_values(whole.stage)
    path.write_text("t3\nt7\n")
    assert hashed_values(whole.stage) != before


@pytest.mark.parametrize(("share", "number"), [(1.0, 2), (0.5, 1)])
def test_the_trainings_of_all_folds_choose_among_the_same_images(tmp_path: Path, share: float, number: int) -> None:
    """Fold 1 is the first shard, of t0 to t5, which the first training does not see."""
    path = tmp_path / "keys.txt"
    path.write_text("t3\nt7\nt5\nt9\n")
    given: dict[str, Any] = {"full_share": share, "full_list": str(path), "full_per_batch": 1}
    whole = keys(segmenter(tmp_path / "whole", **given))
    of = data(tmp_path / "folds")
    found = []
    for fold in (1, 2):
        stage = TrainSegmenter(**SETTINGS, **given, folds=2, fold=fold)
        found.append(keys(segmenter(tmp_path / str(fold), tuple(view_of_fold(one, stage) for one in of), **given)))
    assert found[0] | found[1] == whole and not found[0] & found[1]
    assert found[0] <= {"t7", "t9"} and found[1] <= {"t3", "t5"} and len(whole) == 2 * number


def test_a_listed_image_of_a_shard_that_is_not_used_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("t3\nt7\n")
    given: dict[str, Any] = {"full_share": 1.0, "full_list": str(path), "full_per_batch": 1, "max_shards": 1}
    assert keys(segmenter(tmp_path, **given)) == {"t3"}


def test_a_plan_counts_the_keys_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("t3\n\nt7\nt5\nt9\nt3\n")
    listed = segmenter(tmp_path / "a", full_share=0.5, full_list=str(path), full_per_batch=1).stage
    drawn = segmenter(tmp_path / "b", full_share=0.5, full_per_batch=1).stage
    assert isinstance(listed, TrainSegmenter) and isinstance(drawn, TrainSegmenter)
    assert (listed.planned_masks(NUM_IMAGES), drawn.planned_masks(NUM_IMAGES)) == (2, 6)
    absent = segmenter(tmp_path / "c", full_share=1.0, full_list="$VOC_ROOT/train.txt", full_per_batch=1).stage
    assert isinstance(absent, TrainSegmenter) and absent.planned_masks(NUM_IMAGES) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"full_share": 0.01}, r"full_share = 0.01 of 12 images with masks is less than one; set at least 0.083"),
        (
            {"full_share": 0.5, "full_per_batch": 4},
            r"full_per_batch = 4 leaves no room .* batch_size = 4; set at most 3",
        ),
        ({"full_share": 0.5, "full_list": "none.txt"}, r"full_list = 'none.txt' does not exist; give a file of keys"),
        (
            {"full_share": 1.0, "objective": "dsrg"},
            r"full_share = 1: objective = 'dsrg' needs training images without masks",
        ),
        ({"objective": "self_correction", "self_correction": "em_fixed"}, r"full_share = 0.0: .* needs masks of some"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        instance = segmenter(tmp_path, **{"full_per_batch": 1, **settings})
        instance.stage.training_set(instance)  # type: ignore[attr-defined]


def test_a_list_that_names_other_images(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("t3\nv1\n")
    with pytest.raises(ValueError, match=r"keys.txt names 'v1' \(1 such\), which is not a training image with a mask"):
        keys(segmenter(tmp_path, full_share=1.0, full_list=str(path), full_per_batch=1))


def test_data_without_masks_or_boxes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no training image of build_shards has a mask; see its masked_splits"):
        keys(segmenter(tmp_path / "a", data(tmp_path / "a", masked=False), full_share=0.5, full_per_batch=1))
    bare, _ = data(tmp_path / "b", with_boxes=False)
    ancillary = instance_of(TrainAncillary(**SETTINGS, full_share=0.5), tmp_path / "b", samples=bare)
    with pytest.raises(ValueError, match=r"box_source = 'annotated', but no image of split 'train' .* has boxes"):
        ancillary.stage.training_set(ancillary)  # type: ignore[attr-defined]


def test_boxes_of_other_images_or_splits(tmp_path: Path) -> None:
    """They are missed before a training begins, not at its first batch or validation."""
    pictures = [picture(n, masked=n < 3, with_boxes=n > 5) for n in range(NUM_IMAGES)]
    of = samples_of(tmp_path, {"train-000000": pictures, "val-000000": [picture(20, with_boxes=False)]})
    validated = {"validate_every": 1, "validation_images": 0}
    reported = TrainAncillary(**SETTINGS, full_share=1.0)
    with pytest.raises(ValueError, match=r"'annotated': no image selected by train_ancillary.full_share has known"):
        reported.training_set(instance_of(reported, tmp_path, samples=of))
    # Without a correction that learns from both, masks need no boxes: all three may train.
    em_fixed = TrainSegmenter(
        **SETTINGS, objective="self_correction", self_correction="em_fixed", full_share=0.67, full_per_batch=1
    )
    mixed = em_fixed.training_set(instance_of(em_fixed, tmp_path, samples=of))
    assert len(mixed) == 2 + 6 and mixed.example(Draw(0, 0)).keys() == mixed.example(Draw(5, 0)).keys()
    ancillary = TrainAncillary(**SETTINGS, **validated, full_share=1.0)
    with pytest.raises(ValueError, match=r"no image of split 'val' of build_shards has boxes"):
        ancillary.training_set(instance_of(ancillary, tmp_path, samples=of))
    made = {splits: instance_of(MakeCams(splits=splits), tmp_path, samples=of) for splits in (("val",), ("train",))}
    of_maps = TrainAncillary(**SETTINGS, **validated, full_share=1.0, box_source="cams")
    for splits, absent in ((("val",), "train"), (("train",), "val")):
        with pytest.raises(ValueError, match=rf"'cams' reads the split '{absent}', but make_cams makes only"):
            of_maps.check(instance_of(of_maps, tmp_path, samples=of, cams=made[splits]))
    plain = TrainAncillary(**SETTINGS, full_share=1.0, box_source="cams")
    plain.check(instance_of(plain, tmp_path, samples=of, cams=made["train",]))


def test_without_masks_nothing_of_them_enters_a_fingerprint() -> None:
    own = {"full_share", "full_list", "full_per_batch", "full_weight", "box_source", "box_threshold", "seed_shift"}
    assert not (own | {"max_shards", "dropout"}) & set(hashed_values(TrainSegmenter(**SETTINGS)))
    assert hashed_values(TrainSegmenter(**SETTINGS, max_shards=3))["max_shards"] == 3
    assert set(hashed_values(TrainSegmenter(**SETTINGS, full_share=0.5))) & own == {
        "full_share", "full_per_batch", "full_weight",
    }  # fmt: skip


def test_full_supervision_trains_on_masks_and_reads_no_pseudo_labels(tmp_path: Path) -> None:
    instance = segmenter(tmp_path, full_share=1.0)
    examples: Any = instance.stage.training_set(instance)  # type: ignore[attr-defined]
    assert set(instance.inputs) == {"samples"} and len(examples) == NUM_IMAGES
    for index in range(NUM_IMAGES):
        seen = set(examples.example(Draw(index, 0))["label"].unique().tolist())
        assert seen <= {0, 1 + int(examples.example(Draw(index, 0))["key"][1:]) % 5, 255}


def test_masks_are_spread_over_batches_and_an_epoch_sees_every_other_image_once(tmp_path: Path) -> None:
    instance = segmenter(tmp_path, full_share=0.25, full_per_batch=2, batch_size=5)
    mixed: Any = instance.stage.training_set(instance)  # type: ignore[attr-defined]
    assert isinstance(mixed, MixedImages) and len(mixed) == NUM_IMAGES
    seen: list[int] = []
    for epoch in range(6):
        order = mixed.order(epoch)
        np.testing.assert_array_equal(order, mixed.order(epoch))
        batches = [order[:5], order[5:10], order[10:]]
        assert [(batch < 3).tolist() for batch in batches] == [[True, False, True, False, False]] * 3
        assert sorted(order[order >= 3].tolist()) == list(range(3, 12))
        seen += order[order < 3].tolist()
    assert sorted(seen) == sorted(list(range(3)) * 12), "masks go round evenly, over the ends of epochs"
    assert all(sorted(seen[start : start + 3]) == [0, 1, 2] for start in range(0, 36, 3))


def test_a_short_last_batch_has_its_share_of_both(tmp_path: Path) -> None:
    instance = segmenter(tmp_path, full_share=4 / 12, full_per_batch=2, batch_size=7)
    mixed: Any = instance.stage.training_set(instance)  # type: ignore[attr-defined]
    order = mixed.order(0)
    assert (order[:7] < 4).sum() == 2 and (order[7:] < 4).sum() == 1 and len(order) == 7 + 1 + 3


def test_examples_of_both_kinds_have_the_same_fields(tmp_path: Path) -> None:
    instance = segmenter(tmp_path, full_share=0.25, full_per_batch=2, confidence_power=1.0)
    mixed: Any = instance.stage.training_set(instance)  # type: ignore[attr-defined]
    full, weak = mixed.example(Draw(0, 0)), mixed.example(Draw(5, 0))
    assert full.keys() == weak.keys() == {"key", "image", "label", "weight", "mask", "is_full"}
    shapes = [{n: (v.shape, v.dtype) for n, v in e.items() if n != "key"} for e in (full, weak)]
    assert shapes[0] == shapes[1]
    assert full["is_full"] and (full["label"] == 255).all() and set(full["mask"].unique().tolist()) != {255}
    assert not weak["is_full"] and (weak["mask"] == 255).all() and 2 in weak["label"]
    assert full["key"] in keys(instance) and weak["key"] not in keys(instance)


def boxed_instance(path: Path, **settings: Any) -> Instance:
    fixed = {"objective": "self_correction", "self_correction": "em_fixed", "full_per_batch": 2, "full_share": 0.5}
    return segmenter(path, **{**fixed, **settings})


def test_boxes_go_with_their_pixels(tmp_path: Path) -> None:
    """Inside a mask's own box lies all of the mask, through flips, resizing and crops."""
    weak: Any = boxed_instance(tmp_path / "weak").stage.training_set(boxed_instance(tmp_path / "again"))  # type: ignore[attr-defined]
    ancillary = TrainAncillary(**SETTINGS, full_share=1.0)
    masked: Any = ancillary.training_set(instance_of(ancillary, tmp_path, samples=data(tmp_path)[0]))
    for index in range(NUM_IMAGES):
        example = masked.example(Draw(index, 1))
        planes = example["boxes"].repeat_interleave(4, 1).repeat_interleave(4, 2)
        class_id = 1 + int(example["key"][1:]) % 5
        assert planes.shape == (6, 32, 32) and not planes[[c for c in range(1, 6) if c != class_id]].any()
        assert torch.equal(planes[0], ~planes[class_id]) and planes[class_id].any()
        of_class = example["label"] == class_id
        common, either = planes[class_id] & of_class, planes[class_id] | of_class
        assert common.sum() > 0.6 * either.sum(), "up to the grid's rounding"
    for index in range(6, NUM_IMAGES):
        example = weak.example(Draw(index, 1))
        assert set(example["label"].unique().tolist()) <= {0, 255} and example["boxes"].any(0).all()


def test_boxes_of_masks_and_of_maps(tmp_path: Path) -> None:
    cams = CamRecord(
        key="a",
        classes=np.array([2, 5], np.int16),
        maps=np.zeros((2, 10, 14), np.float16),
        size=(38, 53),
    )
    cams.maps[0, 1:4, 2:6], cams.maps[0, 8, 12:], cams.maps[1, 9, 0] = 0.9, 0.5, 0.2
    one = picture(3)
    assert BoxSource(box_source="masks").boxes_of(one, None) == one.boxes == BoxSource().boxes_of(one, None)
    found = BoxSource(box_source="cams", box_threshold=0.3).boxes_of(sample("a", None, size=(38, 53)), cams)
    assert found == (Box(2, 4, 8, 16, 24), Box(2, 32, 48, 36, 53))
    assert BoxSource(box_source="cams", box_threshold=0.6).boxes_of(sample("a", None, size=(38, 53)), cams) == found[:1]
    classes, planes = planes_of_boxes(found, size=(38, 53))
    assert classes == [2] and planes.shape == (38, 53, 1) and planes.sum() == 12 * 16 + 4 * 5
    grid = grid_planes(planes, classes, num_classes=6)
    assert grid.shape == (6, 9, 13) and grid[2].sum() == 3 * 4 + 1


def test_what_self_correction_reads(tmp_path: Path) -> None:
    base = {**SETTINGS, "objective": "self_correction", "full_share": 0.5}
    slots = {
        (variant, boxes): set(TrainSegmenter(**base, self_correction=variant, box_source=boxes).used_slots())
        - {"samples"}
        for variant in ("none", "linear", "conv", "em_fixed")
        for boxes in ("annotated", "cams")
    }
    assert slots["none", "annotated"] == slots["linear", "annotated"] == {"ancillary"}
    assert slots["conv", "annotated"] == {"ancillary", "correction"} and slots["em_fixed", "annotated"] == set()
    assert all(slots[variant, "cams"] == slots[variant, "annotated"] | {"cams"} for variant in ("none", "conv"))


def test_stages_with_other_boxes_or_have_another_architecture_are_refused(tmp_path: Path) -> None:
    of, _ = data(tmp_path)
    ancillary = instance_of(TrainAncillary(**SETTINGS, full_share=0.5), tmp_path, samples=of)
    with pytest.raises(
        ValueError, match=r"train_segmenter.box_source = 'masks', but train_ancillary was trained with 'ann"
    ):
        linear = TrainSegmenter(
            **SETTINGS, objective="self_correction", full_share=0.5, full_per_batch=1, box_source="masks"
        )
        linear.check(instance_of(linear, tmp_path, samples=of, ancillary=ancillary))
    stage = TrainCorrection(**{**SETTINGS, "decoder_channels": 16}, full_share=1.0)
    correction = instance_of(stage, tmp_path, samples=of, ancillary=ancillary)
    stage.check(correction)
    conv = TrainSegmenter(
        **SETTINGS, objective="self_correction", self_correction="conv", full_share=0.5, full_per_batch=1
    )
    with pytest.raises(ValueError, match=r"decoder_channels = 8, but it starts .* of train_correction, which has 16"):
        conv.check(instance_of(conv, tmp_path, samples=of, ancillary=ancillary, correction=correction))


def test_an_ancillary_model_that_learned_other_colours_is_refused(tmp_path: Path) -> None:
    """It is shown the batches of the stage that reads it, normalised by that stage's settings."""
    of, _ = data(tmp_path)
    grey = TrainAncillary(**SETTINGS, full_share=0.5, mean=(0.5, 0.5, 0.5))
    ancillary = instance_of(grey, tmp_path, samples=of)
    linear = TrainSegmenter(**SETTINGS, objective="self_correction", full_share=0.5, full_per_batch=1)
    for stage in (linear, TrainCorrection(**SETTINGS, full_share=1.0)):
        with pytest.raises(ValueError, match=r"mean = \(0.485, .*but train_ancillary, .* was trained with \(0.5, 0.5"):
            stage.check(instance_of(stage, tmp_path, samples=of, ancillary=ancillary))
        same = type(stage)(**{**vars(stage), "mean": (0.5, 0.5, 0.5)})
        same.check(instance_of(same, tmp_path, samples=of, ancillary=ancillary))


def test_a_correction_learns_from_masks_that_the_ancillary_model_has_not_seen(tmp_path: Path) -> None:
    of, _ = data(tmp_path)
    ancillary = instance_of(TrainAncillary(**SETTINGS, full_share=0.5), tmp_path, samples=of)
    same = TrainCorrection(**SETTINGS, full_share=0.5)
    with pytest.raises(ValueError, match=r"full_share = 0.5, but train_ancillary.full_share = 0.5 of the same"):
        same.check(instance_of(same, tmp_path, samples=of, ancillary=ancillary))
    more = TrainCorrection(**SETTINGS, full_share=0.75)
    more.check(instance_of(more, tmp_path, samples=of, ancillary=ancillary))


def test_the_biases_of_em_fixed_are_compared_where_they_are_read(tmp_path: Path) -> None:
    biases = {"em_foreground_bias": 1.0, "em_background_bias": 3.0}
    with pytest.raises(ValueError, match=r"em_foreground_bias = 1.0 must be above em_background_bias = 3.0"):
        boxed_instance(tmp_path / "a", **biases)
    of, _ = data(tmp_path / "b")
    ancillary = instance_of(TrainAncillary(**SETTINGS, full_share=0.5), tmp_path, samples=of)
    linear = TrainSegmenter(**SETTINGS, **biases, objective="self_correction", full_share=0.5, full_per_batch=1)
    linear.check(instance_of(linear, tmp_path, samples=of, ancillary=ancillary))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"full_share": 0.25}, {"objective": "self_correction", "self_correction": "em_fixed", "full_share": 0.25}],
    ids=["semi", "em_fixed"],
)
def test_two_ranks_give_the_losses_of_one_over_twenty_steps(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Of one image with a mask in a batch the other rank has none, and the losses are the same."""
    losses = []
    for world_size in (1, 2):
        changes = {
            "world_size": world_size,
            "full_per_batch": 1,
            "num_epochs": 7,
            "learning_rate": 5e-5,
            "dropout": 0.0,
        }
        instance = segmenter(tmp_path / str(world_size), **settings, **changes, norm="synchronised")
        instance.path.mkdir()
        outcome = LocalRuntime(RuntimeSettings(runs=tmp_path)).fit(instance, instance.stage, lambda *_: None)  # type: ignore[arg-type]
        losses.append([row["loss"] for row in outcome.tables["history"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][-1] < losses[0][0]
