from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.ops.tta import predict_views

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
    with pytest.raises(ValueError, match='merge is \'max\'; allowed: "mean_logits", "mean_probabilities"'):
        predict_views(image(), network=network, scales=(1.0,), flips=(False,), merge="max")  # type: ignore[arg-type]
