from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.ops import tta
from wsss.ops.tta import (
    ViewLogits,
    merged_bands,
    predict_views,
    softmax_of_classes,
    with_class_weights,
    without_classes,
)

WEIGHT = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))


def network(view: Tensor) -> Tensor:
    return F.conv2d(view, WEIGHT, stride=2, padding=1)


def image() -> Tensor:
    return torch.randn(2, 3, 11, 17, generator=torch.Generator().manual_seed(2))


def test_one_view_is_the_network() -> None:
    logits = predict_views(image(), network=network, scales=(1.0,), flips=(False,), merge="mean_logits")
    torch.testing.assert_close(
        logits, F.interpolate(network(image()), size=(11, 17), mode="bilinear", align_corners=False)
    )


@pytest.mark.parametrize("size", [None, (23, 13)])
def test_definition(size: tuple[int, int] | None) -> None:
    target = size or (11, 17)
    views = []
    for height, width in [(6, 9), (11, 17)]:
        view = F.interpolate(image(), size=(height, width), mode="bilinear", align_corners=False)
        for logits in (network(view), network(view.flip(3)).flip(3)):
            views.append(F.interpolate(logits, size=target, mode="bilinear", align_corners=False))
    settings = {"network": network, "scales": (0.5, 1.0), "flips": (False, True), "size": size}
    mean_logits = predict_views(image(), merge="mean_logits", **settings)
    mean_probabilities = predict_views(image(), merge="mean_probabilities", **settings)
    torch.testing.assert_close(mean_logits, torch.stack(views).mean(dim=0))
    torch.testing.assert_close(mean_probabilities, torch.stack(views).softmax(dim=2).mean(dim=0))
    torch.testing.assert_close(mean_probabilities.sum(dim=1), torch.ones(2, *target))
    assert not torch.allclose(mean_logits.softmax(dim=1), mean_probabilities, atol=1e-3)


def test_with_both_orientations_mirroring_the_image_mirrors_the_result() -> None:
    settings = {"network": network, "scales": (1.0, 1.5), "flips": (False, True), "merge": "mean_logits"}
    torch.testing.assert_close(predict_views(image().flip(3), **settings), predict_views(image(), **settings).flip(3))


def test_no_graph_is_kept() -> None:
    result = predict_views(
        image().requires_grad_(), network=network, scales=(1.0,), flips=(False,), merge="mean_logits"
    )
    assert not result.requires_grad


def test_another_merge_is_refused() -> None:
    fault = 'merge is \'mean\'; allowed: "mean_logits", "mean_probabilities", "max"'
    with pytest.raises(ValueError, match=fault):
        predict_views(image(), network=network, scales=(1.0,), flips=(False,), merge="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=fault):
        next(merged_bands([view(3, 5)], subsets=[[0]], merge="mean", size=(7, 5)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"subsets is \[\[0\], \[\]\]; allowed: one or more views in each"):
        next(merged_bands([view(3, 5)], subsets=[[0], []], merge="max", size=(7, 5)))


def view(height: int, width: int, *, mirrored: bool = False, num_classes: int = 3) -> ViewLogits:
    """Logits on a grid of stride 4 over a view that was extended by one row and two columns."""
    generator = torch.Generator().manual_seed(height * width + mirrored)
    logits = 3 * torch.randn(num_classes, height, width, generator=generator)
    extended = (4 * height, 4 * width)
    return ViewLogits(logits=logits, extended=extended, size=(extended[0] - 1, extended[1] - 2), mirrored=mirrored)


def way_to_the_image(one: ViewLogits, size: tuple[int, int]) -> Tensor:
    """The definition: what the segmenter's head and a resize make of the whole of the logits."""
    whole = F.interpolate(one.logits[None], size=one.extended, mode="bilinear", align_corners=True)
    cropped = whole[..., : one.size[0], : one.size[1]]
    oriented = cropped.flip(-1) if one.mirrored else cropped
    return F.interpolate(oriented, size=size, mode="bilinear", align_corners=False)[0]


VIEWS = [view(h, w, mirrored=mirrored) for h, w in ((5, 7), (3, 2), (11, 13)) for mirrored in (False, True)]
SUBSETS = [(0,), (0, 1), (0, 2, 4), (0, 1, 2, 3, 4, 5), (4, 4, 5)]
BAND_SIZES = [(37, 29), (19, 26), (1, 3), (61, 2)]


def whole_of(size: tuple[int, int], merge: Any, subsets: Any = SUBSETS) -> list[Tensor]:
    bands = list(merged_bands(VIEWS, subsets=subsets, merge=merge, size=size))
    rows = [row for band, _ in bands for row in range(band.start, band.stop)]
    assert rows == list(range(size[0]))
    return [torch.cat(parts, 1) for parts in zip(*(merged for _, merged in bands), strict=True)]


@pytest.mark.parametrize("size", BAND_SIZES)
@pytest.mark.parametrize("merge", ["mean_logits", "mean_probabilities", "max"])
def test_bands_by_their_definition(size: tuple[int, int], merge: Any) -> None:
    ways = torch.stack([way_to_the_image(one, size) for one in VIEWS])
    for subset, found in zip(SUBSETS, whole_of(size, merge), strict=True):
        terms = ways[list(subset)]
        terms = terms if merge == "mean_logits" else terms.softmax(1)
        wanted = terms.amax(0) / terms.amax(0).sum(0) if merge == "max" else terms.mean(0)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("size", BAND_SIZES)
@pytest.mark.parametrize("merge", ["mean_logits", "mean_probabilities", "max"])
def test_no_value_depends_on_where_bands_begin_or_on_other_subsets(
    size: tuple[int, int], merge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whole_of(size, merge)
    for num_rows in (1, 2, 3, 7, 16):
        monkeypatch.setattr(tta, "_BAND_VALUES", 3 * size[1] * num_rows)
        assert len(list(merged_bands(VIEWS, subsets=SUBSETS, merge=merge, size=size))) == -(-size[0] // num_rows)
        for one, other in zip(whole, whole_of(size, merge), strict=True):
            assert torch.equal(one, other)
    for subset, one in zip(SUBSETS, whole, strict=True):
        assert torch.equal(whole_of(size, merge, [subset])[0], one)


@pytest.mark.parametrize("num_classes", [1, 2, 21, 201])
def test_softmax_does_not_depend_on_the_place(num_classes: int) -> None:
    logits = 5 * torch.randn(num_classes, 13, 29, generator=torch.Generator().manual_seed(num_classes))
    whole = softmax_of_classes(logits)
    torch.testing.assert_close(whole, logits.softmax(0))
    for step in (1, 2, 5):
        parts = [softmax_of_classes(logits[:, first : first + step]) for first in range(0, 13, step)]
        assert torch.equal(torch.cat(parts, 1), whole)


def test_maximum_of_the_views() -> None:
    settings = {"network": network, "scales": (0.5, 1.0), "flips": (False, True)}
    views = [
        predict_views(image(), network=network, scales=(s,), flips=(f,), merge="max")
        for s in (0.5, 1.0)
        for f in (False, True)
    ]
    highest = torch.stack(views).amax(0)
    merged = predict_views(image(), merge="max", **settings)
    torch.testing.assert_close(merged, highest / highest.sum(1, keepdim=True))
    torch.testing.assert_close(merged.sum(1), torch.ones(2, 11, 17))


def test_probabilities_given_that_classes_are_absent() -> None:
    """p(c | no absent class) = p(c) / the sum of p over the classes left, of logits as of probabilities."""
    logits = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(8))
    absent, left = torch.tensor([False, True, False, True, False]), [0, 2, 4]
    probability = logits.softmax(0)
    wanted = torch.zeros_like(probability)
    wanted[left] = probability[left] / probability[left].sum(0)
    of_logits = softmax_of_classes(without_classes(logits, absent_C=absent, merge="mean_logits"))
    torch.testing.assert_close(of_logits, wanted)
    torch.testing.assert_close(without_classes(probability, absent_C=absent, merge="max"), wanted)
    nothing = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])[:, None, None]
    alone = without_classes(nothing, absent_C=absent, merge="mean_probabilities")
    assert alone.isfinite().all() and int(alone.argmax(0)) == 0
    with pytest.raises(ValueError, match="all 5 classes are absent; the background, at least"):
        without_classes(logits, absent_C=torch.ones(5, dtype=torch.bool), merge="max")


def test_class_weights_by_hand() -> None:
    probability = torch.tensor([0.5, 0.3, 0.2])[:, None, None]
    weights = torch.tensor([1.0, 0.1, 1.0]).log()
    found = with_class_weights(probability, log_weights_C=weights, merge="mean_probabilities")
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([0.5, 0.03, 0.2]) / 0.73)
    moved = with_class_weights(probability, log_weights_C=weights, merge="mean_logits")
    torch.testing.assert_close(moved[:, 0, 0], torch.tensor([0.5, 0.3 + math.log(0.1), 0.2]))


def test_class_weights_by_their_definition() -> None:
    logits = 3 * torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(8))
    weights = torch.tensor([0.0, -2.0, -0.5, -9.0, -4.0])
    probability = logits.softmax(0)
    found = with_class_weights(probability, log_weights_C=weights, merge="max")
    for y in range(3):
        for x in range(7):
            products = [float(probability[c, y, x]) * math.exp(float(weights[c])) for c in range(5)]
            assert found[:, y, x].tolist() == pytest.approx([p / sum(products) for p in products], rel=1e-5)
    of_logits = with_class_weights(logits, log_weights_C=weights, merge="mean_logits")
    torch.testing.assert_close(softmax_of_classes(of_logits), found)
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = with_class_weights(probability[order], log_weights_C=weights[order], merge="max")
    torch.testing.assert_close(permuted, found[order])
    moved = with_class_weights(probability, log_weights_C=weights - 500.0, merge="max")
    torch.testing.assert_close(moved, found, msg="only relative weights matter, however small")
    assert torch.equal(with_class_weights(logits, log_weights_C=torch.zeros(5), merge="mean_logits"), logits)
    with pytest.raises(ValueError, match=r"log weights are \[4\], merged views \[5, 3, 7\]; give one for each class"):
        with_class_weights(logits, log_weights_C=weights[1:], merge="max")
