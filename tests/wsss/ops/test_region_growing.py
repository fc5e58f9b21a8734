from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.region_growing import grow_seeds

FOREGROUND, BACKGROUND = 0.5, 0.7
NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def grow(seeds: Tensor, probs: Tensor, present: Tensor) -> Tensor:
    return grow_seeds(
        seeds,
        probs_BChw=probs,
        present_BC=present,
        foreground_threshold=FOREGROUND,
        background_threshold=BACKGROUND,
    )


def definition(seeds: Tensor, probs: Tensor, present: Tensor) -> Tensor:
    """One image [C,h,w], pixel by pixel."""
    num_classes, height, width = seeds.shape
    allowed = [c for c in range(num_classes) if present[c]]
    label: dict[tuple[int, int], int] = {}
    for y in range(height):
        for x in range(width):
            for c in range(num_classes):
                if seeds[c, y, x]:
                    label[y, x] = c
            best = max(allowed, key=lambda c: probs[c, y, x].item())
            if probs[best, y, x] > FOREGROUND and (best != 0 or probs[best, y, x] > BACKGROUND):
                label[y, x] = best
    grown = seeds.clone()
    for c in allowed:
        reached = {place for place, own in label.items() if own == c and seeds[c][place]}
        waiting = list(reached)
        while waiting:
            y, x = waiting.pop()
            for place in ((y + dy, x + dx) for dy, dx in NEIGHBOURS):
                if label.get(place) == c and place not in reached:
                    reached.add(place)
                    waiting.append(place)
        for y, x in reached:
            if int(seeds[:, y, x].sum()) != 1:
                grown[c, y, x] = True
    return grown


def patchy(batch: int, classes: int, height: int, width: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities in regions, seeds that partly agree with them; the background and some classes are present."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, classes, height // 3 + 1, width // 3 + 1, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    probs = (7 * logits).softmax(1)
    seeds = (torch.rand(probs.shape, generator=generator) < 0.03) | (
        (probs > 0.9) & (torch.rand(probs.shape, generator=generator) < 0.1)
    )
    present = torch.rand(batch, classes, generator=generator) < 0.5
    present[:, 0] = True
    return seeds, probs, present


def row(*places: int, width: int) -> Tensor:
    return torch.tensor([[place in places for place in range(width)]])


def test_by_hand() -> None:
    """Growth along confident pixels, round a corner, and not over the gap."""
    seeds = torch.zeros(1, 2, 3, 5, dtype=torch.bool)
    seeds[0, 1, 0, 0] = True
    probs = torch.full((1, 2, 3, 5), 0.5)
    probs[0, 1] = torch.tensor([[0.1, 0.9, 0.1, 0.9, 0.9], [0.1, 0.1, 0.9, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1, 0.9]])
    probs[0, 0] = 0.1
    grown = grow(seeds, probs, torch.ones(1, 2))
    assert grown.dtype == torch.bool
    assert grown[0, 1].int().tolist() == [[1, 1, 0, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert not grown[0, 0].any()


def test_the_background_passes_both_thresholds_and_they_are_strict() -> None:
    seeds = torch.stack([row(0, width=4), torch.zeros(1, 4, dtype=torch.bool)])[None]
    probs = torch.tensor([[[[0.9, 0.75, 0.7, 0.9]], [[0.1, 0.25, 0.3, 0.1]]]], dtype=torch.float64)
    assert grow(seeds, probs, torch.ones(1, 2))[0, 0].int().tolist() == [[1, 1, 0, 0]]
    foreground = grow(seeds.flip(1), torch.tensor([[[[0.0] * 4], [[0.6, 0.5, 0.6, 0.6]]]]), torch.ones(1, 2))
    assert foreground[0, 1].int().tolist() == [[1, 0, 0, 0]]
    low = grow_seeds(
        seeds, probs_BChw=probs, present_BC=torch.ones(1, 2), foreground_threshold=0.8, background_threshold=0.5
    )
    assert low[0, 0].int().tolist() == [[1, 0, 0, 0]]


def test_a_seed_that_is_confidently_another_class_stays_and_connects_nothing() -> None:
    seeds = torch.stack([torch.zeros(1, 5, dtype=torch.bool), row(2, width=5), torch.zeros(1, 5, dtype=torch.bool)])
    probs = torch.zeros(1, 3, 1, 5)
    probs[0, 1] = 0.9
    probs[0, 1, 0, 2], probs[0, 2, 0, 2] = 0.0, 0.9
    assert torch.equal(grow(seeds[None], probs, torch.ones(1, 3)), seeds[None])


def test_a_pixel_seeded_once_is_never_added_to_another_class_but_connects() -> None:
    seeds = torch.stack([torch.zeros(1, 5, dtype=torch.bool), row(0, width=5), row(2, width=5)])
    probs = torch.zeros(1, 3, 1, 5)
    probs[0, 1] = 0.9
    grown = grow(seeds[None], probs, torch.ones(1, 3))
    assert grown[0, 1].int().tolist() == [[1, 1, 0, 1, 1]]
    assert grown[0, 2].int().tolist() == [[0, 0, 1, 0, 0]]


def test_a_pixel_seeded_twice_is_its_last_class_and_may_be_added_to_a_third() -> None:
    seeds = torch.stack([torch.zeros(1, 4, dtype=torch.bool), *(row(*p, width=4) for p in ((1, 3), (1,), (0, 3)))])
    probs = torch.zeros(1, 4, 1, 4)
    probs[0, 3, 0, 1] = 0.9
    grown = grow(seeds[None], probs, torch.ones(1, 4))
    assert grown[0, 3].int().tolist() == [[1, 1, 0, 1]]
    probs[0, 3, 0, 1], probs[0, 1, 0, 2] = 0.0, 0.9
    assert not grow(seeds[None], probs, torch.ones(1, 4))[0, 1, 0, 2], "its neighbours connect by other classes"


@pytest.mark.parametrize(("batch", "classes", "height", "width"), [(3, 5, 11, 13), (2, 7, 17, 7), (5, 2, 13, 19)])
def test_definition(batch: int, classes: int, height: int, width: int) -> None:
    seeds, probs, present = patchy(batch, classes, height, width, seed=batch * classes)
    grown = grow(seeds, probs, present)
    for b in range(batch):
        assert torch.equal(grown[b], definition(seeds[b], probs[b], present[b]))
    assert grown.sum() > 1.5 * seeds.sum()


def test_invariants() -> None:
    seeds, probs, present = patchy(4, 6, 19, 23, seed=1)
    grown = grow(seeds, probs, present)
    assert (grown | ~seeds).all(), "nothing is removed"
    absent = ~present
    assert seeds[absent].any() and torch.equal(grown[absent], seeds[absent]), "absent classes keep their seeds"
    assert (grown & ~seeds).sum(1).max() == 1, "a pixel is added to one class"
    assert torch.equal(grow(seeds, probs, torch.zeros(4, 6)), seeds)
    assert torch.equal(grow(seeds.float(), probs, present.float()), grown)


def test_permuting_foreground_classes_permutes_the_result() -> None:
    """Where no pixel is seeded twice: there the order of classes decides."""
    seeds, probs, present = patchy(3, 5, 17, 13, seed=2)
    seeds &= seeds.sum(1, keepdim=True) == 1
    order = [0, 3, 1, 4, 2]
    permuted = grow(seeds[:, order], probs[:, order], present[:, order])
    assert torch.equal(permuted, grow(seeds, probs, present)[:, order])


def test_images_are_grown_apart() -> None:
    seeds, probs, present = patchy(5, 4, 11, 17, seed=3)
    alone = [grow(seeds[b : b + 1], probs[b : b + 1], present[b : b + 1]) for b in range(5)]
    assert torch.equal(grow(seeds, probs, present), torch.cat(alone))


@pytest.mark.parametrize("standing", [False, True])
def test_a_seed_fills_a_snake_from_its_end(standing: bool) -> None:
    path = torch.zeros(43, 31, dtype=torch.bool)
    path[::2] = True
    path[1::4, -1] = True
    path[3::4, 0] = True
    if standing:
        path = path.T.contiguous()
    probs = torch.stack([~path, path]).float()[None]
    seeds = torch.zeros_like(probs, dtype=torch.bool)
    end = path.nonzero()[-1]
    seeds[0, 1, end[0], end[1]] = True
    grown = grow(seeds, probs, torch.ones(1, 2))
    assert torch.equal(grown[0, 1], path) and not grown[0, 0].any()


def test_shapes_must_fit() -> None:
    seeds, probs, present = torch.zeros(2, 3, 5, 7), torch.zeros(2, 3, 5, 7), torch.ones(2, 3)
    for wrong in ((seeds[0], probs[0], present), (seeds, probs[:, :2], present), (seeds, probs, present[0])):
        with pytest.raises(ValueError, match=r"seeds are \[.*give \[B,C,h,w\] twice and \[B,C\]"):
            grow(*wrong)
