"""Notes about views outside the sizes of training: where there is one, where there is none, and what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shards.records import Sample
from tests.wsss.layers import instance_of, sample, samples_of
from wsss.contract.stage import Instance, Stage
from wsss.pipeline.recipe import load_recipe
from wsss.pipeline.recipe_files import RECIPES
from wsss.report.show_recipe import instance_page, recipe_page
from wsss.stages.build_shards import BuildShards
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_instance_labels import MakeInstanceLabels
from wsss.stages.make_scores import MakeScores
from wsss.stages.make_segmenter_maps import MakeSegmenterMaps
from wsss.stages.predict import Predict
from wsss.stages.settings.trained_sizes import trained_sides
from wsss.stages.train_affinity import TrainAffinity
from wsss.stages.train_classifier import TrainClassifier
from wsss.stages.train_segmenter import TrainSegmenter

RANGE = (96, 176)
TRAININGS: dict[str, tuple[str, Stage]] = {
    "make_cams": ("classifier", TrainClassifier(resize_long=RANGE)),
    "predict": ("segmenter", TrainSegmenter(resize_long=RANGE)),
    "make_segmenter_maps": ("segmenter", TrainSegmenter(resize_long=RANGE)),
    "make_scores": ("affinity", TrainAffinity(resize_long=RANGE)),
    "make_instance_labels": ("affinity", TrainAffinity(resize_long=RANGE)),
}


def images(path: Path, sides: Sequence[int]) -> Instance:
    """Samples of one split whose images have these longer sides."""
    made: list[Sample] = [sample(str(n), None, position=n, size=(40, side)) for n, side in enumerate(sides)]
    return samples_of(path, {"val-000000": made, "train-000000": made[:1]})


def cautions(path: Path, stage: Stage, *, sides: Sequence[int] = (), samples: Instance | None = None) -> list[str]:
    samples = samples or images(path, sides)
    slot, training = TRAININGS[stage.kind]
    trained = instance_of(training, path, samples=samples)
    return stage.cautions(instance_of(stage, path, samples=samples, **{slot: trained}))


def test_inside_the_range_there_is_no_note(tmp_path: Path) -> None:
    samples = images(tmp_path, [128] * 4)
    for stage in (
        MakeCams(scales=(0.75, 1.0, 1.25), splits=("val",)),
        Predict(scales=(0.75, 1.0, 1.375)),
        MakeSegmenterMaps(scales=(1.0,), weight=1.0, splits=("val",)),
        MakeScores(splits=("val",)),
        MakeInstanceLabels(splits=("val",)),
        MakeScores(propagation="none", splits=("val",)),
    ):
        assert cautions(tmp_path, stage, samples=samples) == [], stage.kind


def test_outside_the_range_one_note_names_the_setting_the_sizes_and_the_range(tmp_path: Path) -> None:
    (note,) = cautions(tmp_path, Predict(scales=(0.5, 1.0, 2.0)), sides=[128] * 4)
    assert note == (
        "predict.scales: 0.5 makes a longer side of 64 pixels, 2 makes a longer side of 256 pixels, but "
        "train_segmenter learned from 96 to 176; its output there is a guess (scales from 0.75 to 1.37 are inside)"
    )


def test_the_first_and_the_last_size_inside(tmp_path: Path) -> None:
    samples = images(tmp_path, [100] * 4)
    assert cautions(tmp_path, Predict(scales=(0.96, 1.76)), samples=samples) == []
    (note,) = cautions(tmp_path, Predict(scales=(0.95, 0.96, 1.76, 1.77)), samples=samples)
    assert "0.95 makes" in note and "1.77 makes" in note and "0.96 makes" not in note and "1.76 makes" not in note


@pytest.mark.parametrize("kind", ["make_cams", "predict", "make_segmenter_maps"])
def test_with_long_side_the_sizes_are_known_before_any_image(kind: str, tmp_path: Path) -> None:
    stages: dict[str, Any] = {"make_cams": MakeCams, "predict": Predict, "make_segmenter_maps": MakeSegmenterMaps}
    samples = instance_of(BuildShards(source="voc", root=str(tmp_path)), tmp_path)  # no layer
    stage = stages[kind](scales=(0.5, 1.0), long_side=140)
    (note,) = cautions(tmp_path, stage, samples=samples)
    assert note.startswith(f"{kind}.scales: 0.5 makes a longer side of 70 pixels, but ")
    assert cautions(tmp_path, dataclasses.replace(stage, long_side=192), samples=samples) == [
        f"{kind}.scales: 1 makes a longer side of 192 pixels, but {stages_training(kind)} learned from 96 to 176; its "
        f"output there is a guess ({kind}.long_side = 136 would be in the middle)"
    ]
    assert cautions(tmp_path, dataclasses.replace(stage, long_side=0), samples=samples) == [], "sizes are not known"


def stages_training(kind: str) -> str:
    return TRAININGS[kind][1].kind


def test_images_too_large_for_a_network_that_sees_one_view(tmp_path: Path) -> None:
    samples = images(tmp_path, [500] * 4)
    (note,) = cautions(tmp_path, MakeScores(splits=("val",)), samples=samples)
    assert note == (
        "make_scores reads images with a longer side of 500 pixels, but train_affinity learned from 96 to 176; its "
        "output there is a guess (make_scores.long_side = 136 would be in the middle)"
    )
    assert cautions(tmp_path, MakeScores(splits=("val",), long_side=136), samples=samples) == []
    (note,) = cautions(tmp_path, MakeScores(splits=("val",), long_side=200), samples=samples)
    assert note.startswith("make_scores.long_side = 200 is the longer side of its images, but train_affinity learned")
    (note,) = cautions(tmp_path, MakeInstanceLabels(splits=("val",)), samples=samples)
    assert note.endswith("its output there is a guess"), "the stage has no setting that resizes images"


def test_only_what_most_images_show_is_noted_and_extremes_are_not_quoted(tmp_path: Path) -> None:
    few = [128] * 21 + [500] * 19
    assert cautions(tmp_path / "few", Predict(scales=(1.0,)), sides=few) == []
    most = [50] + [128] * 15 + [400] * 30 + [500] * 13 + [4000]
    (note,) = cautions(tmp_path / "most", Predict(scales=(1.0,)), sides=most)
    assert "1 makes a longer side of 128 to 500 pixels" in note


def test_max_side_keeps_views_inside(tmp_path: Path) -> None:
    samples = images(tmp_path, [500] * 4)
    assert len(cautions(tmp_path, MakeCams(scales=(1.0, 2.0), splits=("val",)), samples=samples)) == 1
    assert cautions(tmp_path, MakeCams(scales=(1.0, 2.0), max_side=170, splits=("val",)), samples=samples) == []


def test_strong_augmentation_widens_the_range() -> None:
    assert trained_sides(TrainSegmenter(resize_long=(100, 200))) == (100, 200)
    assert trained_sides(TrainSegmenter(resize_long=(100, 200), augmentation="strong")) == (80, 240)


def test_of_two_classifiers_each_has_its_own_range(tmp_path: Path) -> None:
    samples = images(tmp_path, [128] * 4)
    stage = MakeCams(scales=(1.0,), splits=("val",), second_classifier=True)
    near, far = (
        dataclasses.replace(instance_of(TrainClassifier(resize_long=r), tmp_path, samples=samples), name=name)
        for name, r in (("near", (96, 176)), ("far", (320, 640)))
    )
    instance = instance_of(stage, tmp_path, samples=samples, classifier=near, second_classifier=far)
    (note,) = stage.cautions(instance)
    assert "far learned from 320 to 640" in note


def test_the_views_of_a_validation(tmp_path: Path) -> None:
    samples = images(tmp_path, [128] * 4)
    for stage, noted in (
        (TrainClassifier(resize_long=RANGE, validation_size=128), False),
        (TrainClassifier(resize_long=RANGE, validation_size=512), True),
        (TrainClassifier(resize_long=RANGE, validation_size=512, validation_split=""), False),
        (TrainSegmenter(resize_long=(320, 640)), False),
        (TrainSegmenter(resize_long=(320, 640), validate_every=1), True),
        (TrainSegmenter(resize_long=(320, 640), validate_every=1, validation_size=320), False),
    ):
        notes = stage.cautions(instance_of(stage, tmp_path, samples=samples))
        assert bool(notes) == noted, stage
        if noted and isinstance(stage, TrainSegmenter):
            assert notes[0].startswith("train_segmenter validates on images with a longer side of 128 pixels, but")


def test_show_names_them_and_the_toy_recipes_views_have_sizes_that_it_learned(tmp_path: Path) -> None:
    """The toy recipe's images have the size that its settings give, so its views are known before anything runs."""
    runs = f"runtime.runs={tmp_path}"
    recipe = load_recipe(RECIPES / "toy.toml", [runs])
    assert recipe_page(recipe).tables["instances"].notes == ()
    other = load_recipe(RECIPES / "toy.toml", [runs, "predict.scales=[0.5,1.0,2.0]"])
    (note,) = [note for note in recipe_page(other).tables["instances"].notes if "predict" in note]
    assert note.startswith("predict.scales: 0.5 makes a longer side of 64 pixels, 2 makes")
    assert note in instance_page(other, "predict").heading
