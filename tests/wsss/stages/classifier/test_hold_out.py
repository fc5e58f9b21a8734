"""Images that a classifier is not trained on, and its validation on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.images import encode_png
from shards.records import Sample
from tests.wsss.layers import instance_of, samples_of
from wsss.contract.fit import Draw
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.stages.classifier.hold_out import is_held_out, training_records, validation_samples
from wsss.stages.train_classifier import TrainClassifier

SETTINGS: dict[str, Any] = {"encoder": "test_efficientnet", "pretrained": "none", "dilated": False, "crop_size": 32}
KEYS = [f"folder/{n:03d}" for n in range(40)]


def picture(key: str, position: int) -> Sample:
    image = np.full((33, 35, 3), position, np.uint8)
    classes = (1 + position % 5,)
    return Sample(key=key, encoded=encode_png(image), size=(33, 35), classes=classes, mask=None, position=position)


@pytest.fixture
def samples(tmp_path: Path) -> Instance:
    pictures = [picture(key, n) for n, key in enumerate(KEYS)]
    shards = {"train-000000": pictures[:25], "train-000001": pictures[25:], "val-000000": [picture("v", 0)]}
    return samples_of(tmp_path, shards)


def classifier(samples: Instance, **settings: Any) -> tuple[TrainClassifier, Instance]:
    stage = TrainClassifier(**{**SETTINGS, **settings})
    instance = instance_of(stage, samples.path.parent, samples=samples)
    stage.check(instance)
    return stage, instance


def trained_keys(stage: TrainClassifier, instance: Instance) -> list[str]:
    examples = stage.training_set(instance)
    drawn = {int(index) for epoch in range(3) for index in examples.order(epoch)}
    assert drawn == set(range(len(examples)))
    return [examples.example(Draw(index, 0))["key"] for index in range(len(examples))]


def test_share_of_many_keys_and_nested_shares() -> None:
    keys = [f"image{n}" for n in range(5000)]
    small, large = ({key for key in keys if is_held_out(key, share=s, seed=1)} for s in (1 / 7, 0.4))
    assert (
        small < large and len(small) == pytest.approx(5000 / 7, abs=100) and len(large) == pytest.approx(2000, abs=140)
    )
    other = {key for key in keys if is_held_out(key, share=1 / 7, seed=2)}
    assert 0 < len(small & other) < len(small) / 2
    assert not any(is_held_out(key, share=0.0, seed=1) for key in keys)


def test_training_and_validation_share_no_image_and_leave_none_out(samples: Instance) -> None:
    stage, instance = classifier(samples, hold_out=0.3, validation_split="held_out")
    trained, held_out = trained_keys(stage, instance), [one.key for one in validation_samples(stage, instance)]
    assert sorted(trained + held_out) == KEYS and len(held_out) == 5
    assert held_out == [key for key in KEYS if is_held_out(key, share=0.3, seed=samples.seed)]
    whole, plain = classifier(samples)
    assert trained_keys(whole, plain) == KEYS
    assert [one.key for one in validation_samples(whole, plain)] == ["v"]
    kept, elsewhere = classifier(samples, hold_out=0.3)
    assert trained_keys(kept, elsewhere) == trained and [s.key for s in validation_samples(kept, elsewhere)] == ["v"]


def test_a_repeated_training_holds_out_the_same_images(samples: Instance) -> None:
    stage, instance = classifier(samples, hold_out=0.3)
    again = replace(instance, seed=instance.seed + 5)
    assert trained_keys(stage, again) == trained_keys(stage, instance)
    assert (
        training_records(stage, instance, lanes=4).order(0).tolist()
        != training_records(stage, again, lanes=4).order(0).tolist()
    )


def test_validation_measures_the_held_out_images(samples: Instance) -> None:
    stage, instance = classifier(samples, hold_out=0.5, validation_split="held_out", validate_every=1)
    held_out = list(validation_samples(stage, instance))
    torch.manual_seed(0)
    network: Any = stage.model(instance, pretrained=False).eval()
    rows: Any = stage.validate(network, instance).outcome.tables["per_class"]
    shown = [sum(c in one.classes for one in held_out) for c in range(1, 6)]
    assert [row["images"] for row in rows] == shown and sum(shown) == len(held_out) > 10
    instance.path.mkdir(parents=True)
    stage.begin(instance)  # the histogram counts them too


def test_a_class_of_which_every_image_is_held_out(tmp_path: Path) -> None:
    stage, instance = classifier(samples_of(tmp_path, {"train-000000": [picture(KEYS[2], 0)]}), hold_out=0.3)
    with pytest.raises(ValueError, match=r"no training image shows .*, or set a smaller hold_out"):
        stage.training_set(instance)


def test_settings_that_do_not_fit(samples: Instance) -> None:
    with pytest.raises(
        ValueError, match=r"validation_split = 'held_out' needs images .* set train_classifier.hold_out"
    ):
        classifier(samples, validation_split="held_out")
    with pytest.raises(ValueError, match=r"validation_split = 'held', but build_shards has only train, val, held_out"):
        classifier(samples, validation_split="held", hold_out=0.2)
    with pytest.raises(ValueError, match="hold_out"):
        TrainClassifier(**SETTINGS, hold_out=1.0)
    assert "hold_out" not in hashed_values(TrainClassifier(**SETTINGS))
    assert hashed_values(TrainClassifier(**SETTINGS, hold_out=0.2))["hold_out"] == 0.2
