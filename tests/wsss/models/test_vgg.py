from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder


def spec(name: str, **settings: object) -> EncoderSpec:
    given = {"output_stride": 8, "dilated": True, "pretrained": "none", **settings}
    return EncoderSpec(name=name, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "grid"), [("vgg16_ficklenet", (41, 9)), ("vgg16_npa", (40, 8)), ("vgg16_npa_4conv", (40, 8))]
)
def test_grid_is_the_published_one(name: str, grid: tuple[int, int]) -> None:
    encoder = build_encoder(spec(name)).eval()
    with torch.inference_mode():
        features = encoder(torch.zeros(1, 3, 321, 65))
    assert features.shape == (1, 512, *grid)
    assert encoder.num_features == 512 and encoder.pyramid_strides == (2, 4, 8, 8, 8)


@pytest.mark.parametrize("name", ["vgg16_ficklenet", "vgg16_npa"])
def test_levels_stand_behind_the_pools(name: str) -> None:
    encoder = build_encoder(spec(name)).eval()
    with torch.inference_mode():
        shapes = [tuple(level.shape[1:]) for level in encoder.pyramid(torch.zeros(1, 3, 64, 96))]
    wanted = zip(encoder.pyramid_channels, encoder.pyramid_strides, strict=True)
    assert shapes == [(channels, 64 // stride, 96 // stride) for channels, stride in wanted]


def test_layers_of_npa() -> None:
    layers = list(build_encoder(spec("vgg16_npa")).network.features)
    pools = [layer for layer in layers if isinstance(layer, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride, pool.padding) for pool in pools] == [*[(2, 2, 0)] * 3, (3, 1, 1)]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [layer.dilation[0] for layer in convolutions] == [1] * 10 + [2] * 3 + [1] * 3
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in layers) == 13
    assert isinstance(layers[-1], nn.ReLU)


def test_the_slides_have_one_convolution_more_than_the_code() -> None:
    code, slides = (list(build_encoder(spec(name)).network.features) for name in ("vgg16_npa", "vgg16_npa_4conv"))
    assert len(slides) == len(code) + 2
    last = slides[-2]
    assert isinstance(last, nn.Conv2d) and (last.in_channels, last.out_channels, last.kernel_size) == (512, 512, (3, 3))
    shapes = [tuple(value.shape) for layer in slides[: len(code)] for value in layer.state_dict().values()]
    assert shapes == [tuple(value.shape) for layer in code for value in layer.state_dict().values()]
    new = list(build_encoder(spec("vgg16_npa_4conv")).new_parameters())
    assert len(new) == 8


def test_layers_of_ficklenet() -> None:
    layers = list(build_encoder(spec("vgg16_ficklenet")).network.features)
    pools = [layer for layer in layers if isinstance(layer, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride, pool.padding) for pool in pools] == [*[(3, 2, 1)] * 3, (3, 1, 1)]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [layer.dilation[0] for layer in convolutions] == [1] * 10 + [2] * 3
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)


@pytest.mark.parametrize(
    ("name", "base"), [("vgg16_ficklenet", "vgg16"), ("vgg16_npa", "vgg16_bn"), ("vgg16_npa_4conv", "vgg16_bn")]
)
def test_weights_of_timms_network_fit_and_the_rest_is_new(name: str, base: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    original = timm.create_model(base, mlp_ratio=1 / 4096).state_dict()
    wanted = {key: value for key, value in original.items() if key.startswith("features.")}
    save_file(original, tmp_path / "weights.safetensors")
    encoder = build_encoder(spec(name, pretrained=str(tmp_path / "weights.safetensors")))
    state = encoder.network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())
    new = {id(parameter) for parameter in encoder.new_parameters()}
    assert len(new) == {"vgg16_npa": 6, "vgg16_npa_4conv": 8, "vgg16_ficklenet": 0}[name]
    assert {
        key for key, value in encoder.network.named_parameters() if id(value) in new
    } == state.keys() - wanted.keys()


def test_new_convolutions_learn_at_the_heads_rate() -> None:
    from wsss.tasks.classification import ClassificationTask, Objective

    network = Classifier(build_encoder(spec("vgg16_npa")), num_classes=3, head="linear")
    task = ClassificationTask(network, objective=Objective(), synchronise_norms=False)
    assert len(list(task.new_parameters())) == 7


@pytest.mark.parametrize("settings", [{"output_stride": 16}, {"dilated": False}, {"pad_type": "same"}])
def test_what_cannot_be_chosen_is_refused(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=rf"{name} is .*; encoder 'vgg16_npa' allows only {name} = "):
        build_encoder(spec("vgg16_npa", **settings))


def test_weights_of_another_network(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"does not fit encoder 'vgg16_npa'.*missing"):
        build_encoder(spec("vgg16_npa", pretrained=str(tmp_path / "w.safetensors")))
