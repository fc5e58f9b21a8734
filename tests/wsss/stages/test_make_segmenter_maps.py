"""make_segmenter_maps: what a segmenter says of the classes present, alone and in a mean with earlier maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shards.images import encode_png
from shards.records import CamRecord, Sample
from tests.wsss.layers import instance_of, records_of, samples_of
from wsss.contract.fit import load_trained, weights_path
from wsss.contract.stage import Instance
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_segmenter_maps import MakeSegmenterMaps, present_maps
from wsss.stages.train_classifier import TrainClassifier
from wsss.stages.train_segmenter import TrainSegmenter

SHARD = "val-000000"
SIZE, GRID = (44, 56), (11, 14)
VIEWS: dict[str, Any] = {"scales": (1.0, 0.75), "splits": ("val",)}


def cam_record(key: str, classes: tuple[int, ...]) -> CamRecord:
    scores = np.random.default_rng(1).random((len(classes), *GRID)).astype(np.float16)
    return CamRecord(key=key, classes=np.array(classes, np.int16), maps=scores, size=SIZE)


def made(
    path: Path, behind: Instance | None = None, unknown: tuple[int, ...] = (), **settings: Any
) -> tuple[dict[str, CamRecord], Any, MakeSegmenterMaps]:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    present = {"a": (2, 5), "b": (), "c": (1,)}
    given: dict[str, Any] = {"encoded": encode_png(image), "size": SIZE, "position": 0, "unknown": unknown}
    samples = [Sample(key=k, classes=c, **given) for k, c in present.items()]
    shards = samples_of(path, {SHARD: samples})
    earlier = records_of(MakeCams(), path, shards, {SHARD: [cam_record(k, c) for k, c in present.items()]})
    inputs = {"samples": shards} | ({"pseudo_labels": behind} if behind else {})
    trained = instance_of(TrainSegmenter(encoder="test_efficientnet", pretrained="none"), path, **inputs)
    trained.path.mkdir()
    torch.manual_seed(3)
    assert isinstance(trained.stage, TrainSegmenter)
    network = trained.stage.model(trained, pretrained=True)
    with torch.no_grad():  # of a random network all probabilities are near one another
        network.network.segmentation_head[0].weight.mul_(30)  # type: ignore[union-attr, index, operator]
    save_file(network.state_dict(), weights_path(trained))
    stage = MakeSegmenterMaps(**{**VIEWS, **settings})
    instance = instance_of(stage, path, samples=shards, segmenter=trained, cams=earlier)
    records = list(stage.worker(instance)(SHARD))
    with torch.inference_mode():
        network = load_trained(trained)
        probability = stage.probabilities(samples[0], network, trained.stage, size=GRID)
    assert all(isinstance(record, CamRecord) for record in records)
    return {record.key: record for record in records}, probability, stage  # type: ignore[misc]


def per_class(maps: np.ndarray) -> np.ndarray:
    divided: np.ndarray = maps / maps.max((1, 2), keepdims=True)
    return divided


def test_maps_by_their_definition(tmp_path: Path) -> None:
    records, probability, stage = made(tmp_path, weight=1.0)
    assert stage.used_slots() == ("samples", "segmenter")
    p0, p2, p5 = (probability[c].double().numpy() for c in (0, 2, 5))
    wanted = per_class(np.stack([p2 / (p0 + p2 + p5), p5 / (p0 + p2 + p5)]))
    np.testing.assert_allclose(records["a"].maps, wanted, atol=1e-3)
    p1 = probability[1].double().numpy()
    np.testing.assert_allclose(records["c"].maps, per_class((p1 / (p0 + p1))[None]), atol=1e-3)
    assert records["b"].maps.shape == (0, *GRID) and records["b"].classes.dtype == np.int16
    assert wanted.std() > 0.01


@pytest.mark.parametrize("weight", [0.3, 0.5])
def test_mean_with_earlier_maps(tmp_path: Path, weight: float) -> None:
    alone, _, _ = made(tmp_path / "alone", weight=1.0)
    mixed, _, _ = made(tmp_path / "mixed", weight=weight)
    for key, classes in (("a", (2, 5)), ("c", (1,))):
        wanted = weight * alone[key].maps.astype(float) + (1 - weight) * cam_record(key, classes).maps
        np.testing.assert_allclose(mixed[key].maps, per_class(wanted), atol=2e-3)
    assert mixed["a"].classes.tolist() == [2, 5]


def test_classes_that_no_classifier_has_learned_have_no_maps(tmp_path: Path) -> None:
    """The segmenter has seen them as background: its maps of them would be noise, divided by its own maximum."""
    whole, _, _ = made(tmp_path / "whole", weight=1.0)
    samples = samples_of(tmp_path, {})
    dropped = 2
    stage_of = TrainClassifier(dropped_classes=(samples.taxonomy.names[dropped - 1],))
    classifier = instance_of(stage_of, tmp_path, samples=samples)
    cams = instance_of(MakeCams(), tmp_path, samples=samples, classifier=classifier)
    found, _, _ = made(tmp_path / "found", weight=1.0, behind=cams)
    for key, record in whole.items():
        kept = [c for c in record.classes.tolist() if c != dropped]
        assert found[key].classes.tolist() == kept
    assert dropped in {c for record in whole.values() for c in record.classes.tolist()}


def test_maps_stay_in_range_where_no_possible_class_has_a_probability() -> None:
    probability = torch.zeros(4, 2, 3)
    probability[3], probability[0, 0] = 1.0, 1.0
    probability[3, 0] = 0.0
    maps = present_maps(probability, classes=[1, 2])
    assert maps.isfinite().all() and maps.min() >= 0 and maps.max() <= 1
    assert maps[:, 0].max() < 1e-9


def test_scales_of_a_long_side(tmp_path: Path) -> None:
    """An image of 44 x 56 with long_side = 112 at half the size is itself, and the maps stay on its own grid."""
    seen: list[tuple[int, int]] = []
    records, probability, stage = made(tmp_path, weight=1.0, long_side=112, scales=(0.5, 1.0), flip=False)
    assert records["a"].maps.shape == (2, *GRID) and probability.shape[1:] == GRID
    sample = Sample(key="a", encoded=encode_png(np.zeros((*SIZE, 3), np.uint8)), size=SIZE, classes=(2,), position=0)

    class Noting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, view: torch.Tensor) -> torch.Tensor:
            seen.append((view.shape[-2], view.shape[-1]))
            return view

    stage.probabilities(sample, Noting(), TrainSegmenter(), size=GRID)
    assert seen == [(44, 56), (88, 112)]


def classifier_without(dropped: int, path: Path) -> Instance:
    samples = samples_of(path, {})
    stage = TrainClassifier(dropped_classes=(samples.taxonomy.names[dropped - 1],))
    classifier = instance_of(stage, path, samples=samples)
    return instance_of(MakeCams(), path, samples=samples, classifier=classifier)


def test_an_unknown_class_that_is_not_learned_leaves_the_background_known(tmp_path: Path) -> None:
    """As in make_cams: with 3 dropped, an image of which only 3 is unknown has a background."""
    records, _, _ = made(tmp_path, weight=1.0, behind=classifier_without(3, tmp_path), unknown=(3,))
    assert records["a"].classes.tolist() == [2, 5] and records["a"].unknown == ()
    kept, _, _ = made(tmp_path / "kept", weight=1.0, unknown=(3,), unknown_classes="undecided")
    assert kept["a"].unknown == (3,)


def test_earlier_maps_of_classes_that_the_segmenter_has_not_learned_stay(tmp_path: Path) -> None:
    """A second classifier has made maps of class 2, but the segmenter's labels had none."""
    alone, _, _ = made(tmp_path / "alone", weight=1.0, behind=classifier_without(2, tmp_path / "one"))
    mixed, _, _ = made(tmp_path / "mixed", weight=0.5, behind=classifier_without(2, tmp_path / "other"))
    assert mixed["a"].classes.tolist() == [2, 5] and alone["a"].classes.tolist() == [5]
    earlier = cam_record("a", (2, 5)).maps.astype(float)
    wanted = per_class(np.stack([earlier[0], (earlier[1] + alone["a"].maps[0]) / 2]))
    np.testing.assert_allclose(mixed["a"].maps, wanted, atol=2e-3)


def test_only_behind_dropped_classes_the_revision_is_a_later_one(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, {})
    every = instance_of(TrainSegmenter(), tmp_path, samples=samples)
    some = instance_of(TrainSegmenter(), tmp_path, samples=samples, pseudo_labels=classifier_without(2, tmp_path / "c"))
    stage = MakeSegmenterMaps(weight=1.0)
    assert stage.revision_with({"segmenter": every}) == stage.revision
    assert stage.revision_with({"segmenter": some}) > stage.revision
