"""make_pseudo_labels: the three scores of the background, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.images import encode_png
from shards.records import CamRecord, PseudoLabel, ScoreRecord
from tests.wsss.layers import instance_of, records_of, sample, samples_of
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.data.images import magnify_scores
from wsss.ops.dense_crf import unary_from_labels, unary_from_probabilities
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.response_scaling import response_uncertainty
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_pseudo_labels import MakePseudoLabels, _confidence_of_share
from wsss.stages.make_scores import MakeScores
from wsss.stages.make_segmenter_maps import MakeSegmenterMaps

SIZE = (16, 16)
SHARD = "train-000000"


def columns(*values: float) -> np.ndarray:
    """A plane of columns at stride 1, so that nothing is interpolated."""
    return np.repeat(np.array(values), 16 // len(values))[None].repeat(16, axis=0).astype(np.float16)


def prepared(path: Path, plane: np.ndarray | None, *, exponent: float | None, **settings: Any) -> Instance:
    scores = np.stack([columns(0.1, 0.3, 0.6, 0.2), columns(0.0, 0.0, 0.0, 0.9)])
    record = ScoreRecord(key="a", classes=np.array([2, 5], np.int16), scores=scores, background=plane, size=SIZE)
    samples = samples_of(path, {SHARD: [sample("a", None, size=SIZE)]})
    made = records_of(MakeScores(background_exponent=exponent), path, samples, {SHARD: [record]})
    stage = MakePseudoLabels(splits=("train",), refine="none", **settings)
    return instance_of(stage, path, samples=samples, scores=made)


def label(instance: Instance) -> list[int]:
    assert isinstance(instance.stage, MakePseudoLabels)
    instance.stage.check(instance)
    (made,) = instance.stage.worker(instance)(SHARD)
    assert isinstance(made, PseudoLabel)
    assert (made.mask == made.mask[0]).all()
    return made.mask[0, ::4].tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"background_threshold": 0.25}, [0, 2, 2, 5]),
        ({"background_threshold": 0.5}, [0, 0, 2, 5]),
        # (1 - m) = .9, .7, .4, .1
        ({"background": "power", "background_exponent": 1.0}, [0, 0, 2, 5]),
        ({"background": "power", "background_exponent": 4.0}, [0, 2, 2, 5]),
        ({"background": "power", "background_exponent": 32.0}, [2, 2, 2, 5]),
        ({"background": "propagated"}, [2, 0, 0, 5]),
    ],
)
def test_the_background_wins_where_its_score_is_higher(
    tmp_path: Path, settings: dict[str, Any], expected: list[int]
) -> None:
    assert label(prepared(tmp_path, columns(0.05, 0.5, 0.7, 0.2), exponent=16.0, **settings)) == expected


def test_a_background_that_was_not_propagated_is_refused(tmp_path: Path) -> None:
    instance = prepared(tmp_path, None, exponent=None, background="propagated")
    with pytest.raises(ValueError, match=r"background = 'propagated' needs .* set make_scores.background_exponent"):
        instance.stage.check(instance)


def test_a_class_can_have_its_own_threshold(tmp_path: Path) -> None:
    names = prepared(tmp_path, None, exponent=None).taxonomy.names
    second, fifth = names[1], names[4]
    made = prepared(tmp_path, None, exponent=None, background_threshold=0.25, class_thresholds={second: 0.5})
    assert label(made) == [0, 0, 2, 5]
    made = prepared(tmp_path, None, exponent=None, background_threshold=0.25, class_thresholds={fifth: 0.95})
    assert label(made) == [0, 2, 2, 0]
    made = prepared(tmp_path, None, exponent=None, background_threshold=0.95, class_thresholds={second: 0.05})
    assert label(made) == [2, 2, 2, 0]


@pytest.mark.parametrize(("method", "expected"), [("otsu", [0, 0, 2, 5]), ("mixture", [0, 0, 0, 5])])
def test_an_image_can_choose_its_threshold(tmp_path: Path, method: str, expected: list[int]) -> None:
    """The highest scores are .1, .3, .6 and .9 in equal parts. Otsu's criterion is best for two groups of two; a
    mixture has the least cost where the highest score is a group of its own, whose variance is that of a bin."""
    assert label(prepared(tmp_path, None, exponent=None, image_threshold=method)) == expected
    assert label(prepared(tmp_path, None, exponent=None, background_threshold=0.05)) == [2, 2, 2, 5]


def test_thresholds_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"make_pseudo_labels.class_thresholds: unknown class 'zebra'; there are"):
        label(prepared(tmp_path, None, exponent=None, class_thresholds={"zebra": 0.5}))
    name = prepared(tmp_path, None, exponent=None).taxonomy.names[0]
    with pytest.raises(ValueError, match=r"class_thresholds and image_threshold = 'otsu' both choose"):
        label(prepared(tmp_path, None, exponent=None, class_thresholds={name: 0.5}, image_threshold="otsu"))
    with pytest.raises(ValueError, match="class_thresholds"):
        MakePseudoLabels(class_thresholds={name: 1.0})


def record_of(instance: Instance) -> PseudoLabel:
    assert isinstance(instance.stage, MakePseudoLabels)
    instance.stage.check(instance)
    (made,) = instance.stage.worker(instance)(SHARD)
    assert isinstance(made, PseudoLabel)
    return made


def scaled(path: Path, name: str, **settings: Any) -> PseudoLabel:
    """The label of noisy scores of two classes, in an image of noise."""
    generator = np.random.default_rng(5)
    image = generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    shares = generator.random((2, *SIZE)).astype(np.float16)
    record = ScoreRecord(key="a", classes=np.array([2, 5], np.int16), scores=shares, size=SIZE)
    one = replace(sample("a", None, size=SIZE), encoded=encode_png(image))
    samples = samples_of(path / name, {SHARD: [one]})
    made = records_of(MakeScores(), path / name, samples, {SHARD: [record]})
    return record_of(instance_of(MakePseudoLabels(splits=("train",), **settings), path, samples=samples, scores=made))


def test_the_confidence_by_response_scaling_by_hand(tmp_path: Path) -> None:
    """The shares of the background, class 2 and class 5 are (.71, .29, 0), (.45, .55, 0), (.29, .71, 0) and
    (.19, .15, .67). To the power 0.7 the background's share of the second column becomes .58, more than .55; no other
    decision changes. To the power 0.2, class 2 has .78 in the first column, and the background .85, .78 and .71 in the
    others; with 3 they lose."""
    plain = record_of(prepared(tmp_path / "plain", None, exponent=None))
    for scales, expected in (((0.7, 1.4), [255, 0, 255, 255]), ((0.2, 3.0), [0, 0, 0, 0])):
        made = record_of(prepared(tmp_path / str(scales[0]), None, exponent=None, response_scales=scales))
        assert (made.mask == plain.mask).all() and made.confidence.dtype == np.uint8
        assert made.confidence.tolist() == [expected] * 4


@pytest.mark.parametrize("start", ["labels", "scores"])
def test_labels_are_those_without_response_scales(tmp_path: Path, start: str) -> None:
    settings: dict[str, Any] = {"crf_start": start, "crf_iterations": 2}
    plain = scaled(tmp_path, "plain", **settings)
    made = scaled(tmp_path, "scaled", response_scales=(0.8, 1.0, 1.25), **settings)
    assert (made.mask == plain.mask).all() and len(np.unique(plain.mask)) > 1
    assert len(np.unique(made.confidence)) > 1 and (made.confidence != plain.confidence).any()


@pytest.mark.parametrize("start", ["labels", "scores"])
def test_every_scale_of_every_label_has_its_own_crf(tmp_path: Path, start: str) -> None:
    scales, stage = (0.8, 1.0, 1.25), MakePseudoLabels(crf_start=start, crf_iterations=2)  # type: ignore[arg-type]
    made = scaled(tmp_path, "scaled", crf_start=start, crf_iterations=2, response_scales=scales)
    generator = np.random.default_rng(5)
    image = generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    scores = magnify_scores(generator.random((2, *SIZE)).astype(np.float16), SIZE, device=torch.device("cpu"))
    background = torch.nextafter(torch.tensor(0.25), torch.tensor(0.0)).expand(1, *SIZE)
    planes = torch.cat([background, scores])
    shares = planes / planes.sum(0)
    uncertainty = torch.zeros(SIZE)
    for label in range(3):
        won = []
        for scale in scales:
            one = shares.clone()
            one[label] = one[label] ** scale
            energy = (
                unary_from_probabilities(one)
                if start == "scores"
                else unary_from_labels(one.argmax(0), num_labels=3, gt_prob=0.7)
            )
            won.append((stage.refine_energy(energy, image).argmax(0) == label).float())
        uncertainty = torch.maximum(uncertainty, torch.stack(won).var(0, correction=0))
    assert uncertainty.min() < 0.01 and uncertainty.max() > 0.2
    wanted = resize_bilinear((1 - uncertainty * 9 / 2)[None, None], size=made.confidence.shape)[0, 0]
    np.testing.assert_allclose(made.confidence, 255 * wanted, atol=1)


def test_an_image_without_a_class_has_no_uncertainty(tmp_path: Path) -> None:
    none = ScoreRecord(
        key="a", classes=np.zeros(0, np.int16), scores=np.zeros((0, *SIZE), np.float16), unknown=(3,), size=SIZE
    )
    samples = samples_of(tmp_path, {SHARD: [sample("a", None, size=SIZE)]})
    made = records_of(MakeScores(), tmp_path, samples, {SHARD: [none]})
    stage = MakePseudoLabels(splits=("train",), response_scales=(0.5, 2.0))
    label = record_of(instance_of(stage, tmp_path, samples=samples, scores=made))
    assert (label.mask == 255).all() and (label.confidence == 255).all()


@pytest.mark.parametrize("scales", [(2.0,), (0.5, 2.0, 2.0)])
def test_scales_that_cannot_be_compared_are_refused(tmp_path: Path, scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"make_pseudo_labels.response_scales = \[.*2.0\]: .* two or more different"):
        record_of(prepared(tmp_path, None, exponent=None, response_scales=scales))
    with pytest.raises(ValueError, match="response_scales"):
        MakePseudoLabels(response_scales=(0.0, 2.0))


URN = (0.15, 0.2, 0.25, 4.0, 5.0, 6.0)


@pytest.mark.parametrize("scales", [URN, (1.0, 2.0), (1.0, 1.1, 2.0), (1.0, 1.1, 1.2, 2.0), (0.5, 0.9, 1.1, 8.0)])
@pytest.mark.parametrize("share", [0.55, 0.6, 0.74, 0.8, 0.95])
def test_the_confidence_of_a_share_is_that_of_the_op(share: float, scales: tuple[float, ...]) -> None:
    share_L11 = torch.tensor([1 - share, share], dtype=torch.float64)[:, None, None]
    wanted = 1 - response_uncertainty(share_L11, scales=scales, decide=lambda share_SLHW: share_SLHW.argmax(1))
    assert _confidence_of_share(share, scales=scales) == pytest.approx(float(wanted))


def test_scales_that_leave_no_object_certain_are_refused(tmp_path: Path) -> None:
    """A score of 1 over a threshold of .65 is 61% of the pixel; .61 to the power 4 is .13, less than the other 39%."""
    names = prepared(tmp_path, None, exponent=None).taxonomy.names
    name = names[0]
    with pytest.raises(ValueError, match=r"threshold = 0.65: even .* 1, is then 61% .* background = 'power'"):
        record_of(prepared(tmp_path, None, exponent=None, response_scales=URN, background_threshold=0.65))
    with pytest.raises(ValueError, match=rf"class_thresholds.{name} = 0.5: even .* no pixel of {name} has any conf"):
        record_of(prepared(tmp_path, None, exponent=None, response_scales=URN, class_thresholds={name: 0.5}))
    record_of(prepared(tmp_path, None, exponent=None, response_scales=URN, background_threshold=0.35))
    own = dict.fromkeys(names, 0.2)
    unused = {"background_threshold": 0.65, "class_thresholds": own}
    record_of(prepared(tmp_path, None, exponent=None, response_scales=URN, **unused))
    certain = record_of(of_maps(tmp_path, background="power", background_exponent=1.0, response_scales=URN))
    assert certain.mask[0].tolist() == [0, 0, 0, 0, 2, 2, 2, 2] and (certain.confidence == 255).all()


def test_without_scales_the_fingerprint_is_as_before() -> None:
    assert "response_scales" not in hashed_values(MakePseudoLabels())
    assert hashed_values(MakePseudoLabels(response_scales=(0.5, 2.0)))["response_scales"] == [0.5, 2.0]


def of_maps(path: Path, **settings: Any) -> Instance:
    """Labels from maps of one 8 x 8 image whose grid is 2 x 2: 0, 1 in the first row and in the second."""
    record = CamRecord(
        key="a", classes=np.array([2], np.int16), maps=np.array([[[0, 1], [0, 1]]], np.float16), size=(8, 8)
    )
    samples = samples_of(path, {SHARD: [sample("a", None, size=(8, 8))]})
    maps = records_of(MakeSegmenterMaps(weight=1.0), path, samples, {SHARD: [record]})
    return instance_of(
        MakePseudoLabels(splits=("train",), refine="none", **settings), path, samples=samples, scores=maps
    )


@pytest.mark.parametrize(
    ("threshold", "row"),
    # Interpolated between the centres of the cells: 0, 0, 1/8, 3/8, 5/8, 7/8, 1, 1
    [(0.5, [0, 0, 0, 0, 2, 2, 2, 2]), (0.875, [0, 0, 0, 0, 0, 2, 2, 2]), (0.1, [0, 0, 2, 2, 2, 2, 2, 2])],
)
def test_maps_need_no_walk(threshold: float, row: list[int], tmp_path: Path) -> None:
    """They are resized to the image, as when they are evaluated, and not magnified and cropped as a walk's scores."""
    instance = of_maps(tmp_path, background_threshold=threshold)
    assert isinstance(instance.stage, MakePseudoLabels)
    (made,) = instance.stage.worker(instance)(SHARD)
    assert isinstance(made, PseudoLabel) and (made.mask == row).all()


def test_maps_are_used_only_if_they_are_named() -> None:
    slot = MakePseudoLabels.slots["scores"]
    assert slot.accepts(MakeSegmenterMaps) and slot.must_be_named(MakeSegmenterMaps) and slot.must_be_named(MakeCams)
    assert not slot.must_be_named(MakeScores)


def test_maps_have_no_propagated_background(tmp_path: Path) -> None:
    instance = of_maps(tmp_path, background="propagated")
    with pytest.raises(
        ValueError, match=r"background = 'propagated' needs a random walk, but .* has maps; name a make_"
    ):
        instance.stage.check(instance)
