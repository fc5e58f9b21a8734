from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from wsss.models import inference
from wsss.models.affinitynet import AffinityNet
from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.models.inference import for_inference
from wsss.models.irnet import IRNet
from wsss.models.norm import freeze_batch_norm
from wsss.models.packed_convolution import DifferentiablePackedConv2d, PackedConv2d, can_pack
from wsss.models.segmenter import build_segmenter
from wsss.models.stage_gradients import StageGradients

SIZE = (75, 106)


def used(network: nn.Module) -> nn.Module:
    """Statistics and factors as after a training: none is zero or one."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for value, (low, high) in (
                    (layer.running_mean, (-0.3, 0.3)),
                    (layer.running_var, (0.6, 1.7)),
                    (layer.weight, (0.7, 1.4)),
                    (layer.bias, (-0.3, 0.3)),
                ):
                    assert value is not None
                    value.copy_(low + (high - low) * torch.rand(value.shape, generator=generator))
    return network.eval()


def encoder(name: str, **changes: object) -> nn.Module:
    torch.manual_seed(1)
    spec = {"output_stride": 16, "dilated": True, "pretrained": "none"} | changes
    return build_encoder(EncoderSpec(name=name, **spec))  # type: ignore[arg-type]


def agree(network: nn.Module, look: Callable[[nn.Module, Tensor], Tensor] = lambda n, x: n(x)) -> nn.Module:
    """Equal outputs, at another size and batch than the probe's; returns the copy."""
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    made = for_inference(network, look=look)
    with torch.inference_mode():
        expected, found = look(network, images), look(made, images)
        assert torch.equal(look(network, images), expected), "the network itself has changed"
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
    return made


def count(network: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(layer, kinds) for layer in network.modules())


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "folded"])
@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18", "regnetx_002"])
def test_all_norms_are_folded_and_the_outputs_stay(name: str, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if packed and not can_pack():
        pytest.skip("NOT RUN: this torch has no oneDNN")
    monkeypatch.setattr(inference, "can_pack", lambda: packed)
    network = used(encoder(name))
    made = agree(network)
    assert count(network, nn.BatchNorm2d) > 10 and not count(made, nn.BatchNorm2d)
    assert count(made, PackedConv2d) == (count(network, nn.Conv2d) if packed else 0)


def test_convolutions_that_pad_by_themselves_are_folded_but_not_packed() -> None:
    network = used(encoder("tf_efficientnet_b0", output_stride=32, pad_type="same"))
    made = agree(network)
    assert not count(made, nn.BatchNorm2d) and count(made, nn.Conv2d) > 0


def test_a_network_without_batch_norm_stays_as_it_is() -> None:
    agree(used(encoder("convnext_atto", output_stride=32)))


def test_networks_of_the_stages() -> None:
    classifier = Classifier(encoder("mobilenetv2_100"), num_classes=5, head="linear")  # type: ignore[arg-type]
    made = agree(used(classifier), look=lambda network, x: network.features(x))  # type: ignore[operator]
    assert torch.equal(made.cam_weights, classifier.cam_weights)  # type: ignore[attr-defined]
    irnet = IRNet(encoder("mobilenetv2_100", dilated=False))  # type: ignore[arg-type]
    agree(used(irnet), look=lambda network, x: network.edge_logits(x))  # type: ignore[operator]
    agree(used(irnet), look=lambda network, x: torch.cat([one.flatten(1) for one in network(x)], 1))


def test_frozen_norms_are_folded_too() -> None:
    network = used(encoder("mobilenetv2_100"))
    freeze_batch_norm(network)
    assert not count(agree(network), nn.BatchNorm2d)


class TwoReaders(nn.Module):
    """A convolution whose output is read by a norm and by an addition that no module shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y + self.norm(y)


class TwoRuns(nn.Module):
    """A convolution that runs twice, before a norm and without one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.norm(self.conv(x)))
        return y


@pytest.mark.parametrize("kind", [TwoReaders, TwoRuns])
def test_a_layer_with_two_uses_is_left_alone(kind: type[nn.Module]) -> None:
    torch.manual_seed(4)
    assert count(agree(used(kind())), nn.BatchNorm2d) == 1


def test_the_fold_by_hand() -> None:
    """w = 2, b = 1; the norm has mean 3, variance 4, factor 5, term 6: y = (2 x + 1 - 3) / 2 * 5 + 6 = 5 x + 1."""
    conv, norm = nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([2.0, 0.0, 0.0]).view(1, 3, 1, 1))
        conv.bias.fill_(1.0)  # type: ignore[union-attr]
        for value, number in ((norm.running_mean, 3.0), (norm.running_var, 4.0), (norm.weight, 5.0), (norm.bias, 6.0)):
            value.fill_(number)  # type: ignore[union-attr]
    made = for_inference(nn.Sequential(conv, norm).eval())
    with torch.inference_mode():
        y = made(torch.tensor([1.0, 7.0, 7.0]).view(1, 3, 1, 1).expand(1, 3, 4, 5))
    torch.testing.assert_close(y, torch.full((1, 1, 4, 5), 6.0))


def test_every_operation_that_it_needs_is_in_this_torch() -> None:
    """If an update of torch renames them, inference becomes slower without a word: this test says so."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("NOT RUN: this torch has no oneDNN")
    assert can_pack()


def test_segmenters_and_affinity_networks() -> None:
    segmenter = build_segmenter(
        EncoderSpec(name="mobilenetv2_100", output_stride=16, dilated=True, pretrained="none"),
        num_classes=5,
        atrous_rates=(6, 12, 18),
        decoder_channels=32,
    )
    assert not count(agree(used(segmenter)), nn.BatchNorm2d)
    agree(used(AffinityNet(encoder("mobilenetv2_100", output_stride=8))))  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_encoder_whose_norms_stand_before_the_convolutions() -> None:
    network = used(encoder("resnet38", output_stride=8))
    made = agree(network)
    assert 0 < count(made, nn.BatchNorm2d) < count(network, nn.BatchNorm2d)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "folded"])
def test_a_folded_network_that_keeps_its_gradients(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of a logit in every stage are those of the network itself."""
    if packed and not can_pack():
        pytest.skip("NOT RUN: this torch has no oneDNN")
    monkeypatch.setattr(inference, "can_pack", lambda: packed)
    torch.manual_seed(4)
    spec = EncoderSpec(name="test_efficientnet", output_stride=16, dilated=False, pretrained="none")
    network = Classifier(build_encoder(spec), num_classes=3, head="linear")
    with torch.no_grad():
        for _ in range(3):  # running statistics that are not 0 and 1
            network(torch.randn(4, 3, 64, 96) * 2 + 1)
    network.eval()
    folded = for_inference(network, look=lambda one, images: one.stages(images, finest_stride=4)[1], gradients=True)
    norms = [sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in one.modules()) for one in (network, folded)]
    assert norms[0] > norms[1]
    assert (count(folded, DifferentiablePackedConv2d) > 10) is packed
    image = torch.randn(2, 3, 48, 80)
    wanted = StageGradients(network, finest_stride=4)(image, classes=[[2], [3]])
    found = StageGradients(folded, finest_stride=4)(image, classes=[[2], [3]])
    for one, other in zip(next(wanted.gradients), next(found.gradients), strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))
