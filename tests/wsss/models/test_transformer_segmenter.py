"""DeepLabv3+ on a vision transformer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsss.models.ancillary import AncillarySegmenter
from wsss.models.encoder import EncoderSpec
from wsss.models.inference import for_inference
from wsss.models.plain_smp import refuse_other_encoders
from wsss.models.segmenter import Segmenter, build_segmenter
from wsss.models.transformer_segmenter import TransformerDeepLabV3Plus
from wsss.models.vision_transformer import TransformerEncoder

SPEC = EncoderSpec(name="test_vit", output_stride=16, dilated=False, pretrained="none")


def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(SPEC, atrous_rates=(6, 12, 18), num_classes=5, decoder_channels=16)


def transformer(network: Segmenter) -> TransformerEncoder:
    assert isinstance(network.network, TransformerDeepLabV3Plus)
    return network.network.encoder.model


@pytest.mark.parametrize("size", [(64, 96), (67, 45), (33, 17), (1, 30)])
def test_logits_have_the_size_of_the_image(size: tuple[int, int]) -> None:
    network = segmenter().eval()
    with torch.no_grad():
        image = torch.randn(2, 3, *size)
        found = network(image)
        assert found.shape == (2, 5, *size)
        strided, extended = network.strided_logits(image)
        assert strided.shape[-2:] == (extended[0] // 4, extended[1] // 4) and not network.corner_to_corner
        whole = F.interpolate(strided, size=extended, mode="bilinear", align_corners=False)
        torch.testing.assert_close(whole[..., : size[0], : size[1]], found)


def test_the_decoder_reads_early_tokens_enlarged_four_times_and_the_last_ones() -> None:
    network, image = segmenter().eval(), torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        last, pyramid = transformer(network).last_and_pyramid(image)
        maps = network.network.encoder(image)
        assert [one.shape[1] for one in maps] == list(network.network.encoder.out_channels) == [3, 0, 64, 0, 0, 64]
        assert torch.equal(maps[5], last) and maps[2].shape == (1, 64, 8, 12)
        # Cells that tile the image: between two patches' centres the enlarged pixels lie at 1/8, 3/8, 5/8 and 7/8.
        one, other, between = pyramid[0][0, :, 0, 0], pyramid[0][0, :, 0, 1], maps[2][0, :, 0]
        for place, share in enumerate((1 / 8, 3 / 8, 5 / 8, 7 / 8)):
            torch.testing.assert_close(between[:, 2 + place], one * (1 - share) + other * share)
        assert torch.equal(between[:, 0], one) and torch.equal(between[:, 1], one)


def test_a_step_of_training_moves_all_parameters_and_lowers_the_loss() -> None:
    network = segmenter().train()
    image, label = torch.randn(2, 3, 32, 48), torch.randint(0, 5, (2, 32, 48))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(image), label)
        loss.backward()
        losses.append(float(loss.detach()))
        assert [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()] == []
        optimizer.step()
    assert losses[-1] < losses[0]


def test_a_batch_of_one_trains() -> None:
    network = segmenter().train()
    network(torch.randn(1, 3, 40, 48)).square().mean().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())


def test_parts_cover_all_parameters_once() -> None:
    network = segmenter()
    counted = [id(value) for part in (network.encoder, *network.decoder_parts) for value in part.parameters()]
    assert len(counted) == len(set(counted)) and set(counted) == {id(value) for value in network.parameters()}


def test_it_begins_with_the_weights_of_the_encoder_that_it_is_given() -> None:
    first = transformer(segmenter())
    network = build_segmenter(SPEC, atrous_rates=(6, 12, 18), num_classes=5, decoder_channels=16, encoder=first)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval().network.encoder(image)[5], first.eval()(image))


def test_the_norms_of_the_decoder_are_folded_for_inference() -> None:
    network, image = segmenter().train(), torch.randn(3, 3, 48, 64)
    with torch.no_grad():
        for _ in range(3):  # running statistics that are not 0 and 1
            network(image * 2 + 1)
        made = for_inference(network.eval())
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in made.modules())
        expected = network(image)
        torch.testing.assert_close(made(image), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_boxes_scale_both_levels() -> None:
    network = AncillarySegmenter(segmenter(), num_classes=5).train()
    planes = torch.zeros(2, 5, 8, 12, dtype=torch.bool)
    planes[:, 2, 2:6, 3:9] = True
    network(torch.randn(2, 3, 32, 48), planes).square().mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in network.boxes_high.parameters())
    assert all(value.grad is not None and value.grad.any() for value in network.boxes_last.parameters())


def test_segmentation_models_pytorch_has_no_such_network() -> None:
    with pytest.raises(ValueError, match=r"encoder = 'test_vit': .* no vision transformer; export --weights instead"):
        refuse_other_encoders(SPEC)
