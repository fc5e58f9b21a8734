"""Self-correcting networks' objectives by their definitions, on networks that give fixed outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.wsss.tasks.test_dsrg import Fixed
from wsss.models.correction import ConvSelfCorrection, CorrectedSegmenter
from wsss.tasks.self_correction import (
    AncillaryTargets,
    AncillaryTask,
    ConvTargets,
    CorrectionTask,
    EmFixedTargets,
    LinearTargets,
    SelfCorrectionTask,
    Targets,
)

SIZE, NUM_CLASSES = (8, 12), 3
FULL, WEAK = [0, 3], [1, 2, 4]


class Told(nn.Module):
    """An ancillary model that says what the boxes say, times a weight, plus the image's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))
        self.norm = nn.BatchNorm2d(NUM_CLASSES)

    def forward(self, image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        planes = F.interpolate(boxes.float(), size=image.shape[-2:], mode="nearest")
        return self.norm(self.weight * planes + image.mean(1, keepdim=True))


def drawn() -> tuple[torch.Tensor, dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, NUM_CLASSES, *SIZE, generator=generator)
    label = torch.randint(0, NUM_CLASSES, (5, *SIZE), generator=generator)
    label[:, :2] = 255
    label[WEAK] = torch.where(label[WEAK] == 255, 255, 0)
    boxes = torch.rand(5, NUM_CLASSES, 2, 3, generator=generator) < 0.5
    is_full = torch.tensor([n in FULL for n in range(5)])
    image = torch.randn(5, 3, *SIZE, generator=generator)
    return logits, {"key": list("abcde"), "image": image, "is_full": is_full, "label": label, "boxes": boxes}


def task(logits: torch.Tensor, targets: Targets, *, weight: float = 1.0) -> SelfCorrectionTask:
    network: Any = Fixed(logits.clone())
    return SelfCorrectionTask(network, targets, full_weight=weight, synchronise_norms=True)


def ancillary() -> Any:
    return Told()


def soft_loss(logits: torch.Tensor, target: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    cost = -(target * logits.log_softmax(1)).sum(1)
    return cost[label != 255].mean()


def variants(batch: dict[str, Any], logits: torch.Tensor) -> dict[str, tuple[Targets, torch.Tensor]]:
    reported = Told().eval()(batch["image"], batch["boxes"]).detach()[WEAK]
    own = logits[WEAK]
    corrector = ConvSelfCorrection(NUM_CLASSES)
    allowed = F.interpolate(batch["boxes"][WEAK].float(), size=SIZE, mode="nearest") > 0
    scores = torch.where(allowed, own + 5, -torch.inf)
    scores[:, 0] = own[:, 0] + 3
    linear = LinearTargets(ancillary(), first_alpha=30.0, last_alpha=0.5)
    linear.begin_step(2, num_steps=5)
    alpha = 30 * (0.5 / 30) ** 0.5
    return {
        "none": (AncillaryTargets(ancillary()), reported.softmax(1)),
        "linear": (linear, ((own + alpha * reported) / (1 + alpha)).softmax(1)),
        "conv": (ConvTargets(ancillary(), corrector), corrector(own, reported).softmax(1).detach()),
        "em_fixed": (
            EmFixedTargets(foreground_bias=5.0, background_bias=3.0),
            F.one_hot(scores.argmax(1), NUM_CLASSES).movedim(-1, 1).float(),
        ),
    }


@pytest.mark.parametrize("variant", ["none", "linear", "conv", "em_fixed"])
def test_loss_and_gradient_by_definition(variant: str) -> None:
    logits, batch = drawn()
    targets, wanted_target = variants(batch, logits)[variant]
    found = task(logits, targets, weight=2.0)
    found.train()
    output = found(batch)
    own = logits.clone().requires_grad_()
    loss = 2 * F.cross_entropy(own[FULL], batch["label"][FULL], ignore_index=255)
    loss = loss + soft_loss(own[WEAK], wanted_target, batch["label"][WEAK])
    terms = {name: output.terms[name].numerator / output.terms[name].count for name in ("full", "weak")}
    torch.testing.assert_close(2 * terms["full"] + terms["weak"], loss)
    output.total().backward()
    (gradient,) = torch.autograd.grad(loss, own)
    torch.testing.assert_close(next(found.network.parameters()).grad, gradient)
    assert {name: int(count) for name, count in found.counts(batch).items()} == {
        name: int(term.count) for name, term in output.terms.items()
    }


def test_the_correction_learns_from_masks_alone() -> None:
    logits, batch = drawn()
    targets = ConvTargets(ancillary(), ConvSelfCorrection(NUM_CLASSES))
    one = task(logits, targets)
    output = one(batch)
    assert output.weights == {"full": 1.0, "weak": 1.0, "correction": 1.0}
    reported = Told().eval()(batch["image"], batch["boxes"]).detach()
    corrected = targets.corrector(logits[FULL], reported[FULL])
    wanted = F.cross_entropy(corrected, batch["label"][FULL], ignore_index=255)
    torch.testing.assert_close(output.terms["correction"].numerator / output.terms["correction"].count, wanted)
    parameters = list(targets.corrector.parameters())
    gradients = torch.autograd.grad(wanted, parameters)
    output.total().backward()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    new = {id(parameter) for parameter in one.new_parameters()}
    assert {id(parameter) for parameter in parameters} < new


def test_the_correction_learns_under_autocast_too() -> None:
    """Its weights are cast to bf16 once for both of its uses, of which the target has no gradient."""
    logits, batch = drawn()
    torch.manual_seed(0)
    targets = ConvTargets(ancillary(), ConvSelfCorrection(NUM_CLASSES))
    task(logits, targets)(batch).total().backward()
    parameters = list(targets.corrector.parameters())
    plain = [torch.as_tensor(parameter.grad).clone() for parameter in parameters]
    targets.corrector.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        output = task(logits, targets)(batch)
    output.total().backward()
    for parameter, gradient in zip(parameters, plain, strict=True):
        assert parameter.grad is not None
        assert F.cosine_similarity(parameter.grad.flatten(), gradient.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("variant", ["none", "linear", "conv"])
def test_the_ancillary_model_stays_as_it_was_trained(variant: str) -> None:
    logits, batch = drawn()
    targets, _ = variants(batch, logits)[variant]
    one = task(logits, targets)
    one.train()
    before = {name: value.clone() for name, value in targets.state_dict().items() if "ancillary" in name}
    one(batch).total().backward()
    assert all(torch.equal(targets.state_dict()[name], value) for name, value in before.items()) and before
    frozen = targets.ancillary  # type: ignore[union-attr]
    assert not any(module.training for module in frozen.modules())  # type: ignore[union-attr]
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("kept", [FULL, WEAK])
@pytest.mark.parametrize("variant", ["linear", "conv", "em_fixed"])
def test_a_part_of_one_kind_has_the_same_terms_and_gradients(variant: str, kept: list[int]) -> None:
    logits, batch = drawn()
    targets, _ = variants(batch, logits)[variant]
    part = {name: value[kept] for name, value in batch.items() if isinstance(value, torch.Tensor)}
    one = task(logits[kept], targets)
    output = one(part)
    assert set(output.terms) == set(task(logits, targets).counts(batch))
    assert int(output.terms["weak" if kept == FULL else "full"].count) == 0
    output.total().backward()
    trained = [p for p in one.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_the_weight_of_the_ancillary_model_falls_with_the_steps() -> None:
    targets = LinearTargets(ancillary(), first_alpha=30.0, last_alpha=0.5)
    one = task(drawn()[0], targets)
    found = []
    for step in range(5):
        one.begin_step(step, num_steps=5)
        found.append(targets.alpha)
    assert found == pytest.approx([30 * (0.5 / 30) ** (k / 4) for k in range(5)])


def test_the_ancillary_model_learns_from_masks() -> None:
    _, batch = drawn()
    network = ancillary()
    output = AncillaryTask(network, synchronise_norms=True)(batch)
    wanted = F.cross_entropy(network(batch["image"], batch["boxes"]), batch["label"], ignore_index=255)
    torch.testing.assert_close(output.total(), wanted)


def test_the_second_stage_trains_both_as_if_alone() -> None:
    logits, batch = drawn()
    primary: Any = Fixed(logits.clone())
    network = CorrectedSegmenter(primary, ConvSelfCorrection(NUM_CLASSES))
    one = CorrectionTask(network, ancillary(), synchronise_norms=True)
    one.train()
    output = one(batch)
    reported = Told().eval()(batch["image"], batch["boxes"]).detach()
    own = logits.clone().requires_grad_()
    plain = F.cross_entropy(own, batch["label"], ignore_index=255)
    corrected = F.cross_entropy(network.corrector(logits, reported), batch["label"], ignore_index=255)
    torch.testing.assert_close(output.total(), plain + corrected)
    output.total().backward()
    torch.testing.assert_close(next(primary.parameters()).grad, torch.autograd.grad(plain, own)[0])
