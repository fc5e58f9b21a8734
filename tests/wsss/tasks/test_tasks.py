"""Each objective against its definition written as loops, on a network that gives fixed outputs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from wsss.losses.masked_mean import MaskedSum
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.task import TaskOutput, combine


class Fixed(nn.Module):
    """A network whose output is a parameter."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.head = nn.ParameterDict({"output": nn.Parameter(output)})
        self.decoder_parts = [self.head]

    def forward(self, image: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.head["output"]


@pytest.mark.parametrize("loss", ["bce", "focal"])
def test_classification_by_its_definition(loss: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5, 7, generator=generator)
    target = (torch.rand(5, 7, generator=generator) < 0.4).float()
    known = (torch.rand(5, 7, generator=generator) < 0.7).float()
    task = ClassificationTask(Fixed(logits), loss=loss, synchronise_norms=False)  # type: ignore[arg-type]
    found = task({"image": torch.zeros(5, 3, 2, 2), "target": target, "known": known})
    total, count = 0.0, 0
    for b in range(5):
        for c in range(7):
            if known[b, c]:
                probability = 1 / (1 + math.exp(-float(logits[b, c])))
                p_true = probability if target[b, c] else 1 - probability
                total += -math.log(p_true) * ((1 - p_true) ** 2 if loss == "focal" else 1)
                count += 1
    assert found.total().item() == pytest.approx(total / count, rel=1e-5)
    assert int(found.terms["classification"].count) == count


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
