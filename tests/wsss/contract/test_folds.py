"""A network that labels a fold must have seen each class elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shards.records import Sample
from tests.wsss.layers import instance_of, sample, samples_of
from wsss.contract.folds import check_class_folds, class_fold_cautions
from wsss.contract.stage import Instance
from wsss.stages.train_classifier import TrainClassifier
from wsss.stages.train_segmenter import TrainSegmenter


def images(name: str, number: int, *classes: int) -> list[Sample]:
    return [replace(sample(f"{name}{n}", None), classes=classes) for n in range(number)]


def classifier(folder: Path, *shards: list[Sample], **settings: int) -> Instance:
    samples = samples_of(folder, {f"train-{number:06d}": images for number, images in enumerate(shards)})
    return instance_of(TrainClassifier(folds=2, fold=1, **settings), folder, samples=samples)  # type: ignore[arg-type]


def test_a_list_that_is_sorted_by_class_is_refused(tmp_path: Path) -> None:
    instance = classifier(tmp_path, images("a", 10, 1), [*images("b", 9, 2), *images("c", 3, 2, 3)])
    name = instance.taxonomy.name_of(1)
    with pytest.raises(
        ValueError, match=rf"train_classifier.folds = 2: all training images of '{name}' \(10\) are in fold 1"
    ):
        check_class_folds(instance)
    check_class_folds(replace(instance, stage=TrainClassifier()))


def segmenter(folder: Path, *shards: list[Sample]) -> Instance:
    return replace(classifier(folder, *shards), stage=TrainSegmenter(folds=2, fold=1))


def test_classes_of_both_folds_pass_and_few_images_too_if_the_training_can_do_without(tmp_path: Path) -> None:
    shards = images("a", 20, 1, 2), [*images("b", 1, 1, 2), *images("c", 9, 3)]
    check_class_folds(segmenter(tmp_path / "segmenter", *shards))
    refused = classifier(tmp_path / "classifier", *shards)
    with pytest.raises(ValueError, match=r"\(9\) are in fold 2, .* dropped_classes, shuffle the list .* shard_size"):
        check_class_folds(refused)
    one = classifier(tmp_path / "one", images("a", 20, 1, 2), [*images("b", 1, 1, 2), *images("c", 1, 3)])
    with pytest.raises(ValueError, match=r"add .* to dropped_classes$"):
        check_class_folds(one)


def test_shards_that_are_not_used_do_not_count(tmp_path: Path) -> None:
    shards = [images("a", 9, 1), images("b", 9, 1), images("c", 10, 3), images("d", 9, 2), images("e", 9, 3)]
    instance = classifier(tmp_path, *shards)
    with pytest.raises(ValueError, match=r"are in fold [12]"):
        check_class_folds(instance)
    view = replace(instance, stage=TrainSegmenter(folds=2, fold=1, max_shards=2))
    check_class_folds(view)


def test_a_class_of_few_images_in_one_fold_is_a_caution_for_that_fold(tmp_path: Path) -> None:
    instance = segmenter(tmp_path, images("a", 20, 1, 2), [*images("b", 1, 1, 2), *images("c", 9, 3)])
    name = instance.taxonomy.name_of(3)
    (line,) = class_fold_cautions(replace(instance, stage=TrainSegmenter(folds=2, fold=2)))
    assert f"the 9 training images of '{name}' are all in fold 2, so this network labels them without" in line
    assert class_fold_cautions(instance) == [], "of fold 1: the other network has seen them"
    check_class_folds(instance)


def test_classes_that_are_not_learned_may_be_in_one_fold(tmp_path: Path) -> None:
    instance = classifier(tmp_path, images("a", 20, 1), [*images("b", 9, 2), *images("c", 3, 2, 1)])
    with pytest.raises(ValueError, match=r"all training images of .* \(12\)"):
        check_class_folds(instance)
    dropped = TrainClassifier(folds=2, fold=1, dropped_classes=(instance.taxonomy.name_of(2),))
    check_class_folds(replace(instance, stage=dropped))
