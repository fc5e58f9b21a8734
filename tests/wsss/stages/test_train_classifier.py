"""Which classes a classifier learns, and what it learns about them; its validation; settings that do not fit."""

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
from wsss.stages.train_classifier import TrainClassifier

SETTINGS: dict[str, Any] = {"encoder": "test_efficientnet", "pretrained": "none", "dilated": False, "crop_size": 32}
LABELS = [(1, 4), (2,), (4,), (3, 4), (), (5,)]


def picture(key: str, classes: tuple[int, ...], position: int) -> Sample:
    image = np.random.default_rng(position).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    return Sample(key=key, encoded=encode_png(image), size=(40, 48), classes=classes, mask=None, position=position)


@pytest.fixture
def samples(tmp_path: Path) -> Instance:
    shards = {f"{s}-000000": [picture(f"{s}{n}", c, n) for n, c in enumerate(LABELS)] for s in ("train", "val")}
    return samples_of(tmp_path, shards)


def classifier(samples: Instance, **settings: Any) -> Instance:
    instance = instance_of(TrainClassifier(**{**SETTINGS, **settings}), samples.path.parent, samples=samples)
    assert isinstance(instance.stage, TrainClassifier)
    instance.stage.check(instance)
    return instance


def stage_of(instance: Instance) -> TrainClassifier:
    assert isinstance(instance.stage, TrainClassifier)
    return instance.stage


def test_what_is_not_learned_is_unknown_everywhere(samples: Instance) -> None:
    names = samples.taxonomy.names
    for settings, learned in (
        ({"dropped_classes": (names[3],)}, [1, 2, 3, 5]),
        ({"only_classes": (names[3], names[0])}, [1, 4]),
        ({"only_classes": (names[3], names[0]), "dropped_classes": (names[0],)}, [4]),
        ({}, [1, 2, 3, 4, 5]),
    ):
        instance = classifier(samples, **settings)
        stage = stage_of(instance)
        assert stage.learned(instance) == learned
        examples = stage.training_set(instance)
        for index, present in enumerate(LABELS):
            example = examples.example(Draw(index, 0))
            assert (torch.nonzero(example["known"])[:, 0] + 1).tolist() == learned
            assert (torch.nonzero(example["target"])[:, 0] + 1).tolist() == list(present)


def test_two_classifiers_read_the_unknown_classes_of_the_same_shards_differently(tmp_path: Path) -> None:
    every = (1, 2, 3, 4, 5)
    pictures = [replace(picture("a", (1,), 0), unknown=(2, 3, 4, 5)), replace(picture("b", (), 1), unknown=every)]
    samples = samples_of(tmp_path, {f"{split}-000000": pictures for split in ("train", "val")})

    def known(split: str = "train", **settings: Any) -> list[list[int]]:
        instance = classifier(samples, **settings)
        examples = stage_of(instance).training_set(instance)
        return [(torch.nonzero(examples.example(Draw(n, 0))["known"])[:, 0] + 1).tolist() for n in range(2)]

    others = {"dropped_classes": samples.taxonomy.names[1:]}
    assert known(**others) == [[1], []]
    assert known(**others, unchecked="absent") == [[1], [1]]
    assert known(**others, unchecked="absent_if_labelled") == [[1], []]
    person = {"only_classes": samples.taxonomy.names[:1], "unchecked": "absent"}
    assert known(**person) == [[1], [1]], "the same shards, read by another classifier"


def test_balance_counts_what_is_learned(samples: Instance) -> None:
    """Without class 4 the other classes are shown once each, and two images have no class: one is drawn on average."""
    dropping = classifier(samples, balance="down", dropped_classes=(samples.taxonomy.names[3],))
    lines = stage_of(dropping).preview(dropping)
    assert (
        f"{samples.taxonomy.names[3]} " not in lines[0] and lines[1] == f"not learned here: {samples.taxonomy.names[3]}"
    )
    lengths = [len(stage_of(dropping).training_set(dropping).order(epoch)) for epoch in range(60)]
    assert set(lengths) <= {4, 5, 6} and np.mean(lengths) == pytest.approx(5, abs=0.4)


def test_every_draw_of_an_image_is_augmented_anew(samples: Instance) -> None:
    instance = classifier(samples, balance="up")
    examples = stage_of(instance).training_set(instance)
    first, second = (examples.example(Draw(0, 0, n))["image"] for n in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(second, examples.example(Draw(0, 0, 1))["image"])


def test_validation_tells_of_the_learned_classes_alone(samples: Instance) -> None:
    instance = classifier(samples, dropped_classes=(samples.taxonomy.names[1],), validation_size=32, validate_every=1)
    stage = stage_of(instance)
    network = stage.model(instance, pretrained=True).eval()
    found = stage.validate(network, instance)  # type: ignore[arg-type]
    rows = found.outcome.tables["per_class"]
    assert [row["class"] for row in rows] == [n for c, n in enumerate(samples.taxonomy.names) if c != 1]
    assert [row["images"] for row in rows] == [1, 1, 3, 1]
    precisions = [row["average_precision"] for row in rows]
    assert found.score == found.outcome.metrics["val.mean_average_precision"] == pytest.approx(np.mean(precisions))


def test_weights_of_the_loss_see_what_balancing_has_evened_out(samples: Instance) -> None:
    """Class 4 is in three images, the others in one each."""
    plain, balanced = (
        stage_of(classifier(samples, class_weighting=1.0, balance=b))._objective(classifier(samples, balance=b))
        for b in ("none", "up")
    )
    assert plain.positive_weights == (3, 3, 3, 1, 3)
    assert balanced.positive_weights is not None and max(balanced.positive_weights) < 3


def test_a_validation_split_without_a_learned_class_is_refused(samples: Instance) -> None:
    from tests.wsss.layers import write_layer

    other = replace(samples, path=samples.path.parent / "other")
    train = [picture(f"t{n}", c, n) for n, c in enumerate(LABELS)]
    write_layer(other.path, "sample", {"train-000000": train, "val-000000": [picture("v", (4,), 0)]})
    instance = classifier(other, dropped_classes=(samples.taxonomy.names[3],))
    with pytest.raises(ValueError, match="validation_split = 'val' shows none of the learned classes"):
        stage_of(instance).training_set(instance)


def test_a_class_without_an_image_is_named_before_training(samples: Instance) -> None:
    from tests.wsss.layers import write_layer

    fewer = replace(samples, path=samples.path.parent / "fewer")
    write_layer(fewer.path, "sample", {"train-000000": [picture("a", (1, 2), 0), picture("b", (3, 5), 1)]})
    name = samples.taxonomy.names[3]
    instance = classifier(fewer)
    with pytest.raises(ValueError, match=f"no training image shows '{name}'; .* add this class to dropped_classes"):
        stage_of(instance).training_set(instance)
    dropping = classifier(fewer, dropped_classes=(name,))
    assert len(stage_of(dropping).training_set(dropping)) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropped_classes": ("persn",)}, "unknown class 'persn'; there are"),
        ({"keep": "best"}, r"keep = 'best' needs validate_every = 1 or more"),
        ({"validate_every": 9}, r"validate_every = 9 is more than num_epochs = 5"),
        (
            {"validate_every": 1, "validation_split": ""},
            r"validate_every needs a validation_split that build_shards has",
        ),
        ({"activation_checkpointing": True, "norm": "batch"}, r"activation_checkpointing needs norm = 'frozen'"),
        (
            {"mixing": "mixup", "gradient_accumulation_steps": 16},
            r"mixing = 'mixup' mixes the images of a micro-batch",
        ),
        ({"stochastic_units": "units"}, r"stochastic_units is only for head = 'stochastic'; head is 'linear'"),
        (
            {"gradient_accumulation_steps": 9, "world_size": 2},
            r"batch_size = 16 is less than world_size = 2 times gradient_accumulation_steps = 9: .* at most 16, or",
        ),
    ],
)
def test_settings_that_do_not_fit(samples: Instance, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier(samples, **settings)


def test_no_class_left(samples: Instance) -> None:
    with pytest.raises(ValueError, match="leave no class to learn"):
        classifier(samples, dropped_classes=samples.taxonomy.names)


@pytest.mark.parametrize(("frozen_stride", "first"), [(1, 0), (4, 4), (8, 10)])
def test_first_stages_are_not_trained(samples: Instance, frozen_stride: int, first: int) -> None:
    """VGG16 by its convolutions: four end at stride 4, ten with the first level of stride 8."""
    settings = {"encoder": "vgg16_affinitynet", "output_stride": 8, "dilated": True, "frozen_stride": frozen_stride}
    instance = classifier(samples, **settings)
    with torch.device("meta"):
        network = stage_of(instance).model(instance, pretrained=False)
    learned = [p.requires_grad for name, p in network.named_parameters() if p.ndim == 4 and "encoder" in name]
    assert learned == [False] * first + [True] * (15 - first)


def test_the_published_classifier_of_affinitynet(samples: Instance) -> None:
    """Logits are the mean of the map that fc8 gives, as fc8 before the pooling would give them; dropout of channels."""
    settings = {"encoder": "vgg16_affinitynet", "output_stride": 8, "dilated": True, "dropout": 0.5}
    instance = classifier(samples, **settings)
    torch.manual_seed(0)
    network = stage_of(instance).model(instance, pretrained=True).eval()
    image = torch.randn(2, 3, 40, 48)
    with torch.no_grad():
        features = network.features(image)  # type: ignore[operator]
        assert features.shape == (2, 1024, 5, 6)
        weights = network.cam_weights[..., None, None]  # type: ignore[index]
        wanted = torch.nn.functional.conv2d(features, weights).mean((2, 3))
        torch.testing.assert_close(network(image), wanted, rtol=1e-4, atol=1e-5)
    drops = [layer.p for layer in network.modules() if isinstance(layer, torch.nn.Dropout | torch.nn.Dropout2d)]
    assert sorted(drops)[-2:] == [0.5, 0.5]  # between fc6 and fc7, and before fc8


def test_strong_augmentation_is_a_setting(samples: Instance) -> None:
    weak, strong = (classifier(samples, augmentation=name) for name in ("weak", "strong"))
    one, other = ([stage_of(i).training_set(i).example(Draw(n, 0)) for n in range(4)] for i in (weak, strong))
    assert all(a["image"].shape == b["image"].shape for a, b in zip(one, other, strict=True))
    assert sum(not torch.equal(a["image"], b["image"]) for a, b in zip(one, other, strict=True)) >= 3
    assert all(torch.equal(a["target"], b["target"]) for a, b in zip(one, other, strict=True))
    by_default, hashed = hashed_values(weak.stage), hashed_values(strong.stage)
    assert "augmentation" not in by_default and "colour_jitter" in by_default
    assert hashed["augmentation"] == "strong" and "colour_jitter" not in hashed
