from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from shards.records import Sample
from shards.sources.toy import SHARES, TOY, WALKER_SHARE, ToySource

SOURCE = ToySource(counts={"train": 300, "val": 20}, seed=4, size=48)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [SOURCE.read(listed) for listed in SOURCE.list_split("train")]


def test_same_settings_draw_the_same_pictures(samples: list[Sample]) -> None:
    again = ToySource(counts={"train": 3}, seed=4, size=48)
    for listed, before in zip(again.list_split("train"), samples, strict=False):
        drawn = again.read(listed)
        assert drawn.encoded == before.encoded and drawn.classes == before.classes
        np.testing.assert_array_equal(drawn.mask, before.mask)


def test_other_seeds_and_splits_draw_others(samples: list[Sample]) -> None:
    other = ToySource(counts={"train": 1}, seed=5, size=48)
    pictures = {samples[0].encoded, samples[1].encoded, SOURCE.read(SOURCE.list_split("val")[0]).encoded}
    assert len(pictures | {other.read(other.list_split("train")[0]).encoded}) == 4


def test_classes_are_those_of_the_mask(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.mask is not None
        assert set(sample.classes) == set(np.unique(sample.mask).tolist()) - {0}
        assert sample.classes == tuple(sorted(sample.classes)) and max(sample.classes) <= len(TOY)
        assert sample.mask.shape == sample.size == sample.image.shape[:2]
    assert len({sample.size for sample in samples}) > 50, "sizes vary, and height and width differ"
    assert np.mean([len(sample.classes) > 1 for sample in samples]) > 0.4, "several classes stand in one image"


def test_classes_are_imbalanced_as_said(samples: list[Sample]) -> None:
    shown = Counter(TOY.name_of(c) for sample in samples for c in sample.classes)
    names = sorted(SHARES, key=lambda name: -SHARES[name])
    assert [name for name, _ in shown.most_common() if name != "walker"] == names
    assert shown[names[0]] > 2 * shown[names[-1]]


def test_walker_stands_beside_the_others(samples: list[Sample]) -> None:
    walker = TOY.id_of("walker")
    share = np.mean([walker in sample.classes for sample in samples])
    assert abs(share - WALKER_SHARE) < 0.1
    for class_id in set(range(1, len(TOY) + 1)) - {walker}:
        beside = [walker in sample.classes for sample in samples if class_id in sample.classes]
        assert 0.35 < np.mean(beside) < 0.75, "it joins every class about as often"
    alone = np.mean([sample.classes == (walker,) for sample in samples])
    assert alone < 0.15, "it seldom stands alone, so its label says little about where it is"


def test_empty_split() -> None:
    with pytest.raises(ValueError, match="split 'test' of the toy data set has 0 images; it needs at least 1"):
        SOURCE.list_split("test")


def test_signature_follows_what_is_drawn() -> None:
    variants = [
        SOURCE,
        ToySource(counts={"train": 301, "val": 20}, seed=4, size=48),
        ToySource(counts={"train": 300, "val": 20}, seed=5, size=48),
        ToySource(counts={"train": 300, "val": 20}, seed=4, size=49),
    ]
    assert len({variant.signature() for variant in variants}) == 4
    assert SOURCE.signature() == ToySource(counts={"val": 20, "train": 300}, seed=4, size=48).signature()


def test_boxes_frame_what_is_seen_of_every_class(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.boxes is not None and sample.mask is not None
        in_a_box = np.zeros(sample.size, bool)
        for box in sample.boxes:
            inside = sample.mask[box.top : box.bottom, box.left : box.right] == box.class_id
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any(), (
                "boxes are tight"
            )
            in_a_box[box.top : box.bottom, box.left : box.right] = True
        assert {box.class_id for box in sample.boxes} == set(sample.classes)
        assert in_a_box[sample.mask > 0].all()
