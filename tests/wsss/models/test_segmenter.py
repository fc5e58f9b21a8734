"""The segmenter: logits at any image size, batches of one, and the encoder's weights where they belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.models.segmenter import Segmenter, build_segmenter

WEIGHTS = Path(__file__).parents[4] / "shared" / "weights"
SPEC = EncoderSpec(name="resnet10t", output_stride=16, dilated=True, pretrained="none")


def _segmenter(spec: EncoderSpec = SPEC, num_classes: int = 5) -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(spec, atrous_rates=(12, 24, 36), num_classes=num_classes, decoder_channels=32)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("size", [(64, 96), (67, 95), (33, 17), (1, 130)])
def test_logits_have_the_size_of_the_image(size: tuple[int, int], output_stride: int) -> None:
    segmenter = _segmenter(replace(SPEC, output_stride=output_stride)).eval()
    with torch.no_grad():
        assert segmenter(torch.randn(2, 3, *size)).shape == (2, 5, *size)


def test_odd_sizes_are_extended_at_the_bottom_and_on_the_right_and_cropped_back() -> None:
    segmenter, image = _segmenter().eval(), torch.randn(1, 3, 45, 61)
    extended = F.pad(image, (0, 3, 0, 3), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(segmenter(image), segmenter(extended)[..., :45, :61], rtol=0, atol=0)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("size", [(64, 96), (67, 45)])
def test_strided_logits_are_the_logits_before_the_last_resize(size: tuple[int, int], output_stride: int) -> None:
    segmenter, image = _segmenter(replace(SPEC, output_stride=output_stride)).eval(), torch.randn(1, 3, *size)
    with torch.no_grad():
        strided, extended = segmenter.strided_logits(image)
        assert strided.shape[-2:] == (extended[0] // 4, extended[1] // 4)
        brought = F.interpolate(strided, size=extended, mode="bilinear", align_corners=True)
        torch.testing.assert_close(brought[..., : size[0], : size[1]], segmenter(image))


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv2_035"])
def test_a_batch_of_one_trains(name: str) -> None:
    segmenter = _segmenter(replace(SPEC, name=name)).train()
    segmenter(torch.randn(1, 3, 67, 95)).square().mean().backward()
    without = [name for name, parameter in segmenter.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in segmenter.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(
    ("name", "file", "pad_type", "reparameterised", "dilated"),
    [
        ("mobilenetv2_100", "mobilenetv2_100.safetensors", "same", False, True),
        ("mobilenetv2_100", "mobilenetv2_100.safetensors", "same", False, False),
        ("mobileone_s0", "mobileone_s0_reparam.safetensors", "", True, True),
    ],
)
def test_weight_file_reaches_the_encoder(
    name: str, file: str, pad_type: str, reparameterised: bool, dilated: bool
) -> None:
    path = WEIGHTS / file
    if not path.is_file():
        pytest.skip(f"no {file} in ../shared/weights")
    spec = EncoderSpec(
        name=name,
        output_stride=16,
        dilated=dilated,
        pretrained=str(path),
        pad_type=pad_type,
        reparameterised=reparameterised,
    )
    segmenter, image = _segmenter(spec).eval(), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps, expected = segmenter.encoder(image)[1:], build_encoder(spec).eval().pyramid(image)
    for map_BDhw, expected_BDhw in zip(maps, expected, strict=True):
        torch.testing.assert_close(map_BDhw, expected_BDhw, rtol=0, atol=0)


def test_parts_cover_all_parameters_once() -> None:
    segmenter = _segmenter()
    parts = [segmenter.encoder, *segmenter.decoder_parts]
    counted = [parameter for part in parts for parameter in part.parameters()]
    assert len(counted) == len({id(parameter) for parameter in counted})
    assert {id(parameter) for parameter in counted} == {id(parameter) for parameter in segmenter.parameters()}


@pytest.mark.parametrize("name", ["vgg16_npa", "resnet38"])
def test_an_encoder_that_timm_lacks_is_refused(name: str) -> None:
    spec = EncoderSpec(name=name, output_stride=8, dilated=True, pretrained="none")
    with pytest.raises(ValueError, match=rf"network = 'deeplabv3plus' needs .* encoder is '{name}'; set network"):
        build_segmenter(spec, atrous_rates=(12, 24, 36), num_classes=3)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"output_stride is 32; the segmenter allows 8 or 16"):
        _segmenter(replace(SPEC, output_stride=32))
    with pytest.raises(ValueError, match=r"num_classes is 1; at least 2"):
        _segmenter(num_classes=1)
    with pytest.raises(ValueError, match=r"unknown encoder 'resnet10'"):
        _segmenter(replace(SPEC, name="resnet10"))
