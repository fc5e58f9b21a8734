from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.wsss.layers import instance_of, samples_of
from wsss.stages.encoder_settings import EncoderSource
from wsss.stages.fit import weights_path
from wsss.stages.stage import Instance
from wsss.stages.train_affinity import TrainAffinity
from wsss.stages.train_classifier import TrainClassifier
from wsss.stages.train_segmenter import TrainSegmenter

ENCODER = "test_resnet"
CLASSIFIER = TrainClassifier(encoder=ENCODER, pretrained="none", dilated=False)
FOLLOWERS = [
    TrainClassifier(encoder=ENCODER, pretrained="none", dilated=False, head="stochastic"),
    TrainAffinity(encoder=ENCODER, pretrained="none", dilated=False),
    TrainSegmenter(encoder=ENCODER, pretrained="none", dilated=False, decoder_channels=8),
]


@pytest.fixture
def trained(tmp_path: Path) -> Instance:
    """A classifier with weights of its own."""
    instance = instance_of(CLASSIFIER, tmp_path, samples=samples_of(tmp_path, {"train-000000": []}))
    instance.path.mkdir()
    torch.manual_seed(7)
    save_file(CLASSIFIER.model(instance, pretrained=True).state_dict(), weights_path(instance))
    return instance


def follower(stage: EncoderSource, path: Path, trained: Instance) -> Instance:
    return replace(instance_of(stage, path, samples=trained.samples, classifier=trained), name="follower")


def same_encoder(instance: Instance, trained: Instance) -> bool:
    """True where every convolution of the classifier's encoder is in the new network; the names differ."""
    stage = instance.stage
    assert isinstance(stage, EncoderSource)
    torch.manual_seed(8)
    made = [value for value in stage.model(instance, pretrained=True).state_dict().values() if value.ndim == 4]
    state = load_file(weights_path(trained))
    wanted = [value for name, value in state.items() if name.startswith("encoder.") and value.ndim == 4]
    assert len(wanted) > 10
    return all(any(torch.equal(kernel, candidate) for candidate in made) for kernel in wanted)


@pytest.mark.parametrize("stage", FOLLOWERS, ids=lambda stage: stage.kind)
def test_a_training_starts_from_the_classifiers_encoder(
    stage: EncoderSource, tmp_path: Path, trained: Instance
) -> None:
    assert same_encoder(follower(replace(stage, encoder_from="classifier"), tmp_path, trained), trained)
    assert not same_encoder(follower(stage, tmp_path, trained), trained)


@pytest.mark.parametrize("stage", FOLLOWERS, ids=lambda stage: stage.kind)
def test_the_classifier_is_an_input_only_where_it_is_read(stage: EncoderSource) -> None:
    assert "classifier" not in stage.used_slots()
    assert "classifier" in replace(stage, encoder_from="classifier").used_slots()


def test_another_encoder_than_the_classifiers_is_refused(tmp_path: Path, trained: Instance) -> None:
    stage = TrainSegmenter(encoder="resnet50", pretrained="none", encoder_from="classifier")
    with pytest.raises(
        ValueError, match=r"follower\.encoder = 'resnet50' cannot start as train_classifier's.*test_resn"
    ):
        stage.check(follower(stage, tmp_path, trained))


def test_a_name_that_timm_does_not_know_is_refused() -> None:
    TrainAffinity(encoder=ENCODER).check_environment()
    with pytest.raises(ValueError, match=r"encoder: no encoder is called 'resnet_50'; did you mean"):
        TrainAffinity(encoder="resnet_50").check_environment()
