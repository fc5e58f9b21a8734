"""The classifier's two heads against their definitions, and where the randomness comes from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from wsss.models.classifier import Classifier, StochasticHead
from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.ops.kept_draws import DrawKey
from wsss.ops.stochastic_cam import draw_masks

SPEC = EncoderSpec(name="resnet10t", output_stride=16, dilated=False, pretrained="none")
NUM_CLASSES = 7


def _classifier(head: str, *, kernel_size: int = 3, drop_rate: float = 0.5) -> Classifier:
    torch.manual_seed(0)
    encoder = build_encoder(SPEC)
    return Classifier(encoder, num_classes=NUM_CLASSES, head=head, kernel_size=kernel_size, drop_rate=drop_rate)


def test_linear_logits_are_the_mean_of_the_class_activation_maps() -> None:
    classifier, image = _classifier("linear").eval(), torch.randn(2, 3, 67, 95)
    assert classifier.cam_weights.shape == (NUM_CLASSES, 512)
    with torch.no_grad():
        features = classifier.features(image)
        assert features.shape == (2, 512, 5, 6)
        maps = torch.einsum("cd,bdhw->bchw", classifier.cam_weights, features)
        torch.testing.assert_close(classifier(image), maps.mean(dim=(2, 3)))


def test_stochastic_logits_in_evaluation_are_the_mean_over_masks() -> None:
    head = StochasticHead(11, num_classes=NUM_CLASSES, kernel_size=3, drop_rate=0.8).double()
    features = torch.randn(1, 11, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        found = head.eval()(features, generator=None)
        drawn = head.train()(features.expand(20_000, -1, -1, -1), generator=torch.Generator().manual_seed(1))
        noise = drawn.std(0) / len(drawn) ** 0.5
        assert ((found[0] - drawn.mean(0)).abs() < 5 * noise).all()
        by_taps = F.conv2d(features, 0.2 * head.weight, padding=1).mean((2, 3))
        centre = 0.8 * features.mean((2, 3)) @ head.weight[:, :, 1, 1].T
        torch.testing.assert_close(found, by_taps + centre)


def test_stochastic_logits_in_training_follow_the_masks_of_each_image() -> None:
    head = StochasticHead(11, num_classes=NUM_CLASSES, kernel_size=3, drop_rate=0.5).train()
    features = torch.randn(2, 11, 5, 7)
    masks = draw_masks(
        (5, 7), kernel_size=3, drop_rate=0.5, num_samples=2, key=DrawKey.drawn(torch.Generator().manual_seed(3))
    ).to(features)
    logits = head(features, generator=torch.Generator().manual_seed(3))
    padded = F.pad(features, (1, 1, 1, 1))
    expected = torch.zeros(2, NUM_CLASSES)
    for image in range(2):
        for dy in range(3):
            for dx in range(3):
                window = padded[image, :, dy : dy + 5, dx : dx + 7] * masks[image, dy * 3 + dx]
                expected[image] += head.weight[:, :, dy, dx] @ window.mean(dim=(1, 2))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(masks[0], masks[1])


def test_randomness_comes_from_the_generator_alone_and_only_in_training() -> None:
    classifier, image = _classifier("stochastic"), torch.randn(2, 3, 64, 64)
    classifier.encoder.eval()
    with torch.no_grad():
        logits = [classifier(image, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)
        assert not torch.allclose(logits[0], logits[2])
        with pytest.raises(ValueError, match=r"was given no generator; pass generator"):
            classifier(image)
        classifier.eval()
        torch.testing.assert_close(classifier(image), classifier(image), rtol=0, atol=0)


@pytest.mark.parametrize("head", ["linear", "stochastic"])
def test_gradient_reaches_every_parameter(head: str) -> None:
    classifier = _classifier(head).train()
    classifier(torch.randn(2, 3, 64, 64), generator=torch.Generator().manual_seed(1)).square().sum().backward()
    assert [name for name, parameter in classifier.named_parameters() if parameter.grad is None] == []


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"head is 'mlp'; allowed: linear, stochastic"):
        _classifier("mlp")
    with pytest.raises(ValueError, match=r"kernel_size is 4; allowed: odd numbers"):
        _classifier("stochastic", kernel_size=4)
    with pytest.raises(ValueError, match=r"drop_rate is 1\.0; allowed: at least 0 and below 1"):
        _classifier("stochastic", drop_rate=1.0)
    with pytest.raises(ValueError, match=r"num_classes is 0; it must be at least 1"):
        Classifier(build_encoder(SPEC), num_classes=0, head="linear")
