from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.records import CamRecord, Missing, SeedRecord
from tests.shards.sources.voc_folder import make_voc
from tests.wsss.layers import instance_of, records_of, sample, samples_of
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.ops.seeds import exponent_seeds
from wsss.stages.build_shards import BuildShards
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_seeds import MakeSeeds

SIZE = (16, 16)


def prepared(path: Path, cams: list[CamRecord], *, method: str = "cam", **settings: Any) -> Instance:
    samples = samples_of(path, {"train-000000": [sample(cam.key, None, size=SIZE) for cam in cams]})
    made = records_of(MakeCams(method=method), path, samples, {"train-000000": cams})
    return instance_of(MakeSeeds(splits=("train",), **settings), path, samples=samples, cams=made)


def seeds_of(instance: Instance) -> list[np.ndarray]:
    assert isinstance(instance.stage, MakeSeeds)
    instance.stage.check(instance)
    made = list(instance.stage.worker(instance)("train-000000"))
    assert all(isinstance(record, SeedRecord) for record in made)
    return [record.label for record in made]  # type: ignore[union-attr]


def cam(maps: np.ndarray, classes: list[int], *, peak: np.ndarray | None = None) -> CamRecord:
    peak16 = None if peak is None else peak.astype(np.float16)
    classes16 = np.array(classes, np.int16)
    return CamRecord(key="a", classes=classes16, maps=maps.astype(np.float16), peak=peak16, size=SIZE)


def blocks(*values: float) -> np.ndarray:
    """One map of the stride-4 grid's size at stride 1, so that nothing is interpolated: columns of equal values."""
    return np.repeat(np.array(values), 16 // len(values))[None].repeat(16, axis=0)[None]


def columns(label: np.ndarray, count: int) -> list[int]:
    assert (label == label[0]).all()
    return label[0, :: 16 // count].tolist()


@pytest.mark.parametrize(("foreground", "background"), [(0.3, 0.3), (0.2, 0.5)])
def test_foreground_must_stand_above_background(tmp_path: Path, foreground: float, background: float) -> None:
    thresholds = {"foreground_threshold": foreground, "background_threshold": background}
    instance = prepared(tmp_path, [cam(blocks(0.5), [3])], **thresholds)
    with pytest.raises(ValueError, match=rf"make_seeds.foreground_threshold = {foreground} must be above"):
        instance.stage.check(instance)


def test_two_thresholds_by_hand(tmp_path: Path) -> None:
    maps = np.concatenate([blocks(0.01, 0.1, 0.4, 0.4), blocks(0.0, 0.0, 0.0, 0.9)])
    instance = prepared(tmp_path, [cam(maps, [2, 5])], refine="none")
    assert columns(seeds_of(instance)[0], 4) == [0, 255, 2, 5]


def test_exponents_by_hand(tmp_path: Path) -> None:
    """At .05, .2, .5: (1 - m)^2 = .90, .64, .25 and (1 - m)^20 = .36, .012, 1e-6."""
    instance = prepared(
        tmp_path,
        [cam(blocks(0.05, 0.2, 0.5, 0.5), [6])],
        rule="exponents",
        refine="none",
        foreground_exponent=2,
        background_exponent=20,
    )
    assert columns(seeds_of(instance)[0], 4) == [0, 255, 6, 6]
    wrong = prepared(tmp_path / "b", [cam(blocks(0.5), [3])], rule="exponents", foreground_exponent=40)
    with pytest.raises(ValueError, match=r"foreground_exponent = 40.0 must be below make_seeds.backgr.* = 32"):
        wrong.stage.check(wrong)
    refined = prepared(tmp_path / "c", [cam(blocks(0.05, 0.2, 0.5, 0.5), [6])], rule="exponents", crf_iterations=2)
    assert set(np.unique(seeds_of(refined)[0]).tolist()) <= {0, 6, 255}


@pytest.mark.parametrize("refine", ["none", "crf"])
def test_scores_are_kept_as_they_were_compared(tmp_path: Path, refine: str) -> None:
    settings = {"rule": "exponents", "refine": refine, "crf_iterations": 2}
    maps = np.concatenate([blocks(0.05, 0.2, 0.5, 0.5), blocks(0.0, 0.1, 0.0, 0.9)])
    without = seeds_of(prepared(tmp_path / "a", [cam(maps, [6, 9])], **settings))
    instance = prepared(tmp_path / "b", [cam(maps, [6, 9])], **settings, keep_scores=True)
    assert isinstance(instance.stage, MakeSeeds)
    assert instance.stage.optional_fields(instance) == {"scores"}
    (record,) = instance.stage.worker(instance)("train-000000")
    assert isinstance(record, SeedRecord) and record.scores is not None and record.classes is not None
    assert record.classes.tolist() == [6, 9]
    assert (record.scores.shape, record.scores.dtype) == ((2, 3, *SIZE), np.float16)
    assert np.array_equal(record.label, without[0])
    much, little = torch.from_numpy(record.scores).float()
    assert np.array_equal(exponent_seeds(much, little_LHW=little, classes=[6, 9]).numpy(), record.label)
    if refine == "none":
        assert record.scores[:, 1:] == pytest.approx(np.stack([maps, maps]), abs=1e-3)


@pytest.mark.parametrize("settings", [{"rule": "two_thresholds"}, {"rule": "exponents"}])
def test_scores_are_kept_only_where_asked_for(tmp_path: Path, settings: dict[str, Any]) -> None:
    kept = {} if settings["rule"] == "exponents" else {"keep_scores": True}
    instance = prepared(tmp_path, [cam(blocks(0.5), [3])], refine="none", **settings, **kept)
    assert isinstance(instance.stage, MakeSeeds) and instance.stage.optional_fields(instance) == frozenset()
    (record,) = instance.stage.worker(instance)("train-000000")
    assert isinstance(record, SeedRecord) and record.scores is None and record.classes is None
    no_class = prepared(tmp_path / "b", [cam(blocks(0.5)[:0], [])], rule="exponents", keep_scores=True)
    (record,) = no_class.stage.worker(no_class)("train-000000")  # type: ignore[attr-defined]
    assert record.scores is None and not record.label.any()


def test_any_stochastic_map_above_the_threshold_is_foreground(tmp_path: Path) -> None:
    """On the stride-4 grid, where the maximum is exact; pixels take the label of their cell."""
    mean, peak = (np.array(row)[None, None].repeat(4, axis=1) for row in ((0.0, 0.1, 0.1, 0.3), (0.01, 0.2, 0.4, 0.8)))
    instance = prepared(tmp_path, [cam(mean, [4], peak=peak)], method="stochastic", rule="ficklenet")
    assert columns(seeds_of(instance)[0], 4) == [0, 255, 4, 4]


def test_ficklenet_needs_stochastic_maps(tmp_path: Path) -> None:
    instance = prepared(tmp_path, [cam(blocks(0.5), [3])], rule="ficklenet")
    with pytest.raises(
        ValueError, match=r"rule = 'ficklenet' needs the maximum of stochastic maps, which make_cams does not store"
    ):
        instance.stage.check(instance)


@pytest.mark.parametrize("rule", ["two_thresholds", "ficklenet"])
def test_image_without_classes_is_all_background(tmp_path: Path, rule: str) -> None:
    empty = np.zeros((0, 4, 4))
    method = "stochastic" if rule == "ficklenet" else "cam"
    instance = prepared(tmp_path, [cam(empty, [], peak=empty)], method=method, rule=rule)
    np.testing.assert_array_equal(seeds_of(instance)[0], np.zeros(SIZE, np.uint8))


def test_dense_crf_snaps_seeds_to_the_image(tmp_path: Path) -> None:
    maps = blocks(0.0, 0.0, 0.6, 0.6)
    maps[0, 7, 3] = 0.6
    raw, refined = (
        seeds_of(prepared(tmp_path / refine, [cam(maps, [1])], refine=refine))[0] for refine in ("none", "crf")
    )
    assert raw[7, 3] == 1 and refined[7, 3] != 1, "a lone pixel in a flat image is no seed"


def test_a_shard_without_a_pair_is_reported_with_the_histogram(tmp_path: Path) -> None:
    thresholds = {"foreground_threshold": 0.95, "background_threshold": 0.05, "refine": "none"}
    instance = prepared(tmp_path, [cam(blocks(0.1, 0.4, 0.4, 0.9), [3])], **thresholds)
    with pytest.raises(
        ValueError,
        match=r"train-000000: make_seeds.foreground_threshold = 0.95 and make_seeds.background_threshold = 0.05 leave "
        r"no pair of confident pixels in any of its 1 images.* 0.1: 25 %|0.1 to 0.2: 25 %, .*0.4 to 0.5: 50 %, .*"
        r"0.9 to 1.0: 25 %",
    ):
        seeds_of(instance)


def test_a_shard_with_one_seeded_image_is_kept(tmp_path: Path) -> None:
    doubtful = replace(cam(blocks(0.4), [3]), key="b")
    instance = prepared(tmp_path, [doubtful, cam(blocks(0.4, 0.99), [3])], foreground_threshold=0.95, refine="none")
    labels = seeds_of(instance)
    assert set(np.unique(labels[0])) == {255} and 3 in labels[1]


@pytest.mark.parametrize("settings", [{"refine": "none"}, {"rule": "exponents", "refine": "none"}])
def test_an_image_with_unknown_classes_has_no_background(tmp_path: Path, settings: dict[str, Any]) -> None:
    maps = blocks(0.0, 0.99)
    (known,) = seeds_of(prepared(tmp_path / "known", [cam(maps, [3])], **settings))
    (label,) = seeds_of(prepared(tmp_path / "unknown", [replace(cam(maps, [3]), unknown=(1, 5))], **settings))
    assert set(np.unique(known)) == {0, 3}
    np.testing.assert_array_equal(label, np.where(known == 0, 255, known))


def test_a_shard_of_undecided_images_is_kept(tmp_path: Path) -> None:
    (label,) = seeds_of(prepared(tmp_path, [replace(cam(np.zeros((0, 16, 16)), []), unknown=(1, 2, 3, 4, 5))]))
    assert (label == 255).all()


def test_images_that_the_classifier_doubts_are_left_out(tmp_path: Path) -> None:
    sure, unsure = (np.array([p], np.float16) for p in (0.8, 0.7))
    cams = [
        replace(cam(blocks(0.01, 0.9), [3]), key=key, probabilities=seen) for key, seen in (("a", sure), ("b", unsure))
    ]
    instance = prepared(tmp_path, cams, min_probability=0.75, refine="none")
    assert isinstance(instance.stage, MakeSeeds)
    kept, left_out = instance.stage.worker(instance)("train-000000")
    assert isinstance(kept, SeedRecord) and kept.key == "a"
    assert isinstance(left_out, Missing) and left_out.left_out and "0.70" in left_out.reason
    without = prepared(tmp_path / "without", [cam(blocks(0.01, 0.9), [3])], min_probability=0.75)
    with pytest.raises(ValueError, match="have no probabilities; run make_cams again, or set min_probability = 0"):
        seeds_of(without)


def salient(path: Path, cams: list[CamRecord], maps: list[np.ndarray | None], **settings: Any) -> Instance:
    """Seeds over samples with saliency maps, None where a sample has none."""
    drawn = [replace(sample(cam.key, None, size=SIZE), saliency=each) for cam, each in zip(cams, maps, strict=True)]
    samples = samples_of(path, {"train-000000": drawn})
    root = make_voc(path / "voc")
    (root / "drfi").mkdir()
    lists = {split: str(root / "lists" / f"{split}.txt") for split in ("train", "val")}
    samples = replace(samples, stage=BuildShards(source="voc", root=str(root), lists=lists, saliency="drfi"))
    method = "stochastic" if settings.get("rule") == "ficklenet" else "cam"
    made = records_of(MakeCams(method=method), path, samples, {"train-000000": cams})
    stage = MakeSeeds(splits=("train",), background="saliency", **settings)
    return instance_of(stage, path, samples=samples, cams=made)


def shades(*values: int) -> np.ndarray:
    return np.repeat(np.array(values, np.uint8), 16 // len(values))[None].repeat(16, axis=0)


RULES: dict[str, dict[str, Any]] = {
    "two_thresholds": {"refine": "none", "foreground_threshold": 0.2},
    "exponents": {"refine": "none", "foreground_exponent": 4.0},
    "ficklenet": {"foreground_threshold": 0.2},
}


@pytest.mark.parametrize("rule", list(RULES))
def test_background_from_saliency(tmp_path: Path, rule: str) -> None:
    """15 / 255 is below 0.06, 16 / 255 is not; a foreground seed stays one, however little salient it is."""
    maps = blocks(0.9, 0.01, 0.01, 0.9, 0.01, 0.01, 0.01, 0.01)[:, ::4, ::2]
    maps = maps.repeat(2, axis=2) if rule == "ficklenet" else maps.repeat(4, axis=1).repeat(2, axis=2)
    known = cam(maps[:, :, :8] if rule == "ficklenet" else maps, [4], peak=maps[:, :, :8])
    saliency = shades(0, 15, 16, 200, 0, 255, 14, 17)
    instance = salient(tmp_path, [known], [saliency], rule=rule, **RULES[rule])
    label = seeds_of(instance)[0]
    foreground = label == 4
    assert 0 < foreground.sum() < label.size
    np.testing.assert_array_equal(label[~foreground], np.where(saliency < 15.3, 0, 255)[~foreground])
    without = MakeSeeds(splits=("train",), rule=rule, **RULES[rule])  # type: ignore[arg-type]
    by_maps = seeds_of(replace(instance, stage=without, path=tmp_path / "maps"))[0]
    np.testing.assert_array_equal(by_maps == 4, foreground)


def test_an_image_without_a_saliency_map_is_a_bad_sample_and_one_without_a_class_background(tmp_path: Path) -> None:
    seen = cam(blocks(0.9, 0.01, 0.9, 0.9), [4])
    cams = [seen, replace(seen, key="b"), replace(cam(np.zeros((0, 16, 16)), []), key="c")]
    instance = salient(tmp_path, cams, [None, shades(0, 0), shades(255, 255)], refine="none")
    assert isinstance(instance.stage, MakeSeeds)
    bad, good, empty = instance.stage.worker(instance)("train-000000")
    assert isinstance(bad, Missing) and not bad.left_out
    assert bad.reason == "it has no saliency map, which background = 'saliency' reads"
    assert isinstance(good, SeedRecord) and set(np.unique(good.label).tolist()) == {0, 4}
    assert isinstance(empty, SeedRecord) and not empty.label.any()


@pytest.mark.parametrize(
    "data", [BuildShards(source="voc"), BuildShards(source="toy", counts={"train": 1, "val": 1})], ids=["voc", "toy"]
)
def test_samples_that_cannot_have_saliency_are_refused(tmp_path: Path, data: BuildShards) -> None:
    message = "build_shards has none; set build_shards.saliency to their folder"
    instance = salient(tmp_path, [cam(blocks(0.9), [4])], [shades(0)])
    samples = replace(instance.inputs["samples"], stage=data)
    with pytest.raises(ValueError, match=f"make_seeds.background = 'saliency' reads .* and {message}"):
        instance.stage.check(replace(instance, inputs={**instance.inputs, "samples": samples}))


def test_a_threshold_of_the_background_is_not_asked_for_beside_saliency(tmp_path: Path) -> None:
    """Also not compared with the foreground's."""
    instance = salient(
        tmp_path, [cam(blocks(0.5), [3])], [shades(255)], foreground_threshold=0.9, background_threshold=0.95
    )
    with pytest.raises(ValueError, match=r"foreground_threshold = 0.9 and make_seeds.saliency_threshold = 0.06 leave"):
        seeds_of(instance)


def test_settings_of_saliency_enter_a_fingerprint_with_it_alone() -> None:
    for rule, unread in (("two_thresholds", "background_threshold"), ("exponents", "background_exponent")):
        maps, by_saliency = (hashed_values(MakeSeeds(rule=rule, background=b)) for b in ("maps", "saliency"))  # type: ignore[arg-type]
        assert set(by_saliency) - set(maps) == {"background", "saliency_threshold"}
        assert set(maps) - set(by_saliency) == {unread}


@pytest.mark.parametrize("theta", [-0.1, 0.0, 1.0, 1.5])
def test_a_theta_outside_the_range_of_the_maps_is_refused(theta: float) -> None:
    bound = "greater than 0" if theta <= 0 else "less than 1"
    with pytest.raises(ValueError, match=rf"foreground_threshold\n.*{bound}"):
        MakeSeeds(rule="ficklenet", foreground_threshold=theta)
