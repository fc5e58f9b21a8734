"""What stages make and measure with 300 classes is what they make and measure with 5, under other class ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shards.records import (
    CamRecord,
    InstanceLabel,
    Prediction,
    PseudoLabel,
    Record,
    Sample,
    ScoreRecord,
    SeedRecord,
    grid_size,
)
from shards.taxonomy import Taxonomy
from tests.wsss.layers import instance_of, records_of, sample, samples_of
from wsss.contract.counts import Counts
from wsss.contract.fit import Draw
from wsss.contract.stage import Instance, Map, Outcome
from wsss.stages.evaluate import Evaluate
from wsss.stages.evaluation.counts import confusions_at
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_instance_labels import MakeInstanceLabels
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.make_scores import MakeScores
from wsss.stages.make_seeds import MakeSeeds
from wsss.stages.objectives.cross_entropy import CrossEntropy
from wsss.stages.predict import Predict
from wsss.stages.submit import Submit
from wsss.stages.train_segmenter import TrainSegmenter
from wsss.tasks.segmentation import SegmentationTask

IDS = np.array([0, 3, 254, 255, 256, 300])
"""Class id among five classes -> among 300; the order is the same."""
WIDE, SIZE, NUM_IMAGES = 65_535, (29, 37), 7
DEPENDS_ON_THE_NUMBER = {"mean_iou_all_classes", "absent_classes", "imagenet_s.mean_iou", "imagenet_s.boundary_iou"}
STAGES: dict[str, type[Map]] = {
    stage.record_kind: stage
    for stage in (MakeCams, MakeScores, MakeSeeds, MakePseudoLabels, MakeInstanceLabels, Predict)
}


class Of300Classes(Instance):
    """An instance of a data set of 300 classes."""

    @property
    def taxonomy(self) -> Taxonomy:
        return Taxonomy(tuple(f"class {number}" for number in range(1, 301)))


def wide(instance: Instance) -> Instance:
    values = {field.name: getattr(instance, field.name) for field in fields(instance) if field.init}
    return Of300Classes(**values)


def wide_labels(label: np.ndarray) -> np.ndarray:
    """u8 of five classes and 255, to u16 of 300 and 65,535."""
    table = np.append(np.pad(IDS, (0, 249)), WIDE).astype(np.uint16)
    return table[label]


def wide_record(record: Record) -> Record:
    """The same record under the class ids of 300 classes."""
    changes: dict[str, Any] = {}
    for name in ("mask", "label"):
        if isinstance(found := vars(record).get(name), np.ndarray):
            changes[name] = wide_labels(found)
    if isinstance(record, Sample):
        changes["classes"] = tuple(int(IDS[c]) for c in record.classes)
    elif isinstance(found := vars(record).get("classes"), np.ndarray):
        changes["classes"] = IDS[found].astype(np.int16)
    if isinstance(record, Prediction):
        changes["ablation"] = {name: wide_labels(label) for name, label in record.ablation.items()}
    return replace(record, **changes)


def blobs(seed: int, *, ignored: bool) -> np.ndarray:
    random = np.random.default_rng(seed)
    mask = np.zeros(SIZE, np.uint8)
    for class_id in random.permutation(5)[:3] + 1:
        top, left = random.integers(0, 18, 2)
        mask[top : top + random.integers(4, 16), left : left + random.integers(4, 16)] = class_id
    if ignored:
        mask[random.random(SIZE) < 0.1] = 255
    return mask


def record_of(kind: str, number: int) -> Record:
    random, key, grid = np.random.default_rng(100 + number), f"k{number}", grid_size(SIZE)
    classes = np.sort(random.permutation(5)[: number % 4] + 1).astype(np.int16)
    maps = random.random((len(classes), *grid)).astype(np.float16)
    confidence, mask = np.full(grid, 99, np.uint8), blobs(50 + number, ignored=False)
    if kind == CamRecord.kind:
        return CamRecord(key=key, classes=classes, maps=maps, peak=np.sqrt(maps), size=SIZE)
    if kind == ScoreRecord.kind:
        return ScoreRecord(key=key, classes=classes, scores=maps, size=SIZE)
    if kind == SeedRecord.kind:
        return SeedRecord(key=key, label=blobs(50 + number, ignored=True))
    if kind == InstanceLabel.kind:
        three = np.array([5, 2, 5], np.int16)
        instances = np.minimum(mask, 3).astype(np.uint16)
        return InstanceLabel(key=key, instances=instances, classes=three, scores=np.ones(3, np.float16))
    if kind == Prediction.kind:
        return Prediction(key=key, mask=mask, confidence=confidence, ablation={"none": mask[::-1]})
    return PseudoLabel(key=key, mask=mask, confidence=confidence)


def measured(path: Path, kind: str, *, many: bool, **settings: Any) -> tuple[Outcome, Counts]:
    """The outcome of an `evaluate` of one layer, over two shards."""
    truths: list[Any] = [sample(f"k{n}", blobs(n, ignored=True), position=n) for n in range(NUM_IMAGES)]
    records: list[Any] = [record_of(kind, n) for n in range(NUM_IMAGES)]
    if many:
        truths, records = [wide_record(one) for one in truths], [wide_record(one) for one in records]
    shards = {"val-000000": slice(0, 3), "val-000001": slice(3, None)}
    samples = samples_of(path, {shard: truths[part] for shard, part in shards.items()})
    options = {"splits": ("val",)} | ({"ablation": ("none",)} if kind == Prediction.kind else {})
    options |= {"method": "stochastic"} if kind == CamRecord.kind else {}
    made = records_of(STAGES[kind](**options), path, samples, {shard: records[part] for shard, part in shards.items()})
    instance = instance_of(Evaluate(**settings), path, samples=samples, records=made)
    if many:
        inputs = {name: wide(one) for name, one in instance.inputs.items()}
        instance = wide(replace(instance, inputs=inputs))
    stage = instance.stage
    assert isinstance(stage, Evaluate)
    counts = [stage.counter(instance)(shard) for shard in shards]
    return stage.finish(instance, counts[0] + counts[1]), counts[0] + counts[1]


def renamed(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Rows of a table per class, without the classes that nothing holds, numbered as the five."""
    return [
        {name: value for name, value in row.items() if name not in ("class", "class_id")}
        for row in rows
        if row["class_id"] in IDS.tolist()
    ]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (CamRecord.kind, {}),
        (CamRecord.kind, {"rule": "ficklenet"}),
        (ScoreRecord.kind, {}),
        (SeedRecord.kind, {}),
        (PseudoLabel.kind, {"boundary_width": 0.05}),
        (InstanceLabel.kind, {}),
        (Prediction.kind, {"protocol": "imagenet_s"}),
    ],
)
def test_measurements_are_those_of_few_classes(tmp_path: Path, kind: str, settings: Mapping[str, Any]) -> None:
    few, _ = measured(tmp_path / "few", kind, many=False, **settings)
    many, counts = measured(tmp_path / "many", kind, many=True, **settings)
    assert many.metrics.keys() == few.metrics.keys()
    for name, value in few.metrics.items():
        if name.removeprefix("val.") not in DEPENDS_ON_THE_NUMBER:
            assert many.metrics[name] == pytest.approx(value, rel=1e-12, nan_ok=True), name
    if kind == SeedRecord.kind:
        return
    assert renamed(many.tables["per_class"]) == [
        {name: value for name, value in row.items() if name not in ("class", "class_id")}
        for row in few.tables["per_class"][:6]
    ]
    assert few.metrics["mean_iou"] > 0.01
    if kind not in (CamRecord.kind, ScoreRecord.kind):
        return
    assert not [name for name in counts.sums if "fold" in name], "no array by all classes and bins"
    for threshold in (0.25, 0.75):
        matrices = [
            confusions_at(Path(outcome.artifacts["threshold_counts.val.npz"]), threshold=threshold)
            for outcome in (few, many)
        ]
        for small, large in zip(*matrices, strict=True):
            assert torch.equal(large[IDS][:, IDS], small[:6, :6]) and int(large.sum()) == int(small.sum())


@pytest.mark.parametrize("kind", [Prediction.kind, SeedRecord.kind, ScoreRecord.kind])
def test_label_maps_of_the_other_type_are_refused(tmp_path: Path, kind: str) -> None:
    truth, record = sample("k1", blobs(1, ignored=True), position=1), record_of(kind, 1)
    one = wide_record(record) if kind == ScoreRecord.kind else record
    samples = samples_of(tmp_path, {"val-000000": [truth if kind == ScoreRecord.kind else wide_record(truth)]})
    made = records_of(STAGES[kind](splits=("val",)), tmp_path, samples, {"val-000000": [one]})
    inputs = {"samples": wide(samples), "records": wide(replace(made, inputs={"samples": wide(samples)}))}
    instance = wide(replace(instance_of(Evaluate(), tmp_path), inputs=inputs))
    message = r"the label map of 'k1' has 8 bits \(uint8\), but label maps of 300 classes have 16"
    with pytest.raises(ValueError, match=message):
        cast(Evaluate, instance.stage).counter(instance)("val-000000")


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "two_thresholds", "refine": "none"},
        {"rule": "two_thresholds", "refine": "crf", "crf_iterations": 1},
        {"rule": "exponents", "refine": "none"},
        {"rule": "ficklenet"},
    ],
)
def test_seeds(tmp_path: Path, settings: dict[str, Any]) -> None:
    labels = []
    for many in (False, True):
        path = tmp_path / str(many)
        truths: list[Any] = [sample(f"k{n}", blobs(n, ignored=True), position=n) for n in range(4)]
        cams: list[Any] = [record_of(CamRecord.kind, n) for n in range(4)]
        cams[2] = replace(cams[2], unknown=(1,))
        if many:
            truths, cams = [wide_record(one) for one in truths], [wide_record(one) for one in cams]
        samples = samples_of(path, {"train-000000": truths})
        made = records_of(MakeCams(method="stochastic"), path, samples, {"train-000000": cams})
        inputs = {"samples": samples, "cams": made}
        stage = MakeSeeds(splits=("train",), **settings)
        instance = instance_of(stage, path, **inputs)
        if many:
            wider = {"samples": wide(samples), "cams": wide(replace(made, inputs={"samples": wide(samples)}))}
            instance = wide(replace(instance, inputs=wider))
        labels.append([cast(SeedRecord, one).label for one in stage.worker(instance)("train-000000")])
    assert {label.dtype for label in labels[1]} == {np.dtype(np.uint16)}
    for small, large in zip(*labels, strict=True):
        np.testing.assert_array_equal(large, wide_labels(small))
    found = set(np.unique(np.concatenate(labels[1])).tolist())
    assert {255, 300} <= found and (WIDE in found or settings.get("refine") == "crf")


@pytest.mark.parametrize("settings", [{"refine": "none"}, {"refine": "crf", "crf_iterations": 1}])
def test_pseudo_labels(tmp_path: Path, settings: dict[str, Any]) -> None:
    masks = []
    for many in (False, True):
        path = tmp_path / str(many)
        truths: list[Any] = [sample(f"k{n}", blobs(n, ignored=True), position=n) for n in range(4)]
        scores: list[Any] = [record_of(ScoreRecord.kind, n) for n in range(4)]
        scores[3] = replace(scores[3], unknown=(1,))
        if many:
            truths, scores = [wide_record(one) for one in truths], [wide_record(one) for one in scores]
        samples = samples_of(path, {"train-000000": truths})
        made = records_of(MakeScores(), path, samples, {"train-000000": scores})
        stage = MakePseudoLabels(background_threshold=0.6, **settings)
        instance = instance_of(stage, path, samples=samples, scores=made)
        if many:
            wider = {"samples": wide(samples), "scores": wide(replace(made, inputs={"samples": wide(samples)}))}
            instance = wide(replace(instance, inputs=wider))
        masks.append([cast(PseudoLabel, one).mask for one in stage.worker(instance)("train-000000")])
    for small, large in zip(*masks, strict=True):
        assert large.dtype == np.uint16
        np.testing.assert_array_equal(large, wide_labels(small))
    assert {256, 300, WIDE} <= set(np.unique(np.concatenate(masks[1])).tolist())


@pytest.mark.parametrize("augmentation", ["weak", "strong"])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_training_examples(tmp_path: Path, augmentation: str, power: float) -> None:
    examples = []
    for many in (False, True):
        path = tmp_path / str(many)
        truths: list[Any] = [sample(f"k{n}", blobs(n, ignored=True), position=n) for n in range(3)]
        labels: list[Any] = [record_of(PseudoLabel.kind, n) for n in range(3)]
        if many:
            truths, labels = [wide_record(one) for one in truths], [wide_record(one) for one in labels]
        samples = samples_of(path, {"train-000000": truths})
        made = records_of(MakePseudoLabels(), path, samples, {"train-000000": labels})
        stage = TrainSegmenter(crop_size=48, resize_long=(32, 64), augmentation=augmentation, confidence_power=power)  # type: ignore[arg-type]
        instance = instance_of(stage, path, samples=samples, pseudo_labels=made)
        if many:
            wider = {"samples": wide(samples), "pseudo_labels": wide(replace(made, inputs={"samples": wide(samples)}))}
            instance = wide(replace(instance, inputs=wider))
        found = CrossEntropy(stage).training_set(instance)
        examples.append([found.example(Draw(n, epoch)) for n in range(3) for epoch in range(4)])
    ignored = 0
    for small, large in zip(*examples, strict=True):
        assert large["label"].dtype == torch.int64
        np.testing.assert_array_equal(large["label"].numpy(), wide_labels(small["label"].numpy().astype(np.uint8)))
        assert torch.equal(large["image"], small["image"])
        ignored += int((large["label"] == WIDE).sum())
        if power:
            inside = small["label"] != 255
            assert torch.equal(large["weight"][inside], small["weight"][inside])
    assert ignored > 0


def test_the_loss_counts_class_255_and_not_what_is_ignored() -> None:
    logits = torch.randn(2, 301, 5, 7, generator=torch.Generator().manual_seed(1))
    label = torch.full((2, 5, 7), 255)
    label[:, 3:] = WIDE
    task = SegmentationTask(lambda image: logits, synchronise_norms=True, ignore_index=WIDE)  # type: ignore[arg-type]
    batch = {"image": torch.zeros(2, 3, 5, 7), "label": label}
    wanted = -logits.log_softmax(1)[:, 255, :3].mean()
    torch.testing.assert_close(task(batch).total(), wanted)
    assert int(task.counts(batch)["cross_entropy"]) == 2 * 3 * 7


def test_predictions_and_their_submission(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"encoder": "test_efficientnet", "pretrained": "none", "decoder_channels": 8}
    truth = cast(Sample, wide_record(sample("n01/k1", blobs(1, ignored=True), position=1)))
    samples = wide(samples_of(tmp_path, {"val-000000": [truth]}))
    train = wide(replace(instance_of(TrainSegmenter(**settings), tmp_path), inputs={"samples": samples}))
    stage = cast(TrainSegmenter, train.stage)
    train.path.mkdir()
    network = stage.model(train, pretrained=False)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.shape == (301,):
                parameter[255] += 1000.0 if name.endswith("bias") else 0.0
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()}, train.path / "weights.safetensors"
    )
    predict = Predict(scales=(1.0,), ablation=("none",))
    instance = wide(replace(instance_of(predict, tmp_path), inputs={"samples": samples, "segmenter": train}))
    (found,) = predict.worker(instance)("val-000000")
    assert isinstance(found, Prediction) and found.mask.dtype == found.ablation["none"].dtype == np.uint16
    assert set(np.unique(found.mask).tolist()) == {255}
    submit = Submit()
    with pytest.raises(
        ValueError, match=r"submit.format = 'lid' holds at most 254 classes, but there are 300; set subm"
    ):
        submit.check(wide(replace(instance_of(submit, tmp_path), inputs={"samples": samples, "predictions": instance})))
