from __future__ import annotations

import pytest
import torch

from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.models.layer_gradients import LayerGradients
from wsss.ops.grad_cam import LAST_LAYER

SPEC = EncoderSpec(name="test_efficientnet", output_stride=16, dilated=False, pretrained="none")
LAYERS = ["blocks.2", "blocks.3.0.conv_dw", "conv_stem"]
CLASSES = [3, 1]


def classifier(head: str = "linear") -> Classifier:
    torch.manual_seed(1)
    return Classifier(build_encoder(SPEC), num_classes=4, head=head, kernel_size=3, drop_rate=0.5).eval()


def image() -> torch.Tensor:
    return torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("head", ["linear", "stochastic"])
def test_gradients_are_those_of_the_whole_graph(layer: str, head: str) -> None:
    activations, parts, num_pixels, _ = LayerGradients(classifier(head), layer=layer)(
        image(), classes=[CLASSES, CLASSES]
    )
    gradients = torch.stack(list(parts))
    network, kept = classifier(head), []
    network.encoder.network.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[-1]))
    logits = network(image())
    for place, class_id in enumerate(CLASSES):
        for number in range(2):
            (expected,) = torch.autograd.grad(logits[number, class_id - 1], kept[0], retain_graph=True)
            torch.testing.assert_close(gradients[place, number], expected[number], rtol=1e-4, atol=1e-7)
            assert gradients[place, number].abs().max() > 0
    torch.testing.assert_close(activations, kept[0].detach())
    assert num_pixels == 3 * 4


def test_at_the_last_layer_the_gradient_of_a_linear_head_is_its_weight_over_the_pixels() -> None:
    network = classifier()
    activations, parts, num_pixels, _ = LayerGradients(network, layer=LAST_LAYER)(image(), classes=[CLASSES, CLASSES])
    gradients = torch.stack(list(parts))
    torch.testing.assert_close(activations, network.features(image()).detach())
    rows = network.cam_weights.detach()[[2, 0]] / num_pixels
    torch.testing.assert_close(gradients, rows[:, None, :, None, None].expand_as(gradients))


def test_no_class_gives_no_gradient() -> None:
    _, gradients, _, _ = LayerGradients(classifier(), layer="blocks.2")(image(), classes=[[], []])
    assert list(gradients) == []


def test_every_image_has_classes_of_its_own() -> None:
    _, parts, _, _ = LayerGradients(classifier(), layer="blocks.2")(image(), classes=[[2], [4, 1, 3]])
    gradients = list(parts)
    assert len(gradients) == 3
    for number, present in enumerate([[2], [4, 1, 3]]):
        _, alone, _, _ = LayerGradients(classifier(), layer="blocks.2")(image()[[number]], classes=[present])
        for k, expected in enumerate(alone):
            torch.testing.assert_close(gradients[k][[number]], expected, rtol=1e-4, atol=1e-7)
    assert not gradients[1][0].any() and gradients[1][1].any()


def test_nothing_is_left_behind() -> None:
    network = classifier()
    before = network(image()).detach()
    look = LayerGradients(network, layer="blocks.1")
    list(look(image(), classes=[CLASSES, CLASSES])[1])
    torch.testing.assert_close(network(image()), before)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_unknown_layer_gets_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"no layer 'block.2'; there are 'last', .*blocks\.2"):
        LayerGradients(classifier(), layer="block.2")


def test_class_that_the_classifier_lacks() -> None:
    with pytest.raises(ValueError, match=r"class ids 1\.\.4"):
        LayerGradients(classifier(), layer=LAST_LAYER)(image(), classes=[[5], []])[1].__next__()
