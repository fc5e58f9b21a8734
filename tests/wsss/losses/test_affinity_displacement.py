from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss.losses.affinity_displacement import (
    AffinityDisplacementSums,
    affinity_displacement_loss,
    affinity_displacement_sums,
    pair_counts,
)
from wsss.losses.masked_mean import MaskedSum, masked_mean
from wsss.ops.pixel_pairs import half_plane_offsets, path_pixels

TERMS = AffinityDisplacementSums._fields


def random_inputs(batch: int, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * h * w)
    edge_logits = torch.randn(batch, 1, h, w, generator=generator, dtype=torch.float64)
    displacement = 3 * torch.randn(batch, 2, h, w, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 5, (batch, h, w), generator=generator, dtype=torch.uint8)
    label[label == 4] = 255
    return edge_logits, displacement, label


def loop_definition(
    edge_logits: Tensor, displacement: Tensor, label: Tensor, *, radius: int, num_classes: int
) -> dict[str, tuple[float, int]]:
    batch, _, h, w = edge_logits.shape
    edge = edge_logits[:, 0].sigmoid()
    sums = dict.fromkeys(TERMS, (0.0, 0))

    def add(term: str, value: float, count: int) -> None:
        sums[term] = sums[term][0] + value, sums[term][1] + count

    for b in range(batch):
        for i in range(h - radius + 1):
            for j in range(radius - 1, w - radius + 1):
                for dy, dx in half_plane_offsets(radius):
                    here, there = int(label[b, i, j]), int(label[b, i + dy, j + dx])
                    if max(here, there) > num_classes:
                        continue
                    affinity = 1 - max(edge[b, i + y, j + x].item() for y, x in path_pixels((dy, dx)))
                    moved_y, moved_x = (displacement[b, :, i, j] - displacement[b, :, i + dy, j + dx]).tolist()
                    if here != there:
                        add("neg", -math.log(1 + 1e-5 - affinity), 1)
                    elif here == 0:
                        add("bg_pos", -math.log(affinity + 1e-5), 1)
                        add("dp_bg", abs(moved_y) + abs(moved_x), 2)
                    else:
                        add("fg_pos", -math.log(affinity + 1e-5), 1)
                        add("dp_fg", abs(moved_y - dy) + abs(moved_x - dx), 2)
    return sums


@pytest.mark.parametrize(("batch", "h", "w", "radius", "num_classes"), [(2, 7, 11, 3, 3), (3, 5, 13, 4, 2)])
def test_sums_are_their_definition(batch: int, h: int, w: int, radius: int, num_classes: int) -> None:
    edge_logits, displacement, label = random_inputs(batch, h, w)
    sums = affinity_displacement_sums(
        edge_logits, displacement_B2hw=displacement, label_Bhw=label, radius=radius, num_classes=num_classes
    )
    expected = loop_definition(edge_logits, displacement, label, radius=radius, num_classes=num_classes)
    for name, term in zip(TERMS, sums, strict=True):
        assert term.count.item() == expected[name][1] > 0
        assert term.numerator.item() == pytest.approx(expected[name][0], rel=1e-10)


def test_a_perfect_displacement_field_and_boundary_cost_nothing() -> None:
    h, w, radius = 11, 19, 4
    rows = torch.arange(h).view(h, 1).expand(h, w)
    columns = torch.arange(w).expand(h, w)
    label = torch.ones(1, h, w, dtype=torch.uint8)
    # Every pixel points at one centre: D(x) = centre - x.
    displacement = torch.stack([5.0 - rows, 9.0 - columns])[None]
    sums = affinity_displacement_sums(
        torch.full((1, 1, h, w), -30.0), displacement_B2hw=displacement, label_Bhw=label, radius=radius, num_classes=1
    )
    assert sums.dp_fg.numerator.item() == 0 and sums.dp_fg.count.item() > 0
    assert abs(masked_mean(sums.fg_pos).item()) < 2e-5
    assert sums.neg.count.item() == sums.bg_pos.count.item() == sums.dp_bg.count.item() == 0


@pytest.mark.parametrize("term", TERMS)
def test_gradient_of_each_term(term: str) -> None:
    edge_logits, displacement, label = random_inputs(2, 5, 7)

    def numerator(edge: Tensor, disp: Tensor) -> Tensor:
        sums = affinity_displacement_sums(edge, displacement_B2hw=disp, label_Bhw=label, radius=3, num_classes=3)
        return getattr(sums, term).numerator

    inputs = edge_logits.requires_grad_(), displacement.requires_grad_()
    assert torch.autograd.gradcheck(numerator, inputs)
    depends_on = inputs[1] if term.startswith("dp") else inputs[0]
    (gradient,) = torch.autograd.grad(numerator(*inputs), depends_on)
    assert gradient.abs().max() > 0


def test_sums_of_two_ranks_add_up_to_the_whole_batch() -> None:
    edge_logits, displacement, label = random_inputs(3, 7, 11)

    def sums(images: slice) -> AffinityDisplacementSums:
        return affinity_displacement_sums(
            edge_logits[images],
            displacement_B2hw=displacement[images],
            label_Bhw=label[images],
            radius=3,
            num_classes=3,
        )

    whole, first, rest = sums(slice(None)), sums(slice(1)), sums(slice(1, None))
    added = AffinityDisplacementSums(
        *(MaskedSum(a.numerator + b.numerator, a.count + b.count) for a, b in zip(first, rest, strict=True))
    )
    for one, both in zip(whole, added, strict=True):
        assert one.count == both.count
        torch.testing.assert_close(one.numerator, both.numerator)
    torch.testing.assert_close(affinity_displacement_loss(whole), affinity_displacement_loss(added))


def test_foreground_classes_may_be_renamed_and_ignored_pixels_do_not_matter() -> None:
    edge_logits, displacement, label = random_inputs(2, 7, 11)

    def loss(edge: Tensor, labels: Tensor) -> Tensor:
        sums = affinity_displacement_sums(
            edge, displacement_B2hw=displacement, label_Bhw=labels, radius=3, num_classes=200
        )
        return affinity_displacement_loss(sums)

    renamed = label.clone()
    renamed[label == 1], renamed[label == 2], renamed[label == 3] = 128, 1, 200
    torch.testing.assert_close(loss(edge_logits, label), loss(edge_logits, renamed))
    assert loss(edge_logits, torch.full_like(label, 255)) == 0


def test_no_pair_gives_zero_and_a_zero_gradient() -> None:
    numerator = torch.zeros((), requires_grad=True)
    mean = masked_mean(MaskedSum(3 * numerator, torch.tensor(0)))
    assert mean.item() == 0
    edge_logits, displacement, label = random_inputs(1, 5, 7)
    edge_logits.requires_grad_()
    sums = affinity_displacement_sums(
        edge_logits, displacement_B2hw=displacement, label_Bhw=torch.full_like(label, 255), radius=3, num_classes=3
    )
    affinity_displacement_loss(sums).backward()
    assert edge_logits.grad is not None and edge_logits.grad.count_nonzero() == 0


def test_masked_mean_divides_by_the_count_plus_eps() -> None:
    term = MaskedSum(torch.tensor(6.0, dtype=torch.float64), torch.tensor(3))
    assert masked_mean(term, eps=1.0).item() == 1.5
    assert masked_mean(term).item() == pytest.approx(6 / 3.00001, rel=1e-12)


def test_weights_of_the_objective() -> None:
    means = (1.0, 10.0, 100.0, 2.0, 20.0)
    sums = AffinityDisplacementSums(*(MaskedSum(torch.tensor(mean), torch.tensor(1)) for mean in means))
    expected = (0.5 * 1 + 0.5 * 10 + 100) / 2 + (2 + 20) / 2
    assert affinity_displacement_loss(sums).item() == pytest.approx(expected, rel=2e-5)


def test_errors_name_the_remedy() -> None:
    edge_logits, displacement, label = random_inputs(1, 5, 7)
    with pytest.raises(ValueError, match="reduce the label to the grid"):
        affinity_displacement_sums(
            edge_logits, displacement_B2hw=displacement, label_Bhw=label[:, ::2], radius=3, num_classes=3
        )
    with pytest.raises(ValueError, match=r"map of 5x7 .* lower the radius"):
        affinity_displacement_sums(
            edge_logits, displacement_B2hw=displacement, label_Bhw=label, radius=6, num_classes=3
        )


@pytest.mark.parametrize("radius", [2, 4])
def test_counts_from_the_labels_alone(radius: int) -> None:
    edge_logits, displacement, label = random_inputs(2, 11, 13)
    sums = affinity_displacement_sums(
        edge_logits, displacement_B2hw=displacement, label_Bhw=label, radius=radius, num_classes=3
    )
    counts = pair_counts(label, radius=radius, num_classes=3)
    assert {name: int(count) for name, count in counts.items()} == {
        name: int(term.count) for name, term in zip(TERMS, sums, strict=True)
    }
