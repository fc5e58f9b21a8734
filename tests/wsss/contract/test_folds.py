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
        ValueError, match=rf"train_classifier.folds = 2: all 10 training images of '{name}' are in fold 1"
    ):
        check_class_folds(instance)
    check_class_folds(replace(instance, stage=TrainClassifier()))


def test_classes_of_both_folds_pass_and_so_do_few_images(tmp_path: Path) -> None:
    check_class_folds(classifier(tmp_path, images("a", 20, 1, 2), [*images("b", 1, 1, 2), *images("c", 9, 3)]))


def test_shards_that_are_not_used_do_not_count(tmp_path: Path) -> None:
    shards = [images("a", 9, 1), images("b", 9, 1), images("c", 10, 3), images("d", 9, 2), images("e", 9, 3)]
    instance = classifier(tmp_path, *shards)
    with pytest.raises(ValueError, match="are in fold 1"):
        check_class_folds(instance)
    view = replace(instance, stage=TrainSegmenter(folds=2, fold=1, max_shards=2))
    check_class_folds(view)


def test_a_class_of_few_images_in_one_fold_is_a_caution_for_that_fold(tmp_path: Path) -> None:
    instance = classifier(tmp_path, images("a", 20, 1, 2), [*images("b", 1, 1, 2), *images("c", 9, 3)])
    name = instance.taxonomy.name_of(3)
    (line,) = class_fold_cautions(replace(instance, stage=TrainClassifier(folds=2, fold=2)))
    assert f"the 9 training images of '{name}' are all in fold 2, so this network labels them without" in line
    assert class_fold_cautions(instance) == [], "of fold 1: the other network has seen them"
    check_class_folds(instance)


def test_classes_that_are_not_learned_may_be_in_one_fold(tmp_path: Path) -> None:
    instance = classifier(tmp_path, images("a", 20, 1), [*images("b", 9, 2), *images("c", 3, 2, 1)])
    with pytest.raises(ValueError, match="all 12 training images"):
        check_class_folds(instance)
    dropped = TrainClassifier(folds=2, fold=1, dropped_classes=(instance.taxonomy.name_of(2),))
    check_class_folds(replace(instance, stage=dropped))
