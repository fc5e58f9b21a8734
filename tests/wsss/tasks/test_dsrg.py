"""DSRG's objective against its parts, on a network that gives fixed outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from torch import nn
from torch.nn import functional as F

from wsss.losses.dsrg import floored_probabilities, smoothed_softmax
from wsss.ops.dense_crf import BilateralKernel, GaussianKernel, dense_crf
from wsss.ops.region_growing import grow_seeds
from wsss.tasks.dsrg import CrfInTheLoop, DsrgTask, grid_colours, grid_labels, grid_logits
from wsss.tasks.dsrg_grid import grid_side
from wsss.tasks.task import combine

GAUSSIAN, BILATERAL = GaussianKernel(sxy=0.25, compat=3), BilateralKernel(sxy=80 / 12, srgb=13, compat=10)
CRF = CrfInTheLoop(num_iterations=3, gaussian=GAUSSIAN, bilateral=BILATERAL)
THRESHOLDS = {"foreground_threshold": 0.6, "background_threshold": 0.7}
NUM_IMAGES, NUM_CLASSES, HEIGHT, WIDTH = 3, 4, 5, 7


class Fixed(nn.Module):
    """A network whose output is a parameter."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.decoder_parts = nn.ModuleList([nn.ParameterList([nn.Parameter(output)])])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = next(self.parameters())
        return logits


def task(logits: torch.Tensor, **changes: Any) -> DsrgTask:
    network: Any = Fixed(logits.clone())
    return DsrgTask(network, crf=CRF, synchronise_norms=True, **{**THRESHOLDS, **changes})


def drawn() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits on the grid itself, so that resizing them changes nothing; the last image shows no class."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(NUM_IMAGES, NUM_CLASSES, HEIGHT, WIDTH, generator=generator)
    seeds = torch.randint(0, NUM_CLASSES, (NUM_IMAGES, HEIGHT, WIDTH), generator=generator)
    seeds[torch.rand(seeds.shape, generator=generator) < 0.6] = 255
    present = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 0], [1, 0, 0, 0]]).bool()
    pixels = torch.randint(0, 256, (NUM_IMAGES, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    image = torch.zeros(NUM_IMAGES, 3, 8 * HEIGHT, 8 * WIDTH)
    return logits, {"image": image, "seeds": seeds, "present": present, "pixels": pixels}


def loss_by_loops(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> float:
    probs, background, foreground, boundary = smoothed_softmax(logits), 0.0, 0.0, 0.0
    for b in range(NUM_IMAGES):
        kernels: dict[str, Any] = {"num_iterations": 3, "gaussian": GAUSSIAN, "bilateral": BILATERAL}
        refined = dense_crf(-probs[b].log(), image_HW3=batch["pixels"][b], **kernels)
        refined = floored_probabilities(refined[None])[0]
        given = torch.zeros(NUM_CLASSES, HEIGHT, WIDTH, dtype=torch.bool)
        for y in range(HEIGHT):
            for x in range(WIDTH):
                c = int(batch["seeds"][b, y, x])
                if c != 255 and batch["present"][b, c]:
                    given[c, y, x] = True
        grown = grow_seeds(given[None], probs_BChw=refined[None], present_BC=batch["present"][b : b + 1], **THRESHOLDS)
        sides: dict[bool, list[float]] = {False: [], True: []}
        for c, y, x in torch.nonzero(grown[0]).tolist():
            sides[c > 0].append(-float(probs[b, c, y, x].log()))
        background += sum(sides[False]) / max(len(sides[False]), 1)
        foreground += sum(sides[True]) / max(len(sides[True]), 1)
        boundary += float((refined * (refined / probs[b]).clamp(0.05, 20).log()).sum())
    return (background + foreground) / NUM_IMAGES + boundary / (NUM_IMAGES * HEIGHT * WIDTH)


def test_loss_by_its_definition() -> None:
    logits, batch = drawn()
    assert task(logits)(batch).total().item() == pytest.approx(loss_by_loops(logits, batch), rel=1e-4)


def test_two_parts_of_a_batch_add_up_to_the_whole() -> None:
    logits, batch = drawn()
    whole = task(logits)(batch)
    parts = [{name: value.split([2, 1])[number] for name, value in batch.items()} for number in (0, 1)]
    tasks = [task(part) for part in logits.split([2, 1])]
    counted = [one.counts(part) for one, part in zip(tasks, parts, strict=True)]
    counts = {name: counted[0][name] + counted[1][name] for name in counted[0]}
    assert {name: int(count) for name, count in counts.items()} == {n: int(t.count) for n, t in whole.terms.items()}
    outputs = [one(part) for one, part in zip(tasks, parts, strict=True)]
    shares = [combine(output.terms, counts, output.weights, output.eps).item() for output in outputs]
    assert sum(shares) == pytest.approx(whole.total().item(), rel=1e-5)


def test_growth_starts_from_the_given_seeds_at_every_step() -> None:
    """A network that was sure and is no longer: what grew then is forgotten."""
    _, batch = drawn()
    sure = torch.zeros(NUM_IMAGES, NUM_CLASSES, HEIGHT, WIDTH)
    sure[:, 0] = 12.0
    batch["seeds"] = torch.full((NUM_IMAGES, HEIGHT, WIDTH), 255)
    batch["seeds"][:, 2, 3] = 0
    one = task(sure)
    grown = one._grown(batch, torch.softmax(sure, 1))
    assert grown[:, 0].all() and not grown[:, 1:].any()
    unsure = torch.full_like(sure, 1 / NUM_CLASSES)
    assert int(one._grown(batch, unsure).sum()) == NUM_IMAGES
    assert int(batch["seeds"].eq(0).sum()) == NUM_IMAGES


def test_seeds_of_classes_that_are_not_there_count_for_nothing() -> None:
    logits, batch = drawn()
    batch["seeds"] = torch.full_like(batch["seeds"], 2)
    grown = task(logits)._grown(batch, smoothed_softmax(logits))
    assert not grown[0].any() and not grown[2].any() and grown[1, 2].all()


def test_gradient_reaches_the_logits_and_nothing_else() -> None:
    logits, batch = drawn()
    one = task(logits)
    one(batch).total().backward()
    gradient = next(one.new_parameters()).grad
    assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 0


def test_an_image_without_seeds_costs_no_seed_loss() -> None:
    logits, batch = drawn()
    batch["seeds"] = torch.full_like(batch["seeds"], 255)
    terms = task(logits)(batch).terms
    assert terms["seed_background"].numerator.item() == terms["seed_foreground"].numerator.item() == 0
    assert terms["boundary"].numerator.item() > 0


def test_autocast_leaves_the_crf_in_full_precision() -> None:
    logits, batch = drawn()
    whole = task(logits)(batch).total().item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert task(logits)(batch).total().item() == whole


def test_labels_and_colours_on_the_grid() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    label = np.random.default_rng(1).integers(0, 9, (24, 40), dtype=np.uint8)
    labels, colours = grid_labels(label), grid_colours(image)
    assert labels.shape == (3, 5) and colours.shape == (3, 5, 3) and colours.dtype == torch.uint8
    for y in range(3):
        for x in range(5):
            assert int(labels[y, x]) == label[8 * y + 4, 8 * x + 4]
            mean = image[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].astype(float).mean((0, 1))
            np.testing.assert_allclose(colours[y, x].numpy(), mean, atol=0.5)


def test_a_crop_of_one_pixel_more_has_a_grid_from_corner_to_corner() -> None:
    assert [grid_side(size) for size in (320, 321, 328, 33)] == [40, 41, 41, 5]
    for size in (322, 327):
        with pytest.raises(ValueError, match=rf"a crop of {size} pixels has no grid; allowed: multiples of 8, or one"):
            grid_side(size)
    image = np.random.default_rng(0).integers(0, 256, (33, 41, 3), dtype=np.uint8)
    label = np.random.default_rng(1).integers(0, 9, (33, 41), dtype=np.uint8)
    labels, colours = grid_labels(label), grid_colours(image)
    assert labels.shape == (5, 6) and colours.shape == (5, 6, 3)
    for y in range(5):
        for x in range(6):
            assert int(labels[y, x]) == label[8 * y, 8 * x]
            assert colours[y, x].tolist() == image[8 * y, 8 * x].tolist()
    zoomed = zoom(label.astype(float), (5 / 33, 6 / 41), order=1)  # the public code's resize
    np.testing.assert_allclose(labels.numpy(), zoomed)


def test_logits_are_read_at_the_grid_points() -> None:
    logits, batch = drawn()
    crop = (8 * HEIGHT - 7, 8 * WIDTH - 7)
    resized = F.interpolate(logits, size=crop, mode="bilinear", align_corners=True)
    torch.testing.assert_close(grid_logits(resized, size=(HEIGHT, WIDTH)), logits)
    assert task(resized)(batch).total().item() == pytest.approx(task(logits)(batch).total().item(), rel=1e-4)
    other = F.interpolate(logits, size=(8 * HEIGHT, 8 * WIDTH), mode="bilinear", align_corners=False)
    wanted = F.interpolate(other, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    assert torch.equal(grid_logits(other, size=(HEIGHT, WIDTH)), wanted)
