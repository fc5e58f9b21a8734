"""Each objective against its definition written as loops, on a network that gives fixed outputs."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from wsss.losses.masked_mean import MaskedSum
from wsss.tasks.classification import ClassificationTask, Objective
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.task import TaskOutput, combine


class Fixed(nn.Module):
    """A network whose output is a parameter."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.head = nn.ParameterDict({"output": nn.Parameter(output)})
        self.decoder_parts = [self.head]
        self.encoder = SimpleNamespace(new_parameters=lambda: iter(()))

    def forward(self, image: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.head["output"]


def classified(logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor, **objective: Any) -> TaskOutput:
    network: Any = Fixed(logits)
    task = ClassificationTask(network, objective=Objective(**objective), synchronise_norms=False)
    return task({"image": torch.zeros(len(logits), 3, 2, 2), "target": target, "known": known})


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5, 7, generator=generator)
    target = (torch.rand(5, 7, generator=generator) < 0.4).float()
    return logits, target, (torch.rand(5, 7, generator=generator) < 0.7).float()


def pair_loss(logit: float, there: bool, loss: str) -> float:
    """One (image, class), as the papers write it."""
    p = 1 / (1 + math.exp(-logit))
    if loss == "asymmetric":
        shifted = max(p - 0.05, 0)
        return -((1 - p) ** 1.0) * math.log(p) if there else -(shifted**4.0) * math.log(1 - shifted)
    p_true = p if there else 1 - p
    return -math.log(p_true) * ((1 - p_true) ** 2 if loss == "focal" else 1)


@pytest.mark.parametrize("loss", ["bce", "focal", "asymmetric"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classification_by_its_definition(loss: str, smoothing: float) -> None:
    logits, target, known = drawn()
    found = classified(logits, target, known, loss=loss, label_smoothing=smoothing)
    total = 0.0
    for b, c in torch.nonzero(known).tolist():
        share = float(target[b, c]) * (1 - smoothing) + smoothing / 2
        for weight, there in ((share, True), (1 - share, False)):
            total += weight * pair_loss(float(logits[b, c]), there, loss)
    assert found.total().item() == pytest.approx(total / int(known.sum()), rel=1e-5)
    assert int(found.terms["classification"].count) == int(known.sum())


def test_soft_margin_is_torchs_and_averages_over_images() -> None:
    logits, target, known = drawn()
    everything = torch.ones_like(known)
    expected = torch.nn.functional.multilabel_soft_margin_loss(logits, target)
    assert classified(logits, target, everything, loss="soft_margin").total().item() == pytest.approx(expected.item())
    known[0] = 0
    per_image = [
        sum(pair_loss(float(logits[b, c]), bool(target[b, c]), "bce") for c in range(7) if known[b, c]) / known[b].sum()
        for b in range(1, 5)
    ]
    found = classified(logits, target, known, loss="soft_margin")
    assert found.total().item() == pytest.approx(float(sum(per_image)) / 4, rel=1e-5)


@pytest.mark.parametrize("loss", ["bce", "soft_margin"])
@pytest.mark.parametrize("mixing", ["none", "mixup"])
def test_counts_are_known_before_the_network_has_run(loss: str, mixing: str) -> None:
    logits, target, known = drawn()
    known[1] = 0
    network: Any = Fixed(logits)
    task = ClassificationTask(network, objective=Objective(loss=loss, mixing=mixing), synchronise_norms=False)  # type: ignore[arg-type]
    torch.manual_seed(4)
    batch = {"image": torch.zeros(5, 3, 2, 2), "target": target, "known": known}
    prepared = task.prepare(batch)
    assert torch.equal(prepared["target"], target) == (mixing == "none")
    counts, terms = task.counts(prepared), task(prepared).terms
    assert {name: float(count) for name, count in counts.items()} == {n: float(t.count) for n, t in terms.items()}


def test_classes_weigh_where_they_are_shown() -> None:
    logits, target, known = drawn()
    weights = (1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 10.0)
    difference = (
        classified(logits, target, known, positive_weights=weights).total() - classified(logits, target, known).total()
    )
    extra = sum(
        (weights[c] - 1) * pair_loss(float(logits[b, c]), True, "bce")
        for b, c in torch.nonzero(known * target).tolist()
    )
    assert difference.item() == pytest.approx(extra / int(known.sum()), rel=1e-4)


@pytest.mark.parametrize("loss", ["bce", "soft_margin", "focal", "asymmetric"])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_extreme_logits_have_finite_gradients(loss: Any, gamma: float, margin: float) -> None:
    """17 is where 1 - sigmoid rounds to 0, -2.944439 where the probability is the margin."""
    logits = torch.tensor([[-80.0, 80.0, 0.0, -80.0, 80.0, 17.0, 20.0, -2.944439, -2.944439]])
    target = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]])
    network: Any = Fixed(logits)
    objective = Objective(loss=loss, focal_gamma=gamma, asymmetric_gammas=(gamma, gamma), asymmetric_margin=margin)
    task = ClassificationTask(network, objective=objective, synchronise_norms=False)
    task({"image": torch.zeros(1, 3, 2, 2), "target": target, "known": torch.ones(1, 9)}).total().backward()
    gradient = next(task.new_parameters()).grad
    assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 0


def test_segmentation_leaves_ignored_pixels_out() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 5, 7, generator=generator)
    label = torch.randint(0, 3, (2, 5, 7), generator=generator)
    label[torch.rand(2, 5, 7, generator=generator) < 0.3] = 255
    task = SegmentationTask(Fixed(logits), synchronise_norms=True)  # type: ignore[arg-type]
    found = task({"image": torch.zeros(2, 3, 5, 7), "label": label})
    losses = [
        -math.log(math.exp(float(logits[b, int(label[b, y, x]), y, x])) / float(logits[b, :, y, x].exp().sum()))
        for b in range(2)
        for y in range(5)
        for x in range(7)
        if label[b, y, x] != 255
    ]
    assert found.total().item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    found.total().backward()
    gradient = next(task.new_parameters()).grad
    assert gradient is not None
    ignored = (label == 255)[:, None].expand_as(gradient)
    assert (gradient[ignored] == 0).all() and (gradient[~ignored] != 0).all()


def weighted_batch() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 5, 7, 11, generator=generator)
    label = torch.randint(0, 5, (3, 7, 11), generator=generator)
    label[torch.rand(3, 7, 11, generator=generator) < 0.3] = 255
    weight = torch.rand(3, 7, 11, generator=generator)
    return logits, {"image": torch.zeros(3, 3, 7, 11), "label": label, "weight": weight}


def test_weights_make_a_weighted_mean_over_labelled_pixels() -> None:
    logits, batch = weighted_batch()
    task = SegmentationTask(Fixed(logits), synchronise_norms=True)  # type: ignore[arg-type]
    found = task(batch)
    total = weights = 0.0
    for b, y, x in torch.nonzero(batch["label"] != 255).tolist():
        cost = -float(logits[b, :, y, x].double().log_softmax(0)[batch["label"][b, y, x]])
        total, weights = total + float(batch["weight"][b, y, x]) * cost, weights + float(batch["weight"][b, y, x])
    assert found.total().item() == pytest.approx(total / weights, rel=1e-5)
    assert float(task.counts(batch)["cross_entropy"]) == pytest.approx(weights, rel=1e-5)
    ones = {**batch, "weight": torch.full_like(batch["weight"], 0.25)}
    without = {name: value for name, value in batch.items() if name != "weight"}
    assert task(ones).total().item() == pytest.approx(task(without).total().item(), rel=1e-5)


def test_weighted_parts_of_a_batch_add_up_to_the_whole() -> None:
    logits, batch = weighted_batch()
    whole = SegmentationTask(Fixed(logits), synchronise_norms=True)(batch)  # type: ignore[arg-type]
    tasks = [SegmentationTask(Fixed(part), synchronise_norms=True) for part in logits.split([1, 2])]  # type: ignore[arg-type]
    batches = [{name: value.split([1, 2])[part] for name, value in batch.items()} for part in (0, 1)]
    counts = {"cross_entropy": sum(t.counts(b)["cross_entropy"] for t, b in zip(tasks, batches, strict=True))}
    parts = [combine(t(b).terms, counts, {"cross_entropy": 1.0}, 0.0) for t, b in zip(tasks, batches, strict=True)]  # type: ignore[arg-type]
    assert sum(part.item() for part in parts) == pytest.approx(whole.total().item(), rel=1e-5)


def test_weights_of_zero_give_zero() -> None:
    logits, batch = weighted_batch()
    batch["weight"].zero_()
    assert SegmentationTask(Fixed(logits), synchronise_norms=True)(batch).total().item() == 0  # type: ignore[arg-type]


def test_batch_of_ignored_pixels_gives_zero() -> None:
    task = SegmentationTask(Fixed(torch.randn(1, 3, 2, 2)), synchronise_norms=True)  # type: ignore[arg-type]
    loss = task({"image": torch.zeros(1, 3, 2, 2), "label": torch.full((1, 2, 2), 255)}).total()
    loss.backward()
    assert loss.item() == 0
    gradient = next(task.new_parameters()).grad
    assert gradient is not None and gradient.isfinite().all()


def test_terms_of_two_ranks_divided_by_the_counts_of_both_make_the_mean_of_all() -> None:
    values = torch.tensor([1.0, 4.0, 2.0, 8.0, 5.0])
    weights = {"a": 0.5}
    parts = [
        TaskOutput({"a": MaskedSum(part.sum(), torch.tensor(len(part)))}, weights) for part in values.split([2, 3])
    ]
    counts = {"a": torch.tensor(5)}
    shares = [combine(part.terms, counts, weights, 0.0) for part in parts]
    assert float(sum(shares)) == pytest.approx(0.5 * float(values.mean()))
    assert float(sum(part.total() for part in parts)) / 2 != pytest.approx(0.5 * float(values.mean()))


def test_another_cost_takes_the_place_of_cross_entropy() -> None:
    logits, batch = weighted_batch()

    def cost(logits_BCHW: torch.Tensor, label_BHW: torch.Tensor) -> torch.Tensor:
        return logits_BCHW[:, 1].square().where(label_BHW != 255, 0.0)

    task = SegmentationTask(Fixed(logits), synchronise_norms=True, cost=cost, name="square")  # type: ignore[arg-type]
    labelled = batch["label"] != 255
    squares, weights = logits[:, 1].square()[labelled], batch["weight"][labelled]
    weighted = task(batch)
    assert set(weighted.terms) == set(task.counts(batch)) == {"square"}
    torch.testing.assert_close(weighted.total(), (squares * weights).sum() / weights.sum())
    del batch["weight"]
    torch.testing.assert_close(task(batch).total(), squares.mean())
    assert int(task.counts(batch)["square"]) == int(labelled.sum())
