"""SEC's objective against its parts, on a network that gives fixed outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.wsss.tasks.test_dsrg import CRF, NUM_CLASSES, Fixed, drawn
from wsss.losses.dsrg import boundary_sum, smoothed_softmax
from wsss.losses.sec import expand_sums, seed_sum
from wsss.tasks.sec import SecTask
from wsss.tasks.task import combine

DECAYS = {"foreground_decay": 0.9, "background_decay": 0.97}


def task(logits: torch.Tensor) -> SecTask:
    network: Any = Fixed(logits.clone())
    return SecTask(network, crf=CRF, synchronise_norms=True, **DECAYS)


def labelled() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """As for DSRG; of the second image class 3 is unknown."""
    logits, batch = drawn()
    absent = ~batch["present"]
    absent[1, 3] = False
    return logits, {**batch, "absent": absent}


def test_loss_is_the_sum_of_its_parts() -> None:
    logits, batch = labelled()
    probs = smoothed_softmax(logits)
    refined = CRF.refine(probs, pixels_Bhw3=batch["pixels"])
    seeds = torch.zeros(probs.shape, dtype=torch.bool)
    for b, y, x in torch.nonzero(batch["seeds"] != 255).tolist():
        c = int(batch["seeds"][b, y, x])
        seeds[b, c, y, x] = batch["present"][b, c]
    terms = [
        seed_sum(probs, seeds_BChw=seeds),
        *expand_sums(probs, present_BC=batch["present"], absent_BC=batch["absent"], **DECAYS),
        boundary_sum(probs, refined_BChw=refined),
    ]
    wanted = sum(float(term.numerator / term.count) for term in terms)
    output = task(logits)(batch)
    assert output.total().item() == pytest.approx(wanted, rel=1e-4)
    names = ["seed", "expand_present", "expand_absent", "expand_background", "boundary"]
    assert list(output.terms) == names and [int(term.count) for term in terms] == [3, 2, 3, 2, 105]


def test_two_parts_of_a_batch_add_up_to_the_whole() -> None:
    """The last image, alone on its rank, shows no class."""
    logits, batch = labelled()
    whole = task(logits)(batch)
    parts = [{name: value.split([2, 1])[number] for name, value in batch.items()} for number in (0, 1)]
    tasks = [task(part) for part in logits.split([2, 1])]
    counted = [one.counts(part) for one, part in zip(tasks, parts, strict=True)]
    counts = {name: counted[0][name] + counted[1][name] for name in counted[0]}
    assert {name: int(count) for name, count in counts.items()} == {n: int(t.count) for n, t in whole.terms.items()}
    outputs = [one(part) for one, part in zip(tasks, parts, strict=True)]
    shares = [combine(output.terms, counts, output.weights, output.eps).item() for output in outputs]
    assert sum(shares) == pytest.approx(whole.total().item(), rel=1e-5)


def test_training_expands_the_classes_present_and_removes_the_absent_ones() -> None:
    """Gradient descent on the logits alone: no seeds, so the labels and the colours decide."""
    logits, batch = labelled()
    batch["seeds"] = torch.full_like(batch["seeds"], 255)
    one = task(torch.zeros_like(logits))
    optimizer = torch.optim.SGD(one.parameters(), lr=5.0)
    for _ in range(40):
        optimizer.zero_grad()
        one(batch).total().backward()
        optimizer.step()
    probs = next(one.new_parameters()).detach().softmax(1).mean((2, 3))
    assert probs.shape[1] == NUM_CLASSES
    batch["present"][1, 0] = False  # class 3 of that image is unknown, so its background is not expanded
    absent, present = probs[batch["absent"]], probs[batch["present"]]
    assert float(absent.max()) < 0.1 and float(present.min()) > 2 * float(absent.max()), "from 0.25 for each"
