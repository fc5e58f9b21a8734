"""AffinityNet: its grid, its three branches on any encoder, and which of the encoder's weights stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from wsss.models.affinitynet import AffinityNet
from wsss.models.encoder import EncoderSpec, build_encoder

SPEC = EncoderSpec(name="resnet10t", output_stride=8, dilated=True, pretrained="none")
CONVOLUTIONS_BEYOND = EncoderSpec(name="test_efficientnet", output_stride=8, dilated=True, pretrained="none")


def network(spec: EncoderSpec = SPEC, *, frozen_stride: int = 4) -> AffinityNet:
    torch.manual_seed(0)
    return AffinityNet(build_encoder(spec), frozen_stride=frozen_stride)


@pytest.mark.parametrize(
    "name", ["resnet10t", "test_efficientnet", "vgg16_npa", "vgg16_ficklenet", "vgg16_affinitynet"]
)
@pytest.mark.parametrize("size", [(64, 96), (67, 95)])
def test_features_lie_on_the_stride_8_grid(name: str, size: tuple[int, int]) -> None:
    affinitynet = network(replace(SPEC, name=name)).eval()
    with torch.no_grad():
        features = affinitynet(torch.randn(2, 3, *size))
    assert features.shape == (2, 448, -(-size[0] // 8), -(-size[1] // 8))
    assert features.min() > -1  # after ELU
    assert features.std() > 0


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet10t", [128, 256, 512]),  # the last three stages
        ("mobilenetv2_100", [96, 320, 1280]),  # the last two and the convolution behind them
        ("vgg16_ficklenet", [256, 512, 512]),
        ("vgg16_npa", [512, 512, 512]),
    ],
)
def test_branches_read_the_last_three_maps(name: str, channels: list[int]) -> None:
    branches = network(replace(SPEC, name=name)).branches
    assert [branch[0].in_channels for branch in branches] == channels  # type: ignore[index, union-attr]
    assert [branch[0].out_channels for branch in branches] == [64, 128, 256]  # type: ignore[index, union-attr]
    assert [branch[1].num_groups for branch in branches] == [8, 16, 32]  # type: ignore[index, union-attr]
    assert all(isinstance(branch[2], nn.ELU) for branch in branches)  # type: ignore[index]


@pytest.mark.parametrize("spec", [SPEC, CONVOLUTIONS_BEYOND])
@pytest.mark.parametrize("frozen_stride", [1, 4, 8])
def test_first_stages_keep_their_weights(spec: EncoderSpec, frozen_stride: int) -> None:
    """What the map of the stride depends on, found by the definition: changing it changes the map."""
    affinitynet = network(spec, frozen_stride=frozen_stride).train()
    affinitynet(torch.randn(2, 3, 64, 64)).square().mean().backward()
    moved = {name for name, parameter in affinitynet.named_parameters() if parameter.grad is not None}
    assert moved >= {"join.0.weight", "branches.0.0.weight", "branches.2.1.bias"}
    image = torch.randn(1, 3, 64, 64)
    strides = affinitynet.encoder.pyramid_strides
    affinitynet.eval()
    for norm in (module for module in affinitynet.encoder.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # some start at 0, and hide what stands before them
    for name, parameter in affinitynet.encoder.named_parameters():
        if frozen_stride == 1:
            assert f"encoder.{name}" in moved
            continue
        with torch.no_grad():
            before = affinitynet.encoder.pyramid(image)[strides.index(frozen_stride)].clone()
            kept = parameter.clone()
            parameter.add_(torch.randn_like(parameter))
            changed = not torch.equal(affinitynet.encoder.pyramid(image)[strides.index(frozen_stride)], before)
            parameter.copy_(kept)
        assert changed == (f"encoder.{name}" not in moved), name


def test_another_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=r"three maps of stride 8; .* \[8, 16, 16\]: set output_stride = 8"):
        network(replace(SPEC, output_stride=16))


def test_a_stride_that_no_stage_ends_at_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stages end at strides 1, 2, 4, 8; 16 is not one of them"):
        network(frozen_stride=16)
