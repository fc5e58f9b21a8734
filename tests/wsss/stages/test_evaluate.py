from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shards.records import (
    CamRecord,
    InstanceLabel,
    Missing,
    Prediction,
    PseudoLabel,
    Record,
    Sample,
    ScoreRecord,
    SeedRecord,
)
from tests.wsss.layers import instance_of, records_of, sample, samples_of
from wsss.contract.counts import Counts
from wsss.contract.stage import Instance, Map, Outcome
from wsss.ops.boundary_iou import boundary_counts, boundary_iou
from wsss.ops.confusion import confusion_matrix
from wsss.stages.evaluate import Evaluate
from wsss.stages.evaluation.counts import confusions_at
from wsss.stages.evaluation.pictures import shown_classes
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_instance_labels import MakeInstanceLabels
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.make_scores import MakeScores
from wsss.stages.make_seeds import MakeSeeds
from wsss.stages.predict import Predict

STAGES: dict[str, type[Map]] = {
    stage.record_kind: stage
    for stage in (MakeCams, MakeScores, MakeSeeds, MakePseudoLabels, MakeInstanceLabels, Predict)
}


def rectangles(*parts: tuple[int, slice, slice], size: tuple[int, int] = (8, 12)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for class_id, rows, columns in parts:
        mask[rows, columns] = class_id
    return mask


def prepared(tmp_path: Path, truths: list[Sample], records: list[Record | Missing], **settings: Any) -> Instance:
    """An evaluate instance over two shards of the split val (and one of train that does not count)."""
    lost = [Missing(key="lost", reason="unreadable")]
    kind = next(record.kind for record in records if not isinstance(record, Missing))
    half = len(truths) // 2
    shards = {"train-000000": (0, 0), "val-000000": (0, half), "val-000001": (half, len(truths))}
    samples = samples_of(
        tmp_path, {shard: [*truths[a:b], *(lost if shard == "val-000001" else [])] for shard, (a, b) in shards.items()}
    )
    stage = STAGES[kind](splits=("train", "val"))
    made = records_of(stage, tmp_path, samples, {shard: records[a:b] for shard, (a, b) in shards.items()})
    return instance_of(Evaluate(**settings), tmp_path, samples=samples, records=made)


def evaluate(instance: Instance) -> Outcome:
    stage = instance.stage
    assert isinstance(stage, Evaluate)
    count = stage.counter(instance)
    total = Counts()
    assert stage.shards(instance) == ["val-000000", "val-000001"]
    for shard in stage.shards(instance):
        counts = count(shard)
        assert {array.dtype for array in counts.sums.values()} == {np.dtype(np.int64)}
        assert {array.dtype for array in counts.rows.values()} == {np.dtype(np.int32)}
        total += counts
    return stage.finish(instance, total)


def test_label_maps_by_hand(tmp_path: Path) -> None:
    left, right = slice(0, 6), slice(6, 12)
    every = slice(0, 8)
    truths = [
        sample("a", rectangles((1, every, left)), position=0),
        sample("b", rectangles((2, every, right), (255, slice(0, 4), right)), position=1),
        sample("none", None, position=2),
    ]
    grid = np.zeros((2, 3), np.uint8)
    records: list[Record | Missing] = [
        Prediction(key="a", mask=rectangles((1, slice(0, 4), left)), confidence=grid),
        Prediction(key="b", mask=rectangles((2, every, slice(3, 12))), confidence=grid),
        Prediction(key="none", mask=rectangles(), confidence=grid),
    ]
    outcome = evaluate(prepared(tmp_path, truths, records))
    # Pixels: background 48 + 48 true, of which 48 + 24 are found; class 1: 24 of 48; class 2: 24 of 24, 24 too many.
    background, one, two = 72 / (96 + 24), 24 / 48, 24 / 48
    assert outcome.metrics["mean_iou"] == pytest.approx((background + one + two) / 3)
    assert outcome.metrics["mean_accuracy"] == pytest.approx((72 / 96 + 24 / 48 + 1) / 3)
    assert outcome.metrics["pixel_accuracy"] == pytest.approx((72 + 24 + 24) / (96 + 48 + 24))
    assert outcome.metrics["val.mean_iou"] == outcome.metrics["mean_iou"]
    assert {name: outcome.metrics[f"val.{name}"] for name in ("images", "unmasked", "missing")} == {
        "images": 2,
        "unmasked": 1,
        "missing": 1,
    }
    assert outcome.metrics["labels_given"] == 0
    assert outcome.metrics["absent_classes"] == 3
    rows = outcome.tables["per_class"]
    assert [row["class"] for row in rows] == ["background", "walker", "wheel", "crate", "fin", "bloom"]
    assert rows[1]["iou"] == pytest.approx(one) and rows[4]["iou"] is None
    assert outcome.metrics["over_activation"] == pytest.approx(24 / 96)
    assert outcome.metrics["under_activation"] == pytest.approx(24 / (48 + 24))
    assert outcome.metrics["mean_iou_low"] <= outcome.metrics["mean_iou"] <= outcome.metrics["mean_iou_high"]
    folds = [np.loadtxt(outcome.artifacts[f"confusion.val.fold{fold}.csv"], delimiter=",") for fold in (0, 1)]
    assert (folds[0][1, 1], folds[0][1, 0], folds[1][0, 2], folds[1][2, 2]) == (24, 24, 24, 24)


def test_subsets_of_the_views_are_measured_too(tmp_path: Path) -> None:
    left, every = slice(0, 6), slice(0, 8)
    truths = [sample(key, rectangles((1, every, left)), position=place) for place, key in enumerate("ab")]
    grid, right, half = np.zeros((2, 3), np.uint8), rectangles((1, every, left)), rectangles((1, slice(0, 4), left))
    subsets = {"a": {"none": rectangles(), "all": right}, "b": {"none": half, "all": right}}
    records: list[Record | Missing] = [
        Prediction(key=key, mask=half, confidence=grid, ablation=ablation) for key, ablation in subsets.items()
    ]
    prepared_instance = prepared(tmp_path, truths, records)
    made = prepared_instance.inputs["records"]
    asking = replace(made, stage=Predict(splits=("train", "val"), ablation=("none", "all")))
    outcome = evaluate(replace(prepared_instance, inputs={**prepared_instance.inputs, "records": asking}))
    assert outcome.metrics["val.mean_iou"] == pytest.approx((48 / 96 + 96 / 144) / 2)
    assert outcome.metrics["val.mean_iou.none"] == pytest.approx((24 / 96 + 96 / 168) / 2)
    assert outcome.metrics["val.mean_iou.all"] == outcome.metrics["mean_iou.all"] == 1
    assert outcome.metrics["labels_given"] == 0
    reported = replace(made, stage=Predict(splits=("train", "val"), labels="given"))
    with_labels = replace(prepared_instance, inputs={**prepared_instance.inputs, "records": reported})
    assert evaluate(replace(with_labels, path=tmp_path / "reported")).metrics["labels_given"] == 1
    without = evaluate(replace(prepared_instance, path=tmp_path / "without"))
    assert not [name for name in without.metrics if "mean_iou." in name]
    assert without.metrics["val.mean_iou"] == outcome.metrics["val.mean_iou"]


def test_means_over_other_classes_and_single_images(tmp_path: Path) -> None:
    left, right, every = slice(0, 6), slice(6, 12), slice(0, 8)
    truths = [
        sample("b", rectangles((1, every, left)), position=1),
        sample("a, quoted", rectangles((2, every, right), (255, slice(0, 4), right)), position=0),
    ]
    grid = np.zeros((2, 3), np.uint8)
    records: list[Record | Missing] = [
        Prediction(key="b", mask=rectangles((1, every, left)), confidence=grid),
        Prediction(
            key="a, quoted", mask=rectangles((4, slice(4, 8), right), (255, slice(0, 2), right)), confidence=grid
        ),
    ]
    outcome = evaluate(prepared(tmp_path, truths, records, num_gallery_images=1))
    # Background and class 1 are right; class 2 is never predicted, class 4 is not there; 3 and 5 are absent.
    assert outcome.metrics["mean_iou"] == pytest.approx(2 / 4)
    assert outcome.metrics["mean_iou_present"] == pytest.approx(2 / 3)
    assert outcome.metrics["mean_iou_all_classes"] == pytest.approx(2 / 6)
    assert (outcome.metrics["absent_classes"], outcome.metrics["skipped_classes"]) == (2, 1)
    rows = outcome.tables["per_class.val"]
    assert [row["recall"] for row in rows] == [1, 1, 0, None, None, None]
    assert [row["precision"] for row in rows] == [1, 1, None, None, 0, None]
    assert outcome.tables["confused_pairs"] == [{"truth": "wheel", "prediction": "fin", "pixels": 24, "share": 1.0}]
    lines = Path(outcome.artifacts["image_scores.val.csv"]).read_text().splitlines()
    assert lines[0] == "key,mean_iou,pixel_accuracy"
    assert lines[1].startswith('"a, quoted",0.333') and lines[1].endswith(",0.6666666666666666")
    assert lines[2] == "b,1.0,1.0"
    heights = {}
    for name in ("best", "worst", "confusion"):
        with Image.open(outcome.artifacts[f"{name}.val.png"]) as picture:
            heights[name] = picture.height
    assert heights["best"] == heights["worst"], "one image and one line of legend each"


def test_boundaries_are_added_over_shards(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    masks = [np.kron(random.integers(0, 4, (2, 3)), np.ones((8, 8))).astype(np.uint8) for _ in range(4)]
    moved = [np.roll(mask, 1, axis=n % 2) for n, mask in enumerate(masks)]
    grid = np.zeros((4, 6), np.uint8)
    truths = [sample(f"k{n}", mask, position=n) for n, mask in enumerate(masks)]
    records: list[Record | Missing] = [
        PseudoLabel(key=f"k{n}", mask=mask, confidence=grid) for n, mask in enumerate(moved)
    ]
    instance = prepared(tmp_path, truths, records, boundary_width=0.1, num_gallery_images=0)
    outcome = evaluate(instance)
    counts = sum(
        boundary_counts(torch.from_numpy(t), torch.from_numpy(m), num_classes=6, ignore_index=255, width=0.1)
        for t, m in zip(masks, moved, strict=True)
    )
    assert isinstance(counts, torch.Tensor)
    wanted = boundary_iou(counts)
    assert 0 < outcome.metrics["boundary_iou"] == outcome.metrics["val.boundary_iou"] < outcome.metrics["mean_iou"]
    assert outcome.metrics["boundary_iou"] == pytest.approx(float(wanted.nanmean()))
    found = [row["boundary_iou"] for row in outcome.tables["per_class"]]
    assert found == [None if np.isnan(value) else value for value in wanted.tolist()]
    assert "best.val.png" not in outcome.artifacts and "worst.val.png" not in outcome.artifacts
    without = evaluate(replace(instance, stage=Evaluate(boundary_width=0), path=tmp_path / "without"))
    assert "boundary_iou" not in without.metrics and "boundary_iou" not in without.tables["per_class"][0]
    assert "best.val.png" in without.artifacts


def test_a_picture_of_the_confusion_shows_the_most_confused_classes() -> None:
    confusion = torch.diag(torch.full((40,), 100))
    for class_id in range(15):
        confusion[class_id + 1, 30 - class_id] += 20 + class_id
    assert shown_classes(confusion) == [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]
    assert shown_classes(torch.diag(torch.full((5,), 7))) == [0, 1, 2, 3, 4], "nothing is confused: what was seen"


def test_pseudo_labels_had_labels(tmp_path: Path) -> None:
    truth = rectangles((3, slice(0, 4), slice(0, 4)))
    records: list[Record | Missing] = [
        PseudoLabel(key=key, mask=truth, confidence=np.zeros((2, 3), np.uint8)) for key in "ab"
    ]
    outcome = evaluate(prepared(tmp_path, [sample("a", truth), sample("b", truth, position=1)], records))
    assert outcome.metrics["labels_given"] == 1
    assert outcome.metrics["mean_iou"] == 1


def test_instances_are_measured_by_their_classes(tmp_path: Path) -> None:
    truth = rectangles((3, slice(0, 4), slice(0, 8)))
    instances = rectangles((1, slice(0, 4), slice(0, 4)), (2, slice(0, 4), slice(4, 6))).astype(np.uint16)
    two = InstanceLabel(key="a", instances=instances, classes=np.array([3, 3], np.int16), scores=np.ones(2, np.float16))
    none = InstanceLabel(key="b", instances=0 * instances, classes=two.classes[:0], scores=two.scores[:0])
    outcome = evaluate(prepared(tmp_path, [sample("a", truth), sample("b", rectangles(), position=1)], [two, none]))
    assert outcome.metrics["labels_given"] == 1
    assert outcome.metrics["mean_iou"] == pytest.approx((24 / 32 + 160 / 168) / 2)
    assert outcome.metrics["instances_per_image"] == outcome.metrics["val.instances_per_image"] == 1


def test_seeds_by_hand(tmp_path: Path) -> None:
    truth = rectangles((1, slice(0, 8), slice(0, 6)), (255, slice(0, 8), slice(11, 12)))
    label = rectangles((1, slice(0, 8), slice(0, 9)), (255, slice(0, 8), slice(0, 3)))
    outcome = evaluate(
        prepared(tmp_path, [sample("a", truth), sample("b", truth)], [SeedRecord(key=k, label=label) for k in "ab"])
    )
    # Of the 11 columns that count: 3 undecided, 3 rightly class 1, 3 wrongly class 1, 2 rightly background.
    assert outcome.metrics["coverage"] == pytest.approx(8 / 11)
    assert outcome.metrics["precision"] == pytest.approx(5 / 8)
    assert outcome.metrics["foreground_precision"] == pytest.approx(3 / 6)
    assert "mean_iou" not in outcome.metrics and "per_class" not in outcome.tables


@pytest.mark.parametrize("kind", ["cam", "score"])
def test_score_maps_are_cut_at_the_other_halfs_threshold(tmp_path: Path, kind: str) -> None:
    # On the even image 0.6 separates, on the odd one 0.2; whole 4 x 4 blocks, so that the resize leaves them whole.
    size, rows = (16, 16), slice(0, 16)
    truth = rectangles((2, rows, slice(0, 8)), size=size)
    truths = [sample("even", truth, position=0), sample("odd", truth, position=1)]
    records: list[Record | Missing] = []
    for key, (low, high) in (("even", (0.5, 0.7)), ("odd", (0.1, 0.3))):
        maps = np.full((1, 16, 16), low, np.float16)
        maps[:, :, :8] = high
        fields: dict[str, Any] = {"key": key, "classes": np.array([2], np.int16), "size": size}
        records.append(CamRecord(**fields, maps=maps) if kind == "cam" else ScoreRecord(**fields, scores=maps))
    outcome = evaluate(prepared(tmp_path, truths, records))
    low, high = sorted((outcome.metrics["threshold_a"], outcome.metrics["threshold_b"]))
    assert 0.1 < low <= 0.3 and 0.5 < high <= 0.7
    # Even at the odd one's threshold is all foreground; odd at the even one's is all background.
    assert outcome.metrics["mean_iou"] == pytest.approx(128 / (128 + 256))
    assert outcome.metrics["best_mean_iou"] > outcome.metrics["mean_iou"]
    assert Path(outcome.artifacts["threshold_curve.val.png"]).read_bytes().startswith(b"\x89PNG")
    # Half of all background is taken, half of all foreground lost: even's all, odd's none, and the reverse.
    assert (outcome.metrics["over_activation"], outcome.metrics["under_activation"]) == (0.5, 0.5)
    # One image in each fold: every draw is the same.
    assert {outcome.metrics[f"val.mean_iou_{end}"] for end in ("low", "high")} == {outcome.metrics["mean_iou"]}
    header, *lines = Path(outcome.artifacts["threshold_curve.val.csv"]).read_text().splitlines()
    assert header == "threshold,mean_iou,over_activation,under_activation"
    table = np.array([[float(cell) for cell in line.split(",")] for line in lines])
    assert table.shape == (256, 4) and table[:, 0].tolist() == [i / 256 for i in range(256)]
    assert table[:, 1].max() == outcome.metrics["best_mean_iou"]
    assert table[64, 2:].tolist() == [0.5, 0.0], "at 0.25: even's whole background, no foreground lost"
    counts = confusions_at(Path(outcome.artifacts["threshold_counts.val.npz"]), threshold=0.25)
    assert [matrix.nonzero().tolist() for matrix in counts] == [[[0, 2], [2, 2]], [[0, 0], [2, 2]]]
    assert all(int(matrix.sum()) == 256 for matrix in counts)


@pytest.mark.parametrize(("positions", "halves"), [((0, 1), 2), ((0, 2), 1)])
def test_a_threshold_needs_images_in_both_halves(tmp_path: Path, positions: tuple[int, int], halves: int) -> None:
    truths = [
        sample(key, rectangles((2, slice(4), slice(6))), position=n) for key, n in zip("ab", positions, strict=True)
    ]
    maps = np.zeros((1, 2, 3), np.float16)
    given: dict[str, Any] = {"classes": np.array([2], np.int16), "size": (8, 12)}
    scored = prepared(tmp_path / "maps", truths, [CamRecord(key=key, maps=maps, **given) for key in "ab"])
    assert isinstance(scored.stage, Evaluate)
    reason = scored.stage.skip_reason(scored)
    assert (reason == "") == (halves == 2)
    assert halves == 2 or "all images of 'val' that are measured are in one half of it" in reason
    labels = prepared(tmp_path / "labels", truths, [SeedRecord(key=key, label=rectangles()) for key in "ab"])
    assert labels.stage.skip_reason(labels) == "", "label maps need no threshold"  # type: ignore[attr-defined]


def stochastic(tmp_path: Path, **settings: Any) -> tuple[Instance, list[Sample], list[CamRecord]]:
    """An evaluation of stochastic maps of two classes whose means and peaks disagree."""
    random, size = np.random.default_rng(4), (18, 23)
    truths = [sample(f"k{n}", random.integers(0, 4, size, dtype=np.uint8), position=n, size=size) for n in range(4)]
    records = []
    for truth in truths:
        mean = random.random((2, 5, 6)) * 0.5
        peak = np.minimum(mean + random.random(mean.shape) * 0.5, 1)
        fields: dict[str, Any] = {"key": truth.key, "classes": np.array([3, 1], np.int16), "size": size}
        records.append(CamRecord(**fields, maps=mean.astype(np.float16), peak=peak.astype(np.float16)))
    instance = prepared(tmp_path, truths, list(records), **settings)
    cams = replace(instance.inputs["records"], stage=MakeCams(method="stochastic", splits=("train", "val")))
    return replace(instance, inputs={**instance.inputs, "records": cams}), truths, records


def test_theta_is_measured_as_by_seeds_of_every_theta(tmp_path: Path) -> None:
    instance, truths, records = stochastic(tmp_path, rule="ficklenet")
    instance.stage.check(instance)
    outcome = evaluate(instance)
    path = Path(outcome.artifacts["threshold_counts.val.npz"])
    for theta in (1 / 256, 0.25, 0.3515625, 0.5, 0.75):
        seeds = MakeSeeds(rule="ficklenet", foreground_threshold=theta, background_threshold=theta / 2)
        wanted = [torch.zeros(6, 6, dtype=torch.int64) for _ in range(2)]
        for truth, record in zip(truths, records, strict=True):
            label = torch.from_numpy(seeds._label(truth, record)[0]).long()
            assert truth.mask is not None
            label[label == 255] = 0
            wanted[truth.position % 2] += confusion_matrix(
                torch.from_numpy(truth.mask), label, num_classes=6, ignore_index=255
            )
        for found, matrix in zip(confusions_at(path, threshold=theta), wanted, strict=True):
            assert torch.equal(found, matrix)
    by_scores = evaluate(stochastic(tmp_path / "scores")[0])
    assert by_scores.metrics["best_mean_iou"] != outcome.metrics["best_mean_iou"]
    header, *lines = Path(outcome.artifacts["threshold_curve.val.csv"]).read_text().splitlines()
    curve = [float(line.split(",")[1]) for line in lines]
    assert header.startswith("threshold,mean_iou") and max(curve) == outcome.metrics["best_mean_iou"]
    assert outcome.metrics["mean_iou_low"] <= outcome.metrics["mean_iou"] <= outcome.metrics["mean_iou_high"]


def test_theta_needs_the_maximum_of_stochastic_maps(tmp_path: Path) -> None:
    instance, *_ = stochastic(tmp_path, rule="ficklenet")
    plain = replace(instance.inputs["records"], stage=MakeCams(splits=("train", "val")))
    with pytest.raises(ValueError, match=r"evaluate.rule = 'ficklenet' reads the maximum .* make_cams does not store"):
        instance.stage.check(replace(instance, inputs={**instance.inputs, "records": plain}))


def test_the_order_of_shards_changes_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    masks = [random.integers(0, 4, (8, 12)).astype(np.uint8) for _ in range(6)]
    truths = [sample(f"k{n}", mask, position=n) for n, mask in enumerate(masks)]
    records: list[Record | Missing] = [
        Prediction(key=f"k{n}", mask=np.where(mask == 3, 0, mask), confidence=np.zeros((2, 3), np.uint8))
        for n, mask in enumerate(masks)
    ]
    instance = prepared(tmp_path, truths, records)
    stage = instance.stage
    assert isinstance(stage, Evaluate)
    count = stage.counter(instance)
    parts = [count(shard) for shard in stage.shards(instance)]
    total = parts[0] + parts[1]
    for array in (*total.sums.values(), *total.rows.values()):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False  # as Ray delivers the counts of a split with one shard
    found = [stage.finish(instance, counts).metrics for counts in (total, parts[1] + parts[0])]
    assert found[0] == found[1]
    assert found[0]["mean_iou_low"] < found[0]["mean_iou_high"]


def test_labels_and_counts_agree_where_scores_lie_on_thresholds_and_on_each_other(tmp_path: Path) -> None:
    """The grid is as large as the image, so that the scores stay what they are: ties, and neighbours of ties."""
    random, size = np.random.default_rng(2), (16, 20)
    tied = (random.integers(60, 69, (2, *size)) / 256).astype(np.float16)
    scores = np.where(random.random((2, *size)) < 0.3, np.nextafter(tied, np.float16(1)), tied)
    scores = np.where(random.random((2, *size)) < 0.3, np.nextafter(tied, np.float16(0)), scores)
    truths = [
        sample(key, random.integers(0, 4, size).astype(np.uint8), position=place) for place, key in enumerate("ab")
    ]
    fields: dict[str, Any] = {"classes": np.array([3, 1], np.int16), "size": size}
    records = [
        ScoreRecord(key=truth.key, scores=scores[:, ::flip].copy(), **fields)
        for truth, flip in zip(truths, (1, -1), strict=True)
    ]
    outcome = evaluate(prepared(tmp_path, truths, list(records)))
    for i in range(58, 71):
        stage = MakePseudoLabels(background_threshold=i / 256, refine="none")
        counted = confusions_at(Path(outcome.artifacts["threshold_counts.val.npz"]), threshold=i / 256)
        for truth, record, matrix in zip(truths, records, counted, strict=True):
            assert truth.mask is not None
            label = torch.from_numpy(stage.pseudo_label(truth, record).mask)
            made = confusion_matrix(torch.from_numpy(truth.mask), label, num_classes=6, ignore_index=255)
            assert torch.equal(matrix, made), f"at {i}/256"


def test_split_without_masks(tmp_path: Path) -> None:
    truths = [sample("a", None), sample("b", None)]
    records: list[Record | Missing] = [SeedRecord(key=key, label=rectangles()) for key in "ab"]
    instance = prepared(tmp_path, truths, records)
    reason = "no image of split 'val' has a mask, so nothing can be measured"
    assert instance.stage.skip_reason(instance) == reason
    outcome = evaluate(instance)  # where it is run all the same it measures nothing, and fails nothing
    assert outcome.metrics == {
        "labels_given": 1.0, "val.images": 0.0, "val.missing": 1.0, "val.left_out": 0.0, "val.unmasked": 2.0,
        "val.unknown": 0.0,
    }  # fmt: skip
    assert outcome.tables == outcome.artifacts == {}


def test_one_mask_is_enough_to_measure(tmp_path: Path) -> None:
    truths = [sample("a", None), sample("b", rectangles((1, slice(4), slice(6))))]
    records: list[Record | Missing] = [SeedRecord(key=key, label=rectangles()) for key in "ab"]
    instance = prepared(tmp_path, truths, records, splits=("val",))
    assert instance.stage.skip_reason(instance) == ""
    assert evaluate(instance).metrics["val.images"] == 1
    both = replace(instance, stage=Evaluate(splits=("train", "val")))
    assert both.stage.skip_reason(both) == "", "one of the splits can be measured"
    other = replace(instance, stage=Evaluate(splits=("train",)))
    assert "split 'train' has a mask" in other.stage.skip_reason(other)
