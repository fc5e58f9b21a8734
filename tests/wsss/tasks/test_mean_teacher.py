"""The mean teacher's loss against its definition, on a tiny network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from wsss.tasks.early_learning import EarlyLearning
from wsss.tasks.mean_teacher import Consistency, MeanTeacherTask
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.task import combine

B, C, H, W = 3, 4, 5, 7


class Tiny(nn.Module):
    """A linear classifier of colours, with a norm whose statistics depend on what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Conv2d(3, C, 1)
        self.decoder_parts = nn.ModuleList([self.head])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = 4 * self.head(self.norm(image))
        return logits


def task(*, weight: float = 0.7, min_confidence: float = 0.6, decay: float = 0.9, seed: int = 0) -> MeanTeacherTask:
    torch.manual_seed(seed)
    network: Any = Tiny()
    labels = SegmentationTask(network, synchronise_norms=True)
    consistency = Consistency(weight=weight, min_confidence=min_confidence)
    return MeanTeacherTask(labels, teacher_decay=decay, consistency=consistency)


def batch_of(seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, C + 1, (B, H, W), generator=generator)
    label[label == C] = 255
    cut = torch.zeros(B, H, W, dtype=torch.bool)
    cut[0, 1:4, 2:6], cut[2, :3, :2] = True, True
    inside = torch.ones(B, H, W, dtype=torch.bool)
    inside[1, :, 3:] = False
    return {
        "key": [str(number) for number in range(B)],
        "image": torch.randn(B, 3, H, W, generator=generator),
        "strong": torch.randn(B, 3, H, W, generator=generator),
        "label": label,
        "absent": torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1]]).bool(),
        "inside": inside,
        "cut": cut,
    }


def other_teacher(one: MeanTeacherTask) -> None:
    """A teacher with other weights than the student, so that the two cannot be exchanged."""
    with torch.no_grad():
        for parameter in one.teacher.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))


def by_loops(one: MeanTeacherTask, batch: dict[str, Any], *, weight: float, min_confidence: float) -> dict[str, float]:
    """Every pixel on its own; the student's norm is in evaluation mode, so that images do not depend on each other."""
    labelled, labels, taught, inside, confident = 0, 0.0, 0.0, 0, 0
    with torch.no_grad():
        teacher, student = one.teacher.network(batch["image"]), one.network(batch["image"])
        seen = one.network(batch["strong"])
    for b in range(B):
        for y in range(H):
            for x in range(W):
                if (label := int(batch["label"][b, y, x])) != 255:
                    labelled += 1
                    labels -= float(student[b, :, y, x].log_softmax(0)[label])
                of = (b + 1) % B if batch["cut"][b, y, x] else b
                if not batch["inside"][of, y, x]:
                    continue
                inside += 1
                present = [c for c in range(C) if not batch["absent"][of, c]]
                shares = teacher[of, present, y, x].softmax(0)
                if shares.max() >= min_confidence:
                    confident += 1
                    taught -= float(seen[of, :, y, x].log_softmax(0)[present[int(shares.argmax())]])
    total = (labels / labelled + weight * taught / inside) / (1 + weight)
    return {"total": total, "consistency": taught / inside, "confident": confident / inside}


def test_the_loss_by_its_definition() -> None:
    one, batch = task(min_confidence=0.8).eval(), batch_of()
    other_teacher(one)
    output, wanted = one(batch), by_loops(one, batch, weight=0.7, min_confidence=0.8)
    assert float(output.total().detach()) == pytest.approx(wanted["total"], rel=1e-5)
    for name in ("consistency", "confident"):
        term = output.terms[name]
        assert float((term.numerator / term.count).detach()) == pytest.approx(wanted[name], rel=1e-5)
    assert 0.2 < wanted["confident"] < 0.95


def test_absent_classes_are_never_taught() -> None:
    """The teacher would predict class 3 everywhere; the two images without it get their most probable other class."""
    one, batch = task(weight=1.0).eval(), batch_of()
    with torch.no_grad():
        one.teacher.network.head.bias[3] += 100  # type: ignore[union-attr, index, operator]
    batch["cut"][:], batch["label"][:] = False, 255
    batch["image"].requires_grad_(False)
    batch["strong"].requires_grad_()
    logits: list[torch.Tensor] = []
    one.network.register_forward_hook(lambda module, args, out: (out.retain_grad(), logits.append(out))[0])  # type: ignore[func-returns-value]
    one(batch).total().backward()
    grad = logits[0].grad
    assert grad is not None
    pushed_up = grad[B:] < 0  # the gradient of a taught class alone is negative
    assert not pushed_up[0, 3].any() and not pushed_up[2, 3].any() and not pushed_up[0, 2].any()
    assert pushed_up[1, 3][batch["inside"][1]].all() and pushed_up[0].any()


def test_only_the_student_has_a_gradient_and_only_its_strong_view_is_taught() -> None:
    one, batch = task(min_confidence=0.0), batch_of()
    batch["label"][:] = 255
    logits: list[torch.Tensor] = []
    one.network.register_forward_hook(lambda module, args, out: (out.retain_grad(), logits.append(out))[0])  # type: ignore[func-returns-value]
    one(batch).total().backward()
    assert logits[0].grad is not None and not logits[0].grad[:B].any() and logits[0].grad[B:].any()
    assert all(parameter.grad is None for parameter in one.teacher.parameters())
    assert len(logits) == 1, "both views pass in one batch"


def test_a_teacher_that_is_never_confident_leaves_the_loss_on_labels() -> None:
    one, batch = task(min_confidence=1.1).eval(), batch_of()
    output, alone = one(batch), SegmentationTask(one.network, synchronise_norms=True)(batch)
    torch.testing.assert_close(output.total() * 1.7, alone.total())
    assert float(output.terms["confident"].numerator) == 0


def test_counts_are_known_before_the_forward_pass_and_parts_add_up() -> None:
    one, batch = task().eval(), batch_of()
    batch["cut"][:] = False  # the partner is of the same micro-batch
    other_teacher(one)
    whole, counts = one(batch), one.counts(batch)
    assert {name: float(term.count) for name, term in whole.terms.items()} == {n: float(c) for n, c in counts.items()}
    parts = [{n: v[part] for n, v in batch.items() if n != "key"} for part in ([0, 2], [1])]
    total = sum(combine(one(part).terms, counts, whole.weights, 0.0) for part in parts)
    torch.testing.assert_close(total, whole.total())


def test_counts_of_a_mixed_batch_are_of_the_mixed_images() -> None:
    one, batch = task().eval(), batch_of()
    batch["cut"][0] = True  # image 0 is replaced by image 1, of which less is inside
    assert int(one.counts(batch)["consistency"]) == int(one(batch).terms["consistency"].count) == 3 * 5 + 3 * 5 + 5 * 7


def step(one: MeanTeacherTask, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.zero_grad()
    one.train()
    one(batch_of(number)).total().backward()
    optimizer.step()
    one.end_step(number, tally=None)


def test_a_resumed_training_ends_with_the_same_weights() -> None:
    """Parameters and buffers are what a checkpoint holds; another teacher would teach something else."""
    whole, early = task(min_confidence=0.3), task(min_confidence=0.3)
    optimizers = [torch.optim.SGD(one.network.parameters(), lr=0.1) for one in (whole, early)]
    for number in range(5):
        step(whole, optimizers[0], number)
    for number in range(3):
        step(early, optimizers[1], number)
    resumed = task(min_confidence=0.3, seed=9)
    resumed.load_state_dict(early.state_dict())
    optimizer = torch.optim.SGD(resumed.network.parameters(), lr=0.1)
    for number in range(3, 5):
        step(resumed, optimizer, number)
    state = whole.state_dict()
    assert all(torch.equal(state[name], value) for name, value in resumed.state_dict().items())
    assert not torch.equal(state["teacher.network.head.weight"], state["network.head.weight"])
    trained = [name for name, parameter in whole.named_parameters() if parameter.requires_grad]
    assert trained == ["network.norm.weight", "network.norm.bias", "network.head.weight", "network.head.bias"]


def correcting(*, consistent: bool = False, corrected: tuple[int, ...] = (0, 1), **settings: Any) -> MeanTeacherTask:
    """A task that corrects the labels of these classes already."""
    plain = task(**settings)
    early = EarlyLearning(num_classes=C, num_epochs=6, limit=0.9, min_confidence=0.5)
    early.corrected[list(corrected)] = True
    consistency = Consistency(weight=0.7, min_confidence=0.6) if consistent else None
    labels = SegmentationTask(plain.network, synchronise_norms=True)
    return MeanTeacherTask(labels, teacher_decay=0.9, consistency=consistency, early_learning=early)


@pytest.mark.parametrize("consistent", [False, True])
def test_corrected_labels_are_learned_and_the_given_ones_are_measured(consistent: bool) -> None:
    one, batch = correcting(consistent=consistent).eval(), batch_of()
    other_teacher(one)
    given = batch["label"].clone()
    if not consistent:
        batch = {name: value for name, value in batch.items() if name not in ("strong", "inside", "cut")}
    output = one(batch)
    with torch.no_grad():
        student, teacher = one.network(batch["image"]), one.teacher.network(batch["image"])
    share, taught = teacher.masked_fill(batch["absent"][:, :, None, None], -torch.inf).softmax(1).max(1)
    labels, changed, labelled = 0.0, 0, 0
    for place in torch.cartesian_prod(torch.arange(B), torch.arange(H), torch.arange(W)).tolist():
        b, y, x = place
        label = int(given[b, y, x])
        if label == 255:
            continue
        labelled += 1
        if float(share[b, y, x]) > 0.5 and (label in (0, 1) or int(taught[b, y, x]) in (0, 1)):
            changed += label != int(taught[b, y, x])
            label = int(taught[b, y, x])
        labels -= float(student[b, :, y, x].log_softmax(0)[label])
    term = output.terms["cross_entropy"]
    assert float(term.numerator.detach()) == pytest.approx(labels, rel=1e-5) and int(term.count) == labelled
    assert (float(output.terms["corrected"].numerator), int(output.terms["corrected"].count)) == (changed, labelled)
    assert 5 < changed < labelled
    assert output.weights["cross_entropy"] == (1 / 1.7 if consistent else 1.0) and output.weights["corrected"] == 0
    assert torch.equal(batch["label"], given), "the batch is left as it was"
    early = one.early_learning
    assert early is not None and output.tally is not None
    assert torch.equal(output.tally, early.overlap(student.argmax(1), label_BHW=given, ignore_index=255))
    counts = one.counts(batch)
    assert {name: float(t.count) for name, t in output.terms.items()} == {n: float(c) for n, c in counts.items()}


def test_without_a_corrected_class_the_loss_is_that_of_the_labels() -> None:
    one, batch = correcting(corrected=()).eval(), batch_of()
    output, alone = one(batch), SegmentationTask(one.network, synchronise_norms=True)(batch)
    torch.testing.assert_close(output.total(), alone.total())
    assert float(output.terms["corrected"].numerator) == 0


def test_labels_are_corrected_from_the_epoch_on_after_the_curve_flattens() -> None:
    """The curves of class 1 are drawn; the network's own counts of the steps are replaced by them."""
    one, shares = correcting(corrected=()).eval(), []
    other_teacher(one)
    for epoch in range(6):
        output = one(batch_of())
        shares.append(float(output.terms["corrected"].numerator))
        flattens = round(8_000 * (1 - 0.2 ** (epoch + 1)))
        rises = 500 * (epoch + 1)
        one.end_step(epoch, tally=torch.tensor([[rises, flattens, rises, rises], [10_000] * 4]))
        other_teacher(one)
        one.end_epoch()
    early = one.early_learning
    assert early is not None and early.corrected.tolist() == [False, True, False, False]
    assert shares[:3] == [0, 0, 0] and min(shares[3:]) > 0, "three epochs are measured before a class is corrected"


def test_a_resumed_training_corrects_the_same_labels() -> None:
    """A checkpoint in the middle of an epoch: decisions, curves and the counts of the epoch so far."""

    def run(one: MeanTeacherTask, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for number in steps:
            optimizer.zero_grad()
            output = one.train()(batch_of(number))
            output.total().backward()
            optimizer.step()
            one.end_step(number, tally=output.tally)
            if number % 2:
                one.end_epoch()

    def made(seed: int) -> tuple[MeanTeacherTask, torch.optim.Optimizer]:
        one = correcting(consistent=True, seed=seed)
        return one, torch.optim.SGD(one.network.parameters(), lr=0.1)

    (whole, first), (before, second), (resumed, third) = made(0), made(0), made(9)
    run(whole, first, range(12))
    run(before, second, range(5))
    resumed.load_state_dict(before.state_dict())
    run(resumed, third, range(5, 12))
    state = whole.state_dict()
    assert all(torch.equal(value.nan_to_num(-1), state[n].nan_to_num(-1)) for n, value in resumed.state_dict().items())
    assert whole.early_learning is not None and int(whole.early_learning.num_done) == 6
