"""Pair losses of a batch cut in two are those of the whole: what ranks rely on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wsss.tasks.affinity import AffinityNetTask, IRNetTask
from wsss.tasks.task import Batch, Task, combine

RADIUS, NUM_CLASSES = 4, 3


class PerPixel(nn.Module):
    """A network of one linear map per pixel."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, num_outputs, 1).double()

    def forward(self, image: Tensor) -> Any:
        out: Tensor = self.layer(image)
        return (out[:, :1], out[:, 1:]) if out.shape[1] == 3 else out


def irnet_task() -> Task:
    network: Any = PerPixel(3)
    return IRNetTask(network, radius=RADIUS, num_classes=NUM_CLASSES)


def affinitynet_task() -> Task:
    network: Any = PerPixel(5)
    return AffinityNetTask(network, radius=RADIUS, num_classes=NUM_CLASSES)


def batch() -> Batch:
    """Four images; the second has no foreground, the third no decided pixel at all: parts count very differently."""
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, NUM_CLASSES + 1, (4, 11, 13), generator=generator)
    label = label.repeat_interleave(2, 1)[:, :11].repeat_interleave(3, 2)[..., :13]
    label[torch.rand(label.shape, generator=generator) < 0.2] = 255
    label[1][label[1] != 255] = 0
    label[2] = 255
    return {"image": torch.randn(4, 3, 11, 13, generator=generator, dtype=torch.float64), "label": label}


def part(whole: Batch, start: int, stop: int) -> Batch:
    return {name: value[start:stop] for name, value in whole.items()}


@pytest.mark.parametrize("make", [irnet_task, affinitynet_task])
def test_two_ranks_give_the_loss_and_the_gradient_of_one(make: Any) -> None:
    task, whole = make(), batch()
    wanted = task(whole)
    parameters = list(task.parameters())
    wanted_gradient = torch.autograd.grad(wanted.total(), parameters)
    counts = task.counts(whole)
    assert {name: int(term.count) for name, term in wanted.terms.items()} == {n: int(c) for n, c in counts.items()}
    assert min(int(count) for count in counts.values()) > 10
    parts = [part(whole, 0, 1), part(whole, 1, 4)]
    losses = [combine(task(one).terms, counts, wanted.weights, wanted.eps) for one in parts]
    assert float(sum(losses).detach()) == pytest.approx(float(wanted.total().detach()), rel=1e-5)  # type: ignore[attr-defined]
    gradients = [torch.autograd.grad(loss, parameters) for loss in losses]
    for one, two, both in zip(*gradients, wanted_gradient, strict=True):
        torch.testing.assert_close(one + two, both, rtol=0, atol=1e-5 * float(both.abs().max()))
    # The mean of the two ranks' own means is another loss: the reason for all this.
    own = sum(float(task(one).total().detach()) for one in parts) / 2
    assert abs(own - float(wanted.total().detach())) > 1e-4


def test_affinitynets_loss_by_its_definition() -> None:
    task, whole = affinitynet_task(), batch()
    features, label = task.network(whole["image"]).float(), whole["label"]
    sums = {"bg_pos": [0.0, 0], "fg_pos": [0.0, 0], "neg": [0.0, 0]}
    reach = RADIUS - 1
    for b in range(4):
        for y in range(11 - reach):
            for x in range(reach, 13 - reach):
                for dy in range(RADIUS):
                    for dx in range(-reach, RADIUS):
                        if dy * dy + dx * dx >= RADIUS**2 or (dy == 0 and dx <= 0):
                            continue
                        one, other = int(label[b, y, x]), int(label[b, y + dy, x + dx])
                        if 255 in (one, other):
                            continue
                        near = torch.exp(-(features[b, :, y, x] - features[b, :, y + dy, x + dx]).abs().mean())
                        kind = "neg" if one != other else "bg_pos" if one == 0 else "fg_pos"
                        cost = -torch.log(1 + 1e-5 - near) if kind == "neg" else -torch.log(near + 1e-5)
                        sums[kind][0] += float(cost.detach())
                        sums[kind][1] += 1
    means = {kind: total / (count + 1e-5) for kind, (total, count) in sums.items()}
    wanted = means["bg_pos"] / 4 + means["fg_pos"] / 4 + means["neg"] / 2
    assert float(task(whole).total().detach()) == pytest.approx(wanted, rel=1e-5)
