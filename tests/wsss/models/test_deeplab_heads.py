"""LargeFOV and ASPP: their published shapes, what a pixel sees, sizes, batches of one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from wsss.models.deeplab_heads import ASPP_RATES, LARGE_FOV_RATES, DeepLab, DeepLabHead, build_deeplab
from wsss.models.encoder import EncoderSpec

SPEC = EncoderSpec(name="resnet10t", output_stride=8, dilated=True, pretrained="none")
HEADS = pytest.mark.parametrize("rates", [LARGE_FOV_RATES, ASPP_RATES])


def head(rates: tuple[int, ...], hidden: int = 11) -> DeepLabHead:
    torch.manual_seed(0)
    return DeepLabHead(5, num_classes=3, rates=rates, hidden=hidden)


def small(rates: tuple[int, ...]) -> DeepLab:
    network = build_deeplab(SPEC, num_classes=3, rates=rates)
    network.head = DeepLabHead(network.encoder.num_features, num_classes=3, rates=rates, hidden=13)
    return network


@pytest.mark.parametrize(("rates", "wanted"), [(LARGE_FOV_RATES, (12,)), (ASPP_RATES, (6, 12, 18, 24))])
def test_published_shapes(rates: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    with torch.device("meta"):
        made = DeepLabHead(512, num_classes=21, rates=rates)
    shapes = [[tuple(layer.weight.shape) for layer in b if isinstance(layer, nn.Conv2d)] for b in made.branches]  # type: ignore[attr-defined]
    assert shapes == [[(1024, 512, 3, 3), (1024, 1024, 1, 1), (21, 1024, 1, 1)]] * len(wanted)
    assert tuple(branch[0].dilation[0] for branch in made.branches) == wanted  # type: ignore[index]


@HEADS
def test_hidden_channels_are_a_setting_and_never_taken_for_classes(rates: tuple[int, ...]) -> None:
    """Also where there are as many of them as classes: only the last layer starts small."""
    made = build_deeplab(SPEC, num_classes=32, rates=rates, hidden=32).head
    for branch in made.branches:
        deviations = [float(layer.weight.detach().std()) for layer in branch.modules() if isinstance(layer, nn.Conv2d)]
        assert min(deviations[:2]) > 0.02 > 0.015 > deviations[2] > 0.005


@HEADS
def test_a_pixel_sees_the_dilated_windows_around_it(rates: tuple[int, ...]) -> None:
    """Both poolings widen each of the nine places of a branch to 5x5."""
    features = torch.rand(1, 5, 67, 71, requires_grad=True)
    head(rates).eval()(features)[0, :, 33, 35].sum().backward()
    assert features.grad is not None
    seen = torch.nonzero(features.grad[0].abs().sum(0))
    allowed = {
        (33 + dy * rate + y, 35 + dx * rate + x)
        for rate in rates
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        for y in range(-2, 3)
        for x in range(-2, 3)
    }
    assert {(int(y), int(x)) for y, x in seen} <= allowed
    assert int((seen - torch.tensor([33, 35])).abs().max()) >= max(rates) - 1


def test_branches_are_added() -> None:
    whole, features = head(ASPP_RATES).eval(), torch.randn(2, 5, 13, 17)
    pooled = whole.pools(features)
    torch.testing.assert_close(whole(features), sum(branch(pooled) for branch in whole.branches))


@HEADS
@pytest.mark.parametrize("size", [(64, 96), (67, 95), (33, 17)])
def test_logits_have_the_size_of_the_image(rates: tuple[int, ...], size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert small(rates).eval()(torch.randn(2, 3, *size)).shape == (2, 3, *size)


def test_a_batch_of_one_trains_and_all_parts_learn() -> None:
    network = small(ASPP_RATES).train()
    network(torch.randn(1, 3, 67, 95)).square().mean().backward()
    gradients = [parameter.grad for parameter in network.head.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    new = [parameter for part in network.decoder_parts for parameter in part.parameters()]
    assert {id(p) for p in new} == {id(p) for p in network.head.parameters()}


def test_new_convolutions_of_the_encoder_are_new_parameters() -> None:
    with torch.device("meta"):
        network = build_deeplab(replace(SPEC, name="vgg16_npa"), num_classes=3, rates=LARGE_FOV_RATES)
    assert len(network.decoder_parts) == 4
    new = {id(parameter) for part in network.decoder_parts for parameter in part.parameters()}
    added = {id(parameter) for parameter in network.encoder.new_parameters()}
    assert len(added) == 6 and new == added | {id(parameter) for parameter in network.head.parameters()}


def test_refusals() -> None:
    with pytest.raises(ValueError, match="output_stride is 32; LargeFOV and ASPP allow 8 or 16"):
        build_deeplab(replace(SPEC, output_stride=32), num_classes=3, rates=ASPP_RATES)
    with pytest.raises(ValueError, match="num_classes is 1; at least 2"):
        build_deeplab(SPEC, num_classes=1, rates=ASPP_RATES)


@pytest.mark.parametrize("size", [(33, 41), (30, 47), (40, 32), (1, 9)])
def test_a_grid_from_corner_to_corner(size: tuple[int, int]) -> None:
    """Its pixels are those of the image that are 8 apart; an image is padded to 8 n + 1."""
    network = small(LARGE_FOV_RATES).eval()
    network.corner_to_corner = True
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        grid, extended = network.strided_logits(image)
        logits = network(image)
    assert extended == tuple(-(-(side - 1) // 8) * 8 + 1 for side in size) and logits.shape[-2:] == size
    assert grid.shape[-2:] == tuple((side - 1) // 8 + 1 for side in extended)
    inside = logits[..., ::8, ::8]
    torch.testing.assert_close(inside, grid[..., : inside.shape[-2], : inside.shape[-1]])


def test_vgg_of_ficklenet_has_a_grid_of_41_and_the_entrys_has_none() -> None:
    image = torch.zeros(1, 3, 321, 321)
    for name, fits in (("vgg16_ficklenet", True), ("vgg16_npa", False)):
        with torch.device("meta"):
            network = build_deeplab(replace(SPEC, name=name), num_classes=3, rates=LARGE_FOV_RATES)
            network.corner_to_corner = True
            if fits:
                assert network.strided_logits(image.to("meta"))[0].shape == (1, 3, 41, 41)
                continue
            with pytest.raises(ValueError, match=r"makes \[40, 40\] features, not \[41, 41\] from corner to corner"):
                network.strided_logits(image.to("meta"))


@pytest.mark.parametrize("side", [64, 65, 71])
@pytest.mark.parametrize("corners", [False, True])
def test_at_stride_16_the_rates_are_halved_and_the_grid_spans_the_image(side: int, corners: bool) -> None:
    spec = replace(SPEC, output_stride=16)
    network = build_deeplab(spec, num_classes=3, rates=ASPP_RATES, hidden=8).eval()
    assert [branch[0].dilation[0] for branch in network.head.branches] == [3, 6, 9, 12]  # type: ignore[index]
    network.corner_to_corner = corners
    image = torch.randn(1, 3, side, side)
    grid, spanned = network.strided_logits(image)
    if corners:
        assert spanned == ((side - 2) // 16 * 16 + 17,) * 2 and grid.shape[-1] == (spanned[0] - 1) // 16 + 1
    assert network(image).shape == (1, 3, side, side)
