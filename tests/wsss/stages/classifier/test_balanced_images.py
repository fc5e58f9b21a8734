"""A fixed, class-balanced part of the training images, for the classifier and for the maps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shards.records import CamRecord, Missing, Sample
from tests.wsss.layers import instance_of, samples_of, write_layer
from tests.wsss.stages.classifier.test_hold_out import SETTINGS, classifier, picture, trained_keys
from wsss.contract.cost import DatasetStats
from wsss.contract.fit import weights_path
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.plan.layers import images_of, stats_of
from wsss.stages.classifier.hold_out import is_trained_on, validation_samples
from wsss.stages.make_cams import MakeCams
from wsss.stages.train_classifier import TrainClassifier

COUNTS = {(1,): 20, (2,): 9, (3,): 6, (4, 5): 8, (5,): 7, (): 10}
"""Classes of an image -> number of such images."""
NUM_IMAGES, GOAL = sum(COUNTS.values()), 6


@pytest.fixture
def samples(tmp_path: Path) -> Instance:
    labels = [classes for classes, count in COUNTS.items() for _ in range(count)]
    order = torch.randperm(NUM_IMAGES, generator=torch.Generator().manual_seed(0)).tolist()
    pictures = [labelled(f"f/{n:02d}", labels[place]) for n, place in enumerate(order)]
    shards = {"train-000000": pictures[:40], "train-000001": pictures[40:], "val-000000": [labelled("v", (1, 2))]}
    return samples_of(tmp_path, shards)


def labelled(key: str, classes: tuple[int, ...]) -> Sample:
    return replace(picture(key, 0), classes=classes)


def chosen_of(samples: Instance, **settings: Any) -> list[str]:
    stage, instance = classifier(samples, **settings)
    return trained_keys(stage, instance)


def classes_of(samples: Instance) -> dict[str, tuple[int, ...]]:
    rows = [row.entries for row in samples.layer.manifest_entries("train")]
    return {key: tuple(c) for row in rows for key, c in zip(row.keys, row.metadata("classes"), strict=True)}


def test_every_class_is_shown_by_as_many_images(samples: Instance) -> None:
    classes = classes_of(samples)
    chosen = chosen_of(samples, images_per_class=GOAL)
    shown = Counter(c for key in chosen for c in classes[key])
    assert shown[1] == shown[2] == shown[3] == GOAL and shown[4] == GOAL <= shown[5]
    assert all(classes[key] for key in chosen), "an image without a class is not chosen"
    assert chosen_of(samples, images_per_class=GOAL) == chosen
    assert set(chosen_of(samples, images_per_class=3)) < set(chosen)
    assert len(chosen_of(samples, images_per_class=100)) == NUM_IMAGES - COUNTS[()]


def test_only_learned_classes_count(samples: Instance) -> None:
    classes, name = classes_of(samples), samples.taxonomy.names[0]
    chosen = chosen_of(samples, images_per_class=GOAL, dropped_classes=(name,))
    assert {c for key in chosen for c in classes[key]} == {2, 3, 4, 5}


def test_the_choice_depends_on_keys_and_the_seed_of_the_samples(samples: Instance, tmp_path: Path) -> None:
    stage, instance = classifier(samples, images_per_class=GOAL)
    repeated = replace(instance, seed=instance.seed + 4)
    assert trained_keys(stage, repeated) == trained_keys(stage, instance)
    reseeded = replace(samples, seed=samples.seed + 1)
    assert set(chosen_of(reseeded, images_per_class=GOAL)) != set(trained_keys(stage, instance))
    # Other shard boundaries, the same images.
    records = [labelled(key, c) for key, c in sorted(classes_of(samples).items(), reverse=True)]
    other = replace(samples, path=tmp_path / "other")
    write_layer(other.path, "sample", {"train-000000": records[:5], "train-000001": records[5:]})
    again, elsewhere = classifier(other, images_per_class=GOAL)
    assert set(trained_keys(again, elsewhere)) == set(trained_keys(stage, instance))


def test_held_out_images_are_a_part_of_the_chosen_ones(samples: Instance) -> None:
    chosen = chosen_of(samples, images_per_class=GOAL)
    stage, instance = classifier(samples, images_per_class=GOAL, hold_out=0.3, validation_split="held_out")
    trained, validated = trained_keys(stage, instance), [one.key for one in validation_samples(stage, instance)]
    assert sorted(trained + validated) == sorted(chosen) and 3 < len(validated) < len(trained)
    decide = is_trained_on(stage, instance)
    assert [key for key in sorted(classes_of(samples)) if decide(key)] == sorted(trained)
    assert sum(stage._histogram(instance)[0]) == sum(len(classes_of(samples)[key]) for key in trained)


def made(stage: MakeCams, trained: Instance, shard: str) -> list[CamRecord | Missing]:
    instance = instance_of(stage, trained.path.parent, samples=trained.samples, classifier=trained)
    stage.check(instance)
    return list(stage.worker(instance)(shard))  # type: ignore[arg-type]


def test_maps_of_the_images_that_the_classifier_is_trained_on(samples: Instance) -> None:
    stage, trained = classifier(samples, images_per_class=GOAL, hold_out=0.3)
    trained.path.mkdir(parents=True)
    save_file(stage.model(trained, pretrained=False).state_dict(), weights_path(trained))
    restricted = MakeCams(scales=(1.0,), flip=False, train_images="classifier")
    found = {record.key: record for shard in samples.layer.shards() for record in made(restricted, trained, shard)}
    assert {key for key, record in found.items() if isinstance(record, CamRecord)} == {
        *trained_keys(stage, trained),
        "v",
    }, "images of other splits are not restricted"
    left_out = [record for record in found.values() if isinstance(record, Missing)]
    assert {record.reason for record in left_out} == {"the classifier is not trained on it"}
    assert all(record.left_out for record in left_out) and len(found) == NUM_IMAGES + 1
    everything = MakeCams(scales=(1.0,), flip=False)
    assert all(isinstance(record, CamRecord) for record in made(everything, trained, "train-000000"))
    assert "train_images" in hashed_values(restricted) and "train_images" not in hashed_values(everything)


def test_settings_that_do_not_fit(samples: Instance) -> None:
    with pytest.raises(ValueError, match=r"train_classifier.images_per_class = 5 keeps only images .* learns one"):
        classifier(samples, images_per_class=5, only_classes=(samples.taxonomy.names[0],))
    assert "images_per_class" not in hashed_values(TrainClassifier(**SETTINGS))
    assert hashed_values(TrainClassifier(**SETTINGS, images_per_class=9))["images_per_class"] == 9


def test_the_plan_counts_the_chosen_images(samples: Instance) -> None:
    stats = DatasetStats(
        images={"train": 1000, "val": 50},
        size=(40, 40),
        labelled_share=0.8,
        labels=1.25,
        masked_splits=frozenset(),
        shard_images=100,
    )
    stage, trained = classifier(samples, images_per_class=50, hold_out=0.25)
    assert stage.planned_images(trained, 1000, labels=1.25) == 200  # 5 classes, 50 images each, 1.25 classes an image
    assert stage.planned_images(trained, 150, labels=1.25) == 150
    cams = instance_of(MakeCams(train_images="classifier"), trained.path.parent, samples=samples, classifier=trained)
    narrowed = stats_of(cams, stats)
    assert images_of(cams, narrowed) == {"train": 150, "val": 50} and narrowed.labelled_share == 1.0
    everything = instance_of(MakeCams(), trained.path.parent, samples=samples, classifier=trained)
    assert stats_of(everything, stats) == stats


def test_only_images_with_a_known_learned_class(tmp_path: Path) -> None:
    """Labels and unknown classes of every image: which ones a classifier of class 1 learns from, and what it learns."""
    labels = {"a": ((1,), ()), "b": ((2,), (1, 3)), "c": ((2,), (3,)), "d": ((), (1, 2, 3, 4, 5)), "e": ((), (3,))}
    pictures = [replace(labelled(key, c), unknown=unknown) for key, (c, unknown) in labels.items()]
    samples = samples_of(tmp_path, {"train-000000": pictures, "val-000000": [labelled("v", (1,))]})
    only = {"only_classes": (samples.taxonomy.names[0],)}
    assert set(chosen_of(samples, **only)) == set("abcde")
    assert set(chosen_of(samples, **only, known_only=True)) == set("ace")
    assert set(chosen_of(samples, **only, known_only=True, unchecked="absent_if_labelled")) == set("abce")
    assert set(chosen_of(samples, **only, known_only=True, unchecked="absent")) == set("abcde")
    two = {"only_classes": samples.taxonomy.names[:2]}
    assert set(chosen_of(samples, **two, known_only=True)) == set("abce")
    assert set(chosen_of(samples, **two, known_only=True, images_per_class=1)) in ({"a", "b"}, {"a", "c"})
    stage, instance = classifier(samples, **only, known_only=True, hold_out=0.5, validation_split="held_out")
    trained_on, validated = is_trained_on(stage, instance), [one.key for one in validation_samples(stage, instance)]
    assert sorted([*filter(trained_on, "abcde"), *validated]) == list("ace")
    assert "known_only" not in hashed_values(TrainClassifier(**SETTINGS))
