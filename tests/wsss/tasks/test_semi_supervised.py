"""Masks of some images beside weaker labels of others, on a network that gives fixed outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.wsss.tasks.test_dsrg import Fixed, drawn
from tests.wsss.tasks.test_dsrg import task as dsrg_task
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.semi_supervised import SemiSupervisedTask, chosen
from wsss.tasks.task import combine


def batch_of(is_full: list[bool]) -> tuple[torch.Tensor, dict[str, Any]]:
    generator = torch.Generator().manual_seed(2)
    size = (len(is_full), 5, 7)
    logits = torch.randn(size[0], 4, *size[1:], generator=generator)
    label, mask = (torch.randint(0, 5, size, generator=generator) for _ in range(2))
    label[label == 4], mask[mask == 4] = 255, 255
    image = torch.zeros(size[0], 3, 5, 7)
    keys = [str(n) for n in range(size[0])]
    return logits, {"key": keys, "image": image, "is_full": torch.tensor(is_full), "label": label, "mask": mask}


def task(logits: torch.Tensor, weight: float = 2.0) -> SemiSupervisedTask:
    network: Any = Fixed(logits)
    return SemiSupervisedTask(SegmentationTask(network, synchronise_norms=True), full_weight=weight, per_image=False)


def test_both_means_by_their_definition() -> None:
    logits, batch = batch_of([True, False, True, False, False])
    full, weak = [0, 2], [1, 3, 4]
    wanted = F.cross_entropy(logits[weak], batch["label"][weak], ignore_index=255)
    wanted += 2 * F.cross_entropy(logits[full], batch["mask"][full], ignore_index=255)
    output = task(logits)(batch)
    torch.testing.assert_close(output.total(), wanted)
    counts = task(logits).counts(batch)
    assert {name: int(term.count) for name, term in output.terms.items()} == {n: int(c) for n, c in counts.items()}


@pytest.mark.parametrize("is_full", [[True] * 3, [False] * 3])
def test_a_part_of_one_kind_has_the_same_terms(is_full: list[bool]) -> None:
    logits, batch = batch_of(is_full)
    one = task(logits)
    output = one(batch)
    assert set(output.terms) == set(one.counts(batch)) == {"cross_entropy", "full"}
    output.total().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in one.parameters())
    name, label = ("full", "mask") if is_full[0] else ("cross_entropy", "label")
    wanted = F.cross_entropy(logits, batch[label], ignore_index=255) * (2 if is_full[0] else 1)
    torch.testing.assert_close(output.total(), wanted)
    other = ({"full", "cross_entropy"} - {name}).pop()
    assert int(output.terms[other].count) == 0


def test_parts_add_up_to_the_whole() -> None:
    logits, batch = batch_of([True, False, False, True, False, True])
    whole = task(logits)(batch).total()
    parts = [torch.tensor([0, 3]), torch.tensor([1, 2]), torch.tensor([4, 5])]
    counts: dict[str, torch.Tensor] = {}
    outputs = []
    for part in parts:
        share = {n: v[part] for n, v in batch.items() if isinstance(v, torch.Tensor)}
        outputs.append(task(logits[part])(share))
        for name, count in task(logits[part]).counts(share).items():
            counts[name] = counts.get(name, torch.zeros(())) + count
    weights = {"cross_entropy": 1.0, "full": 2.0}
    total = sum(combine(output.terms, counts, weights, 0.0) for output in outputs)
    torch.testing.assert_close(total, whole)


def test_ficklenets_loss_is_dsrgs_on_the_weak_images_and_cross_entropy_on_the_others() -> None:
    logits, weak = drawn()
    is_full = torch.tensor([False, True, False])
    mask = torch.randint(0, 4, weak["image"][:, 0].shape)
    network = dsrg_task(logits)
    batch = {**weak, "is_full": is_full, "mask": mask}
    network.network.forward = lambda image: F.interpolate(logits, scale_factor=8, mode="bilinear")  # type: ignore[method-assign]
    found = SemiSupervisedTask(network, full_weight=2.0, per_image=True)(batch)
    seeded = network.from_logits(network.network(weak["image"])[~is_full], chosen(batch, ~is_full))
    assert set(found.terms) == {*seeded.terms, "full"}
    full = F.cross_entropy(network.network(weak["image"])[is_full], mask[is_full])
    torch.testing.assert_close(found.total(), seeded.total() + 2 * full)


def test_the_loss_on_masks_of_ficklenet_is_a_mean_over_images_of_their_means() -> None:
    """Image 0 has 2 labelled pixels, image 2 has 35, and image 3 none: the first two have the same weight."""
    logits, batch = batch_of([True, False, True, True])
    batch["mask"] = batch["mask"].clamp(max=3)
    batch["mask"][0], batch["mask"][3] = 255, 255
    batch["mask"][0, 1, 2], batch["mask"][0, 4, 6] = 3, 0
    log_p = logits.log_softmax(1)
    first = -(log_p[0, 3, 1, 2] + log_p[0, 0, 4, 6]) / 2
    third = -sum(log_p[2, int(batch["mask"][2, y, x]), y, x] for y in range(5) for x in range(7)) / 35
    network: Any = Fixed(logits)
    one = SemiSupervisedTask(SegmentationTask(network, synchronise_norms=True), full_weight=2.0, per_image=True)
    output = one(batch)
    torch.testing.assert_close(output.terms["full"].numerator, first + third)
    assert int(output.terms["full"].count) == int(one.counts(batch)["full"]) == 2
    wanted = F.cross_entropy(logits[[1]], batch["label"][[1]], ignore_index=255) + first + third
    torch.testing.assert_close(output.total(), wanted)
    output.total().backward()
    gradient = next(iter(network.parameters())).grad
    assert gradient.isfinite().all() and not gradient[3].any() and gradient[0].any()
