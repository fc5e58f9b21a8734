"""ResNet-38: its grid, its levels by their definition, and weights with the names of the public code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from wsss.models.affinitynet import AffinityNet
from wsss.models.base_encoder import Encoder
from wsss.models.encoder import EncoderSpec, build_encoder, check_encoder
from wsss.models.published_encoders import load_published
from wsss.models.resnet38 import ResNet38, published_state

SPEC = EncoderSpec(name="resnet38", output_stride=8, dilated=True, pretrained="none")
NORM = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NARROW = 1 / 64


def narrow() -> ResNet38:
    """Random weights and statistics, a 64th of the channels; evaluation mode."""
    torch.manual_seed(2)
    network = ResNet38(width=NARROW)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.3, 0.3)
    return network.eval()


def published_names() -> dict[str, tuple[int, ...]]:
    """The parameters of the public classifier's encoder and their shapes, written out from its description."""
    shapes: dict[str, tuple[int, ...]] = {"conv1a.weight": (64, 3, 3, 3)}

    def norm(name: str, channels: int) -> None:
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{kind}"] = (channels,)

    def block(name: str, before: int, middle: int, after: int) -> None:
        norm(f"{name}.bn_branch2a", before)
        norm(f"{name}.bn_branch2b1", middle)
        shapes[f"{name}.conv_branch2a.weight"] = (middle, before, 3, 3)
        shapes[f"{name}.conv_branch2b1.weight"] = (after, middle, 3, 3)
        if before != after:
            shapes[f"{name}.conv_branch1.weight"] = (after, before, 1, 1)

    for stage, before, after, count in ((2, 64, 128, 3), (3, 128, 256, 3), (4, 256, 512, 6)):
        block(f"b{stage}", before, after, after)
        for number in range(1, count):
            block(f"b{stage}_{number}", after, after, after)
    for name, before in (("b5", 512), ("b5_1", 1024), ("b5_2", 1024)):
        block(name, before, 512, 1024)
    for name, before, after in (("b6", 1024, 2048), ("b7", 2048, 4096)):
        norm(f"{name}.bn_branch2a", before)
        norm(f"{name}.bn_branch2b1", after // 4)
        norm(f"{name}.bn_branch2b2", after // 2)
        shapes[f"{name}.conv_branch2a.weight"] = (after // 4, before, 1, 1)
        shapes[f"{name}.conv_branch2b1.weight"] = (after // 2, after // 4, 3, 3)
        shapes[f"{name}.conv_branch2b2.weight"] = (after, after // 2, 1, 1)
        shapes[f"{name}.conv_branch1.weight"] = (after, before, 1, 1)
    norm("bn7", 4096)
    return shapes


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = ResNet38().state_dict()
    found = {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert found == published_names()


@pytest.mark.parametrize("size", [(64, 48), (67, 41)])
def test_levels_as_defined(size: tuple[int, int]) -> None:
    """What enters the next stage, after its first norm and ReLU; every block written out."""
    network = narrow()
    encoder = Encoder(network)
    image = torch.randn(2, 3, *size)
    state = network.state_dict()

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        values = [state[f"{name}.{kind}"][:, None, None] for kind in ("running_mean", "running_var", "weight", "bias")]
        return ((x - values[0]) / (values[1] + 1e-5).sqrt() * values[2] + values[3]).relu()

    def conv(x: torch.Tensor, name: str, *, stride: int = 1, dilation: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return functional.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation)

    def block(x: torch.Tensor, name: str, *, stride: int = 1, dilations: tuple[int, int] = (1, 1)) -> torch.Tensor:
        entering = normed(x, f"{name}.bn_branch2a")
        out = conv(entering, f"{name}.conv_branch2a", stride=stride, dilation=dilations[0])
        out = conv(normed(out, f"{name}.bn_branch2b1"), f"{name}.conv_branch2b1", dilation=dilations[1])
        own = f"{name}.conv_branch1.weight" in state
        return out + (conv(entering, f"{name}.conv_branch1", stride=stride) if own else x)

    def bottleneck(x: torch.Tensor, name: str) -> torch.Tensor:
        entering = normed(x, f"{name}.bn_branch2a")
        out = conv(entering, f"{name}.conv_branch2a")
        out = conv(normed(out, f"{name}.bn_branch2b1"), f"{name}.conv_branch2b1", dilation=4)
        return conv(normed(out, f"{name}.bn_branch2b2"), f"{name}.conv_branch2b2") + conv(
            entering, f"{name}.conv_branch1"
        )

    with torch.no_grad():
        x, wanted = conv(image, "conv1a"), []
        for stage, count in ((2, 3), (3, 3), (4, 6)):
            x = block(x, f"b{stage}", stride=2)
            for number in range(1, count):
                x = block(x, f"b{stage}_{number}")
            wanted.append(normed(x, f"b{stage + 1}.bn_branch2a"))
        x = block(x, "b5", dilations=(1, 2))
        x = block(block(x, "b5_1", dilations=(2, 2)), "b5_2", dilations=(2, 2))
        wanted.append(normed(x, "b6.bn_branch2a"))
        wanted.append(normed(bottleneck(bottleneck(x, "b6"), "b7"), "bn7"))
        found = encoder.pyramid(image)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(encoder(image), wanted[-1], rtol=1e-3, atol=1e-4)
    assert encoder.pyramid_strides == (2, 4, 8, 8, 8) and not encoder.ends_beyond_pyramid
    grids = [tuple(level.shape[-2:]) for level in found]
    assert grids == [tuple(-(-side // stride) for side in size) for stride in (2, 4, 8, 8, 8)]


def test_dropout_of_the_last_two_stages() -> None:
    rates = [layer.p for layer in narrow().modules() if isinstance(layer, nn.Dropout2d)]
    assert rates == [0.3, 0.3, 0.5, 0.5]


def mxnet_name(key: str) -> str:
    """The inverse of the public conversion, for the names of its MXNet file."""
    if key == "conv1a.weight":
        return "arg:conv1a_weight"
    layer, kind = key.rsplit(".", 1)
    last = {"bias": "beta", "weight": "gamma", "running_mean": "moving_mean", "running_var": "moving_var"}[kind]
    prefix = "aux" if kind.startswith("running") else "arg"
    if layer == "bn7":
        return f"{prefix}:bn7_{last}"
    block, inner = layer.split(".")
    place = block[1] + ("b" + block.split("_")[1] if "_" in block else "a")
    branch = inner.split("_")[1]
    return f"arg:res{place}_{branch}_weight" if inner.startswith("conv") else f"{prefix}:bn{place}_{branch}_{last}"


@pytest.mark.parametrize("names", ["classifier", "affinitynet", "mxnet"])
def test_published_weights_load_strictly(names: str) -> None:
    wanted = {k: v for k, v in narrow().state_dict().items() if not k.endswith("num_batches_tracked")}
    heads = {"classifier": ["fc8.weight"], "affinitynet": ["f8_3.weight", "f8_4.weight", "f8_5.weight", "f9.weight"]}
    file = {**wanted, **{head: torch.zeros(1) for head in heads.get(names, ())}}
    if names == "mxnet":
        file = {mxnet_name(key): value for key, value in wanted.items()}
        file |= {"arg:linear1000_weight": torch.zeros(1), "arg:linear1000_bias": torch.zeros(1)}
        assert {"arg:res4b3_branch2b1_weight", "aux:bn2a_branch2a_moving_var", "arg:res6a_branch1_weight"} <= set(file)
    assert published_state(file).keys() == wanted.keys()
    torch.manual_seed(9)
    network = ResNet38(width=NARROW)
    load_published(network, file, name="resnet38", origin="file.safetensors")
    state = network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())
    file.pop(next(iter(file)))
    with pytest.raises(ValueError, match=r"file.safetensors does not fit encoder .*1 missing \(conv1a.weight"):
        load_published(network, file, name="resnet38", origin="file.safetensors")


def test_a_file_is_checked_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "narrow.safetensors"
    save_file(narrow().state_dict(), path)
    spec = EncoderSpec(name="resnet38", output_stride=8, dilated=True, pretrained=str(path))
    with pytest.raises(ValueError, match=r"narrow.safetensors' does not fit encoder 'resnet38'.* of another shape"):
        check_encoder(spec, **NORM)


def test_what_cannot_be_chosen_is_refused() -> None:
    imagenet = EncoderSpec(name="resnet38", output_stride=8, dilated=True, pretrained="imagenet")
    with pytest.raises(ValueError, match=r"pretrained = 'imagenet': timm has no weights for 'resnet38'; give the path"):
        build_encoder(imagenet)
    with pytest.raises(ValueError, match=r"timm has no weights for 'resnet38'"):
        check_encoder(imagenet, **NORM)
    with pytest.raises(ValueError, match=r"output_stride is 16; encoder 'resnet38' allows only output_stride = 8"):
        build_encoder(EncoderSpec(name="resnet38", output_stride=16, dilated=True, pretrained="none"))
    with torch.device("meta"), pytest.raises(ValueError, match="activation_checkpointing"):
        build_encoder(SPEC).checkpoint_activations()


def test_affinitynet_reads_conv4_conv5_and_conv6_without_normalisation() -> None:
    with torch.device("meta"):
        network = AffinityNet(build_encoder(SPEC), frozen_stride=2, normalised=False)
        assert network(torch.zeros(2, 3, 65, 96)).shape == (2, 448, 9, 12)
    assert [branch[0].in_channels for branch in network.branches] == [512, 1024, 4096]  # type: ignore[index, union-attr]
    assert not any(isinstance(layer, nn.GroupNorm) for layer in network.modules())
    frozen = {name.split(".")[0] for name, p in network.encoder.network.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1a", "b2", "b2_1", "b2_2", "b3"}  # of b3 only its first norm
    b3 = {name for name, p in network.encoder.network.b3.named_parameters() if not p.requires_grad}
    assert b3 == {"bn_branch2a.weight", "bn_branch2a.bias"}


def test_gradients_reach_every_level() -> None:
    encoder = Encoder(narrow())
    network = AffinityNet(encoder, frozen_stride=1, normalised=False)
    network(torch.randn(2, 3, 32, 40)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
