from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from wsss.models.affinitynet import AffinityNet
from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder, check_encoder
from wsss.models.vgg import dilate_fc6, vgg_state


def spec(name: str, **settings: object) -> EncoderSpec:
    given = {"output_stride": 8, "dilated": True, "pretrained": "none", **settings}
    return EncoderSpec(name=name, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("vgg16_ficklenet", (41, 9)),
        ("vgg16_npa", (40, 8)),
        ("vgg16_npa_4conv", (40, 8)),
        ("vgg16_affinitynet", (41, 9)),
    ],
)
def test_grid_is_the_published_one(name: str, grid: tuple[int, int]) -> None:
    encoder = build_encoder(spec(name)).eval()
    with torch.inference_mode():
        features = encoder(torch.zeros(1, 3, 321, 65))
    channels = 1024 if name == "vgg16_affinitynet" else 512
    assert features.shape == (1, channels, *grid)
    assert encoder.num_features == channels and encoder.pyramid_strides == (2, 4, 8, 8, 8)


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
    ("name", "base", "added"),
    [
        ("vgg16_ficklenet", "vgg16", 0),
        ("vgg16_npa", "vgg16_bn", 6),
        ("vgg16_npa_4conv", "vgg16_bn", 8),
        ("vgg16_affinitynet", "vgg16", 4),
    ],
)
def test_weights_of_timms_network_fit_and_the_rest_is_new(name: str, base: str, added: int, tmp_path: Path) -> None:
    torch.manual_seed(1)
    original = timm.create_model(base, mlp_ratio=1 / 4096).state_dict()
    wanted = {key: value for key, value in original.items() if key.startswith("features.")}
    save_file(original, tmp_path / "weights.safetensors")
    encoder = build_encoder(spec(name, pretrained=str(tmp_path / "weights.safetensors")))
    state = encoder.network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())
    new = {id(parameter) for parameter in encoder.new_parameters()}
    assert len(new) == added
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


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def test_layers_of_affinitynet() -> None:
    layers = list(build_encoder(spec("vgg16_affinitynet")).network.features)
    pools = [layer for layer in layers if isinstance(layer, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride, pool.padding) for pool in pools] == [*[(3, 2, 1)] * 3, (3, 1, 1)]
    *_, fc6, fc7 = convolutions(nn.Sequential(*layers))
    assert (fc6.in_channels, fc6.out_channels, fc6.kernel_size, fc6.dilation) == (512, 1024, (3, 3), (1, 1))
    assert (fc7.in_channels, fc7.out_channels, fc7.kernel_size) == (1024, 1024, (1, 1))
    kinds = [type(layer) for layer in layers[layers.index(fc6) :]]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Dropout2d, nn.Conv2d, nn.ReLU]


def test_levels_of_affinitynet_as_defined() -> None:
    """conv4 and conv5 after their last ReLU, before any pool, and fc7."""
    torch.manual_seed(0)
    encoder = build_encoder(spec("vgg16_affinitynet")).eval()
    x, wanted = torch.randn(1, 3, 40, 24), {}
    with torch.inference_mode():
        found = encoder.pyramid(x)
        weights = convolutions(encoder.network.features)
        names = [
            "1_1",
            "1_2",
            "2_1",
            "2_2",
            "3_1",
            "3_2",
            "3_3",
            "4_1",
            "4_2",
            "4_3",
            "5_1",
            "5_2",
            "5_3",
            "fc6",
            "fc7",
        ]
        for name, layer in zip(names, weights, strict=True):
            dilation = 2 if name.startswith("5") else 1
            padding = 0 if name == "fc7" else dilation
            x = torch.conv2d(x, layer.weight, layer.bias, padding=padding, dilation=dilation).relu()
            wanted[name] = x
            if name in ("1_2", "2_2", "3_3", "4_3"):
                x = nn.functional.max_pool2d(x, 3, stride=1 if name == "4_3" else 2, padding=1)
            wanted[f"{name} pooled"] = x
    kept = ("1_2 pooled", "2_2 pooled", "4_3", "5_3", "fc7")
    torch.testing.assert_close(found, [wanted[name] for name in kept], rtol=1e-4, atol=1e-5)
    assert not encoder.ends_beyond_pyramid


CAFFE = {"mean": (0.4810784, 0.4575255, 0.4078745), "std": (1 / 255,) * 3}


def test_weights_with_caffes_names(tmp_path: Path) -> None:
    """Every layer gets its own; the first reads blue, green, red in the file, and red, green, blue here."""
    torch.manual_seed(3)
    encoder = build_encoder(spec("vgg16_affinitynet"))
    shapes = [tuple(layer.weight.shape) for layer in convolutions(encoder.network)]
    blocks = ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3))
    names = [f"conv{block}_{n}" for block, count in blocks for n in range(1, count + 1)] + ["fc6", "fc7"]
    file = {f"{name}.weight": torch.randn(shape) for name, shape in zip(names, shapes, strict=True)}
    file |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in zip(names, shapes, strict=True)}
    file["fc8.weight"] = torch.randn(20, 1024, 1, 1)
    path = tmp_path / "vgg16_cls.safetensors"
    save_file(file, path)
    loaded = build_encoder(spec("vgg16_affinitynet", pretrained=str(path)))
    assert list(loaded.new_parameters()) == []
    for name, layer in zip(names, convolutions(loaded.network), strict=True):
        wanted = file[f"{name}.weight"]
        assert torch.equal(layer.weight, wanted[:, [2, 1, 0]] if name == "conv1_1" else wanted), name
        assert layer.bias is not None and torch.equal(layer.bias, file[f"{name}.bias"]), name

    check_encoder(spec("vgg16_affinitynet", pretrained=str(path)), **CAFFE)
    with pytest.raises(ValueError, match=r"weights with Caffe's names need mean = \[0.48.* and std = \[0.0039216, "):
        check_encoder(spec("vgg16_affinitynet", pretrained=str(path)), mean=CAFFE["mean"], std=(0.2, 0.2, 0.2))
    save_file({key: value for key, value in file.items() if key != "fc7.bias"}, path)
    with pytest.raises(ValueError, match=r"does not fit encoder 'vgg16_affinitynet'.*1 missing \(features.34.bias"):
        check_encoder(spec("vgg16_affinitynet", pretrained=str(path)), **CAFFE)
    with pytest.raises(ValueError, match=r"does not fit encoder 'vgg16_affinitynet'.*1 missing \(features.34.bias"):
        build_encoder(spec("vgg16_affinitynet", pretrained=str(path)))


def test_fully_connected_layers_of_timms_network_are_sampled() -> None:
    """Every fourth unit, and taps 0, 3 and 6 of the 7 x 7 kernel."""
    torch.manual_seed(4)
    network = build_encoder(spec("vgg16_affinitynet")).network
    state = {key: value.clone() for key, value in network.state_dict().items() if int(key.split(".")[1]) < 30}
    assert vgg_state(network, state).keys() == state.keys()
    shapes = {
        "fc1.weight": (4096, 512, 7, 7),
        "fc2.weight": (4096, 4096, 1, 1),
        "fc1.bias": (4096,),
        "fc2.bias": (4096,),
    }
    whole = {f"pre_logits.{name}": torch.randn(shape) for name, shape in shapes.items()}
    found = vgg_state(network, {**state, **whole, "head.fc.weight": torch.zeros(1)})
    assert found.keys() == network.state_dict().keys()
    fc1, fc2 = whole["pre_logits.fc1.weight"], whole["pre_logits.fc2.weight"]
    for out, unit, y, x in ((0, 0, 0, 0), (1, 511, 2, 1), (1023, 7, 1, 2)):
        assert found["features.31.weight"][out, unit, y, x] == fc1[4 * out, unit, 3 * y, 3 * x]
        assert found["features.34.weight"][out, unit] == fc2[4 * out, 4 * unit]
    assert torch.equal(found["features.31.bias"], whole["pre_logits.fc1.bias"][::4])
    network.load_state_dict(found)


def test_affinitynet_dilates_fc6_by_four() -> None:
    network = AffinityNet(build_encoder(spec("vgg16_affinitynet")))
    fc6 = convolutions(network.encoder.network)[-2]
    assert fc6.dilation == fc6.padding == (4, 4)
    assert [branch[0].in_channels for branch in network.branches] == [512, 512, 1024]  # type: ignore[index, union-attr]
    frozen = [not layer.weight.requires_grad for layer in convolutions(network.encoder.network)]
    assert frozen == [True] * 4 + [False] * 11
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        near = network.eval()(image)
        dilate_fc6(network.encoder.network, dilation=1)
        assert network(image).shape == near.shape and not torch.allclose(network(image), near)
