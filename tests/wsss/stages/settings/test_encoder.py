from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.wsss.layers import instance_of, samples_of
from wsss.contract.fit import weights_path
from wsss.contract.stage import Instance
from wsss.stages.settings.encoder import EncoderSource
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


def test_a_segmenter_starts_from_a_classifiers_vision_transformer(tmp_path: Path) -> None:
    stage = TrainClassifier(**TRANSFORMER)
    trained = instance_of(stage, tmp_path, samples=samples_of(tmp_path, {"train-000000": []}))
    trained.path.mkdir()
    torch.manual_seed(7)
    state = stage.model(trained, pretrained=True).state_dict()
    save_file(state, weights_path(trained))
    segmenter = TrainSegmenter(**TRANSFORMER, decoder_channels=8, encoder_from="classifier")
    made = segmenter.model(follower(segmenter, tmp_path, trained), pretrained=True).state_dict()
    of_encoder = {name: value for name, value in state.items() if name.startswith("encoder.")}
    assert len(of_encoder) > 70
    assert all(torch.equal(made[f"network.encoder.model.{n[len('encoder.') :]}"], v) for n, v in of_encoder.items())


def test_another_encoder_than_the_classifiers_is_refused(tmp_path: Path, trained: Instance) -> None:
    stage = TrainSegmenter(encoder="resnet50", pretrained="none", encoder_from="classifier")
    with pytest.raises(
        ValueError, match=r"follower\.encoder = 'resnet50', but its encoder is initialised from train_clas.*test_resn"
    ):
        stage.check(follower(stage, tmp_path, trained))


def test_another_input_than_the_classifiers_is_refused(tmp_path: Path, trained: Instance) -> None:
    stage = TrainSegmenter(encoder=ENCODER, pretrained="none", encoder_from="classifier", pad_type="same")
    with pytest.raises(
        ValueError, match=r"follower\.pad_type = 'same', but its encoder is initialised from train_cl.* has ''"
    ):
        stage.check(follower(stage, tmp_path, trained))


ENVIRONMENTS: list[tuple[EncoderSource, str]] = [
    (TrainAffinity(encoder="resnet_50"), r"encoder: unknown encoder 'resnet_50'; did you mean"),
    (
        TrainClassifier(encoder="vgg16_npa", pretrained="none"),
        r"output_stride is 16; encoder 'vgg16_npa' allows only",
    ),
    (TrainClassifier(encoder="densenet121", pretrained="none"), r"'densenet121' does not support output_stride = 16"),
    (TrainClassifier(encoder="resnet10t", pretrained="none", pad_type="same"), "does not support pad_type = 'same'"),
    (
        TrainClassifier(encoder="vgg16_ficklenet", pretrained="none", output_stride=8, activation_checkpointing=True),
        "activation_checkpointing = True: timm does not support it",
    ),
    (
        TrainClassifier(encoder="resnet50", mean=(0.5, 0.5, 0.5)),
        r"mean = \[0.5, .* need mean = \[0.485, 0.456, 0.406\]",
    ),
    (TrainClassifier(encoder="vgg16_npa", pretrained="none", output_stride=8, drop_path=0.5), "drop_path is 0.5; enc"),
]

TRANSFORMER: dict[str, Any] = {"encoder": "test_vit", "pretrained": "none", "dilated": False}
ENVIRONMENTS += [
    (TrainClassifier(encoder="test_vit", pretrained="none"), r"dilated is True; .* allows only dilated = False"),
    (TrainClassifier(**TRANSFORMER, output_stride=8), r"output_stride is 8; .* allows only output_stride = 16"),
    (TrainClassifier(**TRANSFORMER, frozen_stride=4), r"frozen_stride = 4: .* set frozen_stride = 1"),
    (TrainClassifier(**TRANSFORMER, norm="batch"), r"norm = 'batch': the norms of encoder 'test_vit' .* 'frozen'"),
    (TrainClassifier(**TRANSFORMER, norm="synchronised"), r"norm = 'synchronised': .* set norm = 'frozen'"),
    (TrainSegmenter(**TRANSFORMER, norm="synchronised"), r"norm = 'synchronised': .* set norm = 'frozen'"),
    (TrainSegmenter(**TRANSFORMER, network="largefov", norm="batch"), r"norm = 'batch': .* set norm = 'frozen'"),
    (TrainAffinity(**TRANSFORMER), r"encoder = 'test_vit': IRNet and AffinityNet .* such as 'resnet50'"),
    (
        TrainAffinity(**TRANSFORMER, network="affinitynet", output_stride=8),
        r"encoder = 'test_vit': IRNet and AffinityNet .* such as 'resnet50'",
    ),
]


@pytest.mark.parametrize(("stage", "message"), ENVIRONMENTS, ids=lambda value: getattr(value, "encoder", ""))
def test_a_network_that_cannot_be_built_is_reported_before_anything_runs(
    stage: EncoderSource, message: str, tmp_path: Path, trained: Instance
) -> None:
    with pytest.raises(ValueError, match=message):
        stage.check_environment(follower(stage, tmp_path, trained))


TRANSFORMERS: list[EncoderSource] = [
    TrainClassifier(**TRANSFORMER, activation_checkpointing=True, drop_path=0.1),
    TrainSegmenter(**TRANSFORMER, decoder_channels=8, norm="batch"),  # that of the decoder
    TrainSegmenter(**TRANSFORMER, network="aspp", head_channels=8),
]


@pytest.mark.parametrize("stage", [*FOLLOWERS, *TRANSFORMERS], ids=lambda stage: f"{stage.kind}-{stage.encoder}")
def test_a_network_that_can_be_built_passes(stage: EncoderSource, tmp_path: Path, trained: Instance) -> None:
    stage.check_environment(follower(stage, tmp_path, trained))


def test_a_weight_file_that_does_not_fit_is_reported_before_anything_runs(tmp_path: Path, trained: Instance) -> None:
    right, wrong = tmp_path / "right.safetensors", tmp_path / "wrong.safetensors"
    state = timm.create_model(ENCODER).state_dict()
    save_file(state, right)
    first = next(iter(state))
    save_file({**state, first: state[first][..., :1].contiguous()}, wrong)
    fits, not_fits = (
        TrainClassifier(encoder=ENCODER, pretrained=str(path), output_stride=16) for path in (right, wrong)
    )
    fits.check_environment(follower(fits, tmp_path, trained))
    with pytest.raises(ValueError, match=f"wrong.safetensors' does not fit encoder '{ENCODER}'.*1 of another shape"):
        not_fits.check_environment(follower(not_fits, tmp_path, trained))


@pytest.mark.parametrize("encoder", ["vgg16_npa", "vgg16_ficklenet", "vgg16_affinitynet"])
def test_a_vggs_weight_file_fits_what_the_paper_changed(encoder: str, tmp_path: Path, trained: Instance) -> None:
    base = timm.create_model("vgg16_bn" if encoder == "vgg16_npa" else "vgg16", num_classes=0, mlp_ratio=1 / 4096)
    path = tmp_path / "vgg.safetensors"
    save_file(base.state_dict(), path)
    stage = TrainClassifier(encoder=encoder, pretrained=str(path), output_stride=8)
    stage.check_environment(follower(stage, tmp_path, trained))
