from __future__ import annotations

import pytest
import torch

from wsss.models.ancillary import AncillarySegmenter, BoxEncoder
from wsss.models.encoder import EncoderSpec
from wsss.models.segmenter import build_segmenter


@pytest.fixture
def network() -> AncillarySegmenter:
    torch.manual_seed(0)
    spec = EncoderSpec(name="test_efficientnet", output_stride=16, dilated=False, pretrained="none")
    segmenter = build_segmenter(spec, atrous_rates=(12, 24, 36), num_classes=4, decoder_channels=16)
    return AncillarySegmenter(segmenter, num_classes=4).eval()


@torch.no_grad()
def test_logits_follow_the_boxes_where_they_are(network: AncillarySegmenter) -> None:
    image = torch.randn(2, 3, 61, 83)
    planes = torch.zeros(2, 4, 16, 21, dtype=torch.bool)
    planes[:, 0] = True
    others = planes.clone()
    others[1, 2, :4, :4], others[1, 0, :4, :4] = True, False
    plain, boxed = network(image, planes), network(image, others)
    assert plain.shape == (2, 4, 61, 83)
    torch.testing.assert_close(plain[0], boxed[0])
    change = (plain[1] - boxed[1]).abs().amax(0)
    assert change[:16, :16].mean() > 2 * change[40:, 60:].mean() > 0, "the pooling of the whole image sees it too"


@torch.no_grad()
def test_heat_maps_of_1_leave_the_segmenter_as_it_is(network: AncillarySegmenter) -> None:
    for boxes in (network.boxes_high, network.boxes_last):
        torch.nn.init.zeros_(boxes.convolution.weight)
    image = torch.randn(1, 3, 64, 48)
    planes = torch.rand(1, 4, 16, 12) < 0.5
    torch.testing.assert_close(network(image, planes), network.segmenter(image))


@torch.no_grad()
def test_heat_maps_are_the_sigmoid_of_a_convolution_of_the_nearest_planes() -> None:
    torch.manual_seed(1)
    encoder = BoxEncoder(3, 5)
    planes = torch.rand(1, 3, 8, 12) < 0.4
    heat = encoder(planes, size=torch.Size((4, 6)))
    nearest = planes[..., ::2, ::2].float()
    wanted = 2 * torch.sigmoid(
        torch.nn.functional.conv2d(nearest, encoder.convolution.weight, encoder.convolution.bias, padding=1)
    )
    torch.testing.assert_close(heat, wanted)
    none = encoder(torch.zeros(1, 3, 4, 6, dtype=torch.bool), size=torch.Size((4, 6)))
    torch.testing.assert_close(none, torch.ones_like(none))


def test_the_boxes_layers_start_from_scratch(network: AncillarySegmenter) -> None:
    new = {id(p) for part in network.decoder_parts for p in part.parameters()}
    assert {name.split(".")[0] for name, p in network.named_parameters() if id(p) in new} == {
        "segmenter",
        "boxes_high",
        "boxes_last",
    }
    assert not any(id(p) in new for p in network.encoder.parameters())
