"""IRNet: grids of any image size, a frozen encoder, a field centred in evaluation only."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.models.irnet import IRNet

SPEC = EncoderSpec(name="resnet10t", output_stride=16, dilated=False, pretrained="none")


def _irnet(spec: EncoderSpec = SPEC) -> IRNet:
    torch.manual_seed(0)
    return IRNet(build_encoder(spec))


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(64, 96), (67, 95), (33, 531)])
def test_both_outputs_lie_on_the_stride_4_grid(size: tuple[int, int], output_stride: int) -> None:
    irnet = _irnet(replace(SPEC, output_stride=output_stride)).eval()
    with torch.no_grad():
        edge_logits, displacement = irnet(torch.randn(2, 3, *size))
    grid = (-(-size[0] // 4), -(-size[1] // 4))
    assert edge_logits.shape == (2, 1, *grid)
    assert displacement.shape == (2, 2, *grid)


def test_branches_have_the_published_widths() -> None:
    irnet = _irnet()
    edge, displacement = dict(irnet.edge.named_parameters()), dict(irnet.displacement.named_parameters())
    assert [len(edge[f"levels.{level}.0.weight"]) for level in range(5)] == [32] * 5
    assert edge["join.weight"].shape == (1, 160, 1, 1)
    assert {layer.num_groups for layer in irnet.edge.modules() if isinstance(layer, nn.GroupNorm)} == {4}
    assert [len(displacement[f"levels.{level}.0.weight"]) for level in range(5)] == [64, 128, 256, 256, 256]
    assert displacement["coarse.0.weight"].shape == (256, 768, 1, 1)
    assert displacement["fine.0.weight"].shape == (256, 448, 1, 1)
    assert displacement["join.weight"].shape == (2, 256, 1, 1)


def test_gradient_reaches_every_parameter_of_the_branches_and_none_of_the_encoder() -> None:
    irnet = _irnet().train()
    edge_logits, displacement = irnet(torch.randn(2, 3, 67, 95))
    (edge_logits.square().mean() + displacement.square().mean()).backward()
    reached = {name for name, parameter in irnet.named_parameters() if parameter.grad is not None}
    branches = {name for name, _ in irnet.named_parameters() if name.startswith(("edge.", "displacement."))}
    assert reached == branches
    assert len(branches) < len(dict(irnet.named_parameters()))
    assert not any(parameter.requires_grad for parameter in irnet.encoder.parameters())


def test_training_leaves_the_statistics_of_the_encoder_alone() -> None:
    irnet = _irnet().train()
    assert irnet.edge.training
    assert not any(module.training for module in irnet.encoder.modules())
    before = {key: value.clone() for key, value in irnet.encoder.state_dict().items()}
    irnet(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in irnet.encoder.state_dict().items())


def test_mean_shift_is_subtracted_in_evaluation_and_travels_with_the_checkpoint() -> None:
    irnet, image = _irnet(), torch.randn(1, 3, 64, 96)
    irnet.mean_shift.copy_(torch.tensor([3.0, -5.0]))
    with torch.no_grad():
        raw = irnet.train()(image)[1]
        centred = irnet.eval()(image)[1]
    torch.testing.assert_close(raw[:, 0] - 3.0, centred[:, 0])
    torch.testing.assert_close(raw[:, 1] + 5.0, centred[:, 1])
    other = _irnet()
    other.load_state_dict(irnet.state_dict())
    assert other.mean_shift.tolist() == [3.0, -5.0]


def test_edge_logits_alone_are_those_of_the_whole() -> None:
    irnet, image = _irnet().eval(), torch.randn(1, 3, 67, 95)
    with torch.no_grad():
        torch.testing.assert_close(irnet.edge_logits(image), irnet(image)[0], rtol=0, atol=0)


def test_an_encoder_that_begins_at_stride_4_gives_its_finest_level_twice() -> None:
    irnet = _irnet(replace(SPEC, name="convnext_atto", dilated=True)).eval()
    assert irnet.encoder.pyramid_strides == (4, 8, 16, 16)
    with torch.no_grad():
        edge_logits, displacement = irnet(torch.randn(1, 3, 67, 95))
    assert edge_logits.shape == (1, 1, 17, 24) and displacement.shape == (1, 2, 17, 24)
    assert [level[0].in_channels for level in irnet.edge.levels] == [40, 40, 80, 160, 320]  # type: ignore[index, union-attr]


def test_an_encoder_of_other_levels_is_refused() -> None:
    encoder = build_encoder(SPEC)
    encoder.pyramid_strides = (4, 4, 8, 16, 16)
    with pytest.raises(ValueError, match=r"five levels of strides 2, 4, 8.* or four.*has \[4, 4, 8, 16, 16\]"):
        IRNet(encoder)
