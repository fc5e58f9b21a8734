from __future__ import annotations

import pytest
import torch

from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.models.stage_gradients import StageGradients


def classifier(name: str = "test_efficientnet") -> Classifier:
    torch.manual_seed(1)
    spec = EncoderSpec(name=name, output_stride=16, dilated=False, pretrained="none")
    return Classifier(build_encoder(spec), num_classes=4, head="linear").eval()


def image() -> torch.Tensor:
    return torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("name", "finest", "channels"),
    [
        ("test_efficientnet", 4, [24, 32, 48, 64]),  # layers follow the last stage
        ("test_efficientnet", 16, [48, 64]),
        ("test_resnet", 4, [32, 48, 192]),  # its last stage is what the head reads
        ("test_resnet", 64, []),
    ],
)
def test_stages_before_the_last_layer(name: str, finest: int, channels: list[int]) -> None:
    network = classifier(name)
    with torch.no_grad():
        last, stages = network.stages(image(), finest_stride=finest)
        torch.testing.assert_close(last, network.features(image()))
        pyramid = network.encoder.pyramid(image())
    assert [of_stage.shape[1] for of_stage in stages] == channels
    assert all(48 // of_stage.shape[2] >= finest for of_stage in stages)
    for of_stage in stages:
        assert any(of_stage.shape == level.shape and torch.equal(of_stage, level) for level in pyramid)


def test_gradients_are_how_much_a_logit_changes() -> None:
    """Each gradient against the whole graph of each class and image alone, parameters' gradients included."""
    view = StageGradients(classifier(), finest_stride=8)(image(), classes=[[3, 1], [3, 1]])
    gradients = list(view.gradients)
    network = classifier()
    last, stages = network.stages(image(), finest_stride=8)
    logits = network.logits(last)
    torch.testing.assert_close(view.logits, logits.detach())
    assert len(gradients) == 2 and len(gradients[0]) == len(stages) == 3
    for place, class_id in enumerate([3, 1]):
        for number in range(2):
            expected = torch.autograd.grad(logits[number, class_id - 1], stages, retain_graph=True)
            for found, wanted in zip(gradients[place], expected, strict=True):
                torch.testing.assert_close(found[number], wanted[number], rtol=1e-4, atol=1e-7)
                assert wanted[number].abs().max() > 0


def test_images_with_fewer_classes_have_zeros_and_no_class_gives_no_gradient() -> None:
    gradients = list(StageGradients(classifier(), finest_stride=4)(image(), classes=[[2], [4, 1, 3]]).gradients)
    assert len(gradients) == 3 and not any(g[0].any() for g in gradients[1]) and all(g[1].any() for g in gradients[1])
    assert list(StageGradients(classifier(), finest_stride=4)(image(), classes=[[], []]).gradients) == []


def test_without_earlier_stages_there_is_an_empty_gradient_per_class() -> None:
    view = StageGradients(classifier("test_resnet"), finest_stride=64)(image(), classes=[[2], [4, 1, 3]])
    assert view.stages == [] and list(view.gradients) == [(), (), ()]


def test_nothing_is_left_behind() -> None:
    network = classifier()
    with torch.no_grad():  # as a stage calls it
        before = network(image())
        view = StageGradients(network, finest_stride=4)(image(), classes=[[1], [2]])
        list(view.gradients)
        torch.testing.assert_close(network(image()), before)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not view.last.requires_grad and not any(of_stage.requires_grad for of_stage in view.stages)


def test_classes_of_another_number_of_images() -> None:
    with pytest.raises(ValueError, match="classes of 1 images for a batch of 2"):
        StageGradients(classifier(), finest_stride=4)(image(), classes=[[1]])
