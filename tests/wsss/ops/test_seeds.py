from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.dense_crf import BilateralKernel, GaussianKernel
from wsss.ops.seeds import (
    add_salient_background,
    crf_refinement,
    exponent_scores,
    exponent_seeds,
    foreground_seeds,
    pooled_exponent_seeds,
    two_threshold_seeds,
)


def _definition(cam: Tensor, classes: list[int], high: float, low: float) -> Tensor:
    num_classes, height, width = cam.shape
    label = torch.zeros(height, width, dtype=torch.uint8)
    for y in range(height):
        for x in range(width):
            best = max(range(num_classes), key=lambda k: cam[k, y, x].item())
            peak = cam[best, y, x].item()
            label[y, x] = classes[best] if peak > high else 255 if peak > low else 0
    return label


def test_by_hand() -> None:
    cam = torch.tensor([[[0.9, 0.2, 0.01]], [[0.1, 0.25, 0.04]]])
    label = two_threshold_seeds(cam, classes=[7, 9], foreground_threshold=0.3, background_threshold=0.05, refine=None)
    assert label.tolist() == [[7, 255, 0]] and label.dtype == torch.uint8


def test_definition_on_random_maps_and_large_ids() -> None:
    """128 + 128 is 0 in a byte: ids of 128 must not turn into background."""
    cam = torch.rand(3, 17, 11, generator=torch.Generator().manual_seed(0)) ** 3
    classes = [128, 200, 254]
    label = two_threshold_seeds(cam, classes=classes, foreground_threshold=0.4, background_threshold=0.1, refine=None)
    assert torch.equal(label, _definition(cam, classes, 0.4, 0.1))
    assert set(label.unique().tolist()) == {0, 128, 200, 254, 255}


def test_permuting_classes_changes_nothing() -> None:
    cam = torch.rand(3, 13, 7, generator=torch.Generator().manual_seed(1))
    label = two_threshold_seeds(cam, classes=[3, 5, 8], foreground_threshold=0.7, background_threshold=0.4, refine=None)
    swapped = two_threshold_seeds(
        cam[[2, 0, 1]], classes=[8, 3, 5], foreground_threshold=0.7, background_threshold=0.4, refine=None
    )
    assert torch.equal(label, swapped)


def test_no_class_is_all_background() -> None:
    label = two_threshold_seeds(
        torch.zeros(0, 5, 3), classes=[], foreground_threshold=0.3, background_threshold=0.05, refine=None
    )
    assert torch.equal(label, torch.zeros(5, 3, dtype=torch.uint8))


def test_refine_sees_both_maps_and_has_the_last_word() -> None:
    cam = torch.tensor([[[0.9, 0.2, 0.01]]])
    seen = []

    def refine(index: Tensor) -> Tensor:
        seen.append(index.clone())
        return torch.tensor([[[0, 1, 0]], [[1, 0, 0]]])

    label = two_threshold_seeds(cam, classes=[4], foreground_threshold=0.3, background_threshold=0.05, refine=refine)
    assert seen[0].tolist() == [[[1, 0, 0]], [[1, 1, 0]]]
    assert label.tolist() == [[255, 4, 0]]


def test_crf_removes_a_stray_seed() -> None:
    image = torch.full((23, 17, 3), 90, dtype=torch.uint8)
    image[:, 9:] = 180
    cam = torch.zeros(1, 23, 17)
    cam[:, :, 9:] = 0.8
    cam[0, 11, 3] = 0.9
    refine = crf_refinement(
        image,
        num_labels=2,
        gt_prob=0.7,
        num_iterations=10,
        gaussian=GaussianKernel(sxy=3, compat=3),
        bilateral=BilateralKernel(sxy=50, srgb=5, compat=10),
    )
    label = two_threshold_seeds(cam, classes=[6], foreground_threshold=0.3, background_threshold=0.05, refine=refine)
    expected = torch.zeros(23, 17, dtype=torch.uint8)
    expected[:, 9:] = 6
    assert torch.equal(label, expected)


@pytest.mark.parametrize(("high", "low"), [(0.05, 0.3), (0.2, 0.2), (float("nan"), 0.1)])
def test_swapped_thresholds_are_refused_by_name(high: float, low: float) -> None:
    with pytest.raises(ValueError, match=rf"foreground_threshold = {high} is not above background_threshold = {low}"):
        two_threshold_seeds(
            torch.zeros(1, 3, 5), classes=[1], foreground_threshold=high, background_threshold=low, refine=None
        )


@pytest.mark.parametrize("classes", [[1, 2], [0], [255]])
def test_classes_must_fit_the_maps(classes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 5\).*each 1..254"):
        two_threshold_seeds(
            torch.zeros(1, 3, 5), classes=classes, foreground_threshold=0.3, background_threshold=0.1, refine=None
        )


def test_salient_background_by_hand() -> None:
    """255 * 0.06 = 15.3: a saliency of 15 is background, 16 is not, and no seed is overruled."""
    foreground = torch.tensor([[7, 7, 255, 255, 255]], dtype=torch.uint8)
    saliency = torch.tensor([[0, 200, 15, 16, 255]], dtype=torch.uint8)
    label = add_salient_background(foreground, saliency_HW=saliency, threshold=0.06)
    assert label.tolist() == [[7, 7, 0, 255, 255]] and label.dtype == torch.uint8
    assert foreground.tolist() == [[7, 7, 255, 255, 255]], "what was given stays"
    faint = torch.full((1, 5), 9, dtype=torch.uint8)
    assert add_salient_background(foreground, saliency_HW=faint, threshold=0.06).tolist() == [[7, 7, 0, 0, 0]], (
        "an image in which nothing is salient is background, not stretched"
    )
    with pytest.raises(ValueError, match=r"foreground is \[1, 5\], saliency \[1, 4\]; give both \[H,W\]"):
        add_salient_background(foreground, saliency_HW=saliency[:, :4], threshold=0.06)


def test_salient_background_by_its_definition() -> None:
    random = torch.Generator().manual_seed(3)
    foreground = torch.tensor([3, 200, 255], dtype=torch.uint8)[torch.randint(3, (13, 17), generator=random)]
    saliency = torch.randint(256, (13, 17), generator=random).to(torch.uint8)
    label = add_salient_background(foreground, saliency_HW=saliency, threshold=0.4)
    for y in range(13):
        for x in range(17):
            seed, share = int(foreground[y, x]), int(saliency[y, x]) / 255
            assert int(label[y, x]) == (seed if seed != 255 else 0 if share < 0.4 else 255)


def test_foreground_is_that_of_both_thresholds() -> None:
    cam = torch.rand(3, 17, 11, generator=torch.Generator().manual_seed(0)) ** 3
    both = two_threshold_seeds(
        cam, classes=[128, 200, 254], foreground_threshold=0.4, background_threshold=0.1, refine=None
    )
    alone = foreground_seeds(cam, classes=[128, 200, 254], foreground_threshold=0.4, refine=None)
    assert torch.equal(alone, torch.where(both == 0, 255, both).to(torch.uint8))
    assert foreground_seeds(torch.zeros(0, 5, 3), classes=[], foreground_threshold=0.4, refine=None).unique() == 255


def test_a_fifth_of_the_maximum_is_a_threshold_on_normalised_maps() -> None:
    """SEC's and DSRG's rule, map > 0.2 * its maximum, of one class."""
    raw = 7 * torch.rand(1, 13, 19, generator=torch.Generator().manual_seed(4)) ** 4
    label = foreground_seeds(raw / raw.amax(), classes=[5], foreground_threshold=0.2, refine=None)
    wanted = torch.where(raw[0] > 0.2 * raw.amax(), 5, 255)
    assert torch.equal(label, wanted.to(torch.uint8)) and 0.1 < (label == 5).float().mean() < 0.9


def test_cells_are_decided_after_averaging() -> None:
    """Two of four pixels are strongly foreground: at the pixels' majority, background wins, on average foreground."""
    foreground = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.3, 0.1, 0.0, 0.0]])
    much = torch.stack([torch.tensor([[0.1, 0.4, 0.0, 1.0], [0.4, 0.2, 0.0, 1.0]]), foreground])
    little = torch.stack([torch.tensor([[0.0, 0.4, 0.0, 0.5], [0.4, 0.2, 0.0, 0.5]]), foreground])
    label = pooled_exponent_seeds(much, little_LHW=little, classes=[7], stride=2)
    assert label.tolist() == [[7, 0]] and label.dtype == torch.uint8
    assert exponent_seeds(much, little_LHW=little, classes=[7]).tolist() == [[7, 0, 255, 0], [0, 0, 255, 0]]
    more = much + torch.tensor([0.3, 0.0])[:, None, None]
    undecided = pooled_exponent_seeds(more, little_LHW=little, classes=[7], stride=2)
    assert undecided.tolist() == [[255, 0]]
    nothing = torch.zeros(2, 2, 2)
    assert pooled_exponent_seeds(nothing, little_LHW=nothing, classes=[7], stride=2).tolist() == [[255]]
    with pytest.raises(ValueError, match="scores have 2 x 4 pixels; allowed: multiples of the stride 4"):
        pooled_exponent_seeds(much, little_LHW=little, classes=[7], stride=4)


def test_the_background_of_a_map_just_above_one_is_zero() -> None:
    """Magnified scores may exceed 1 by rounding: a negative number has no fractional power."""
    scores = exponent_scores(torch.tensor([[[1.0005, 0.5]]]), exponent=4.5)
    assert scores[0].flatten().tolist() == pytest.approx([0.0, 0.5**4.5])
