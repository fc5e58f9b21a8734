"""Test-time augmentation against its definition, computed view by view."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.ops.multi_scale import scaled_views, view_sizes
from wsss.ops.tta import predict_views

GOLDEN = np.load(Path(__file__).parent / "data" / "tta.npz", allow_pickle=False)
CASES = range(int(GOLDEN["n_cases"]))
SCALES = GOLDEN["scales"].tolist()
FLIPS = (False, True)


def golden(case: int, name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[f"c{case}_{name}"])


def network(case: int) -> Callable[[Tensor], Tensor]:
    weight = {layer: golden(case, f"w_{layer}_weight") for layer in ("c1", "c2", "c3")}
    bias = {layer: golden(case, f"w_{layer}_bias") for layer in ("c1", "c2", "c3")}

    def logits(view: Tensor) -> Tensor:
        hidden = F.conv2d(view, weight["c1"], bias["c1"], padding=1).relu()
        hidden = F.conv2d(hidden, weight["c2"], bias["c2"], stride=2, padding=1).relu()
        return F.conv2d(hidden, weight["c3"], bias["c3"])

    return logits


def test_each_view() -> None:
    plain = network(0)
    views = scaled_views(golden(0, "input"), scales=SCALES, flips=FLIPS)
    for n, (view, flipped) in enumerate(views):
        logits = plain(view).flip(-1) if flipped else plain(view)
        torch.testing.assert_close(logits[0], golden(0, f"view{n}_logits"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_view_sizes(case: int) -> None:
    image = golden(case, "input")
    sizes = view_sizes((image.shape[2], image.shape[3]), scales=SCALES)
    assert sizes == [tuple(size) for size in golden(case, "view_sizes").tolist()]


@pytest.mark.parametrize("case", CASES)
def test_merged(case: int) -> None:
    image = golden(case, "input")
    settings = {"network": network(case), "scales": SCALES, "flips": FLIPS}
    logits = predict_views(image, merge="mean_logits", **settings)[0]
    probabilities = predict_views(image, merge="mean_probabilities", **settings)[0]
    torch.testing.assert_close(logits, golden(case, "mean_logits"), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.softmax(dim=0), golden(case, "prob_from_mean_logits"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probabilities, golden(case, "mean_prob"), rtol=1e-4, atol=1e-5)
    sure = golden(case, "label_sure")
    assert torch.equal(logits.argmax(dim=0)[sure], golden(case, "label_mean_logits").long()[sure])
    assert float((probabilities.argmax(dim=0) == golden(case, "label_mean_prob")).double().mean()) > 0.995
