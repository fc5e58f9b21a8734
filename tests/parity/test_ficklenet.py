"""FickleNet against a naive transcription of the paper: expansion and autograd, in double precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.ops.stochastic_cam import ficklenet_label, stochastic_maps, stochastic_scores

GOLDEN = np.load(Path(__file__).parent / "data" / "ficklenet.npz", allow_pickle=False)
CASES = range(int(GOLDEN["n_cases"]))


def golden(case: int, name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[f"c{case}_{name}"])


def inputs(case: int) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    return golden(case, "x"), golden(case, "W"), golden(case, "masks"), [int(k) + 1 for k in golden(case, "keys0")]


@pytest.mark.parametrize("case", CASES)
def test_maps(case: int) -> None:
    features, weights, masks, classes = inputs(case)
    maps = stochastic_maps(features, weights_CDss=weights, classes=classes, masks=masks)
    assert float((maps - golden(case, "maps")).abs().max()) < 2e-6 * float(golden(case, "maps").max())


@pytest.mark.parametrize("case", CASES)
def test_scores(case: int) -> None:
    features, weights, masks, _ = inputs(case)
    batch = features.double().expand(len(masks), -1, -1, -1)
    scores = stochastic_scores(batch, weights_CDss=weights.double(), masks=masks)
    torch.testing.assert_close(scores, golden(case, "scores_f64"), rtol=1e-10, atol=1e-12)
    everything = stochastic_scores(features[None], weights_CDss=weights, masks=torch.ones_like(masks[:1]))
    torch.testing.assert_close(everything[0], golden(case, "scores_no_dropout"), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_no_dropout_maps(case: int) -> None:
    features, weights, masks, classes = inputs(case)
    maps = stochastic_maps(features, weights_CDss=weights, classes=classes, masks=torch.ones_like(masks[:1]))
    wanted = golden(case, "maps_no_dropout")
    assert float((maps[0] - wanted).abs().max()) < 2e-6 * float(wanted.max())


@pytest.mark.parametrize("case", CASES)
def test_aggregation(case: int) -> None:
    features, weights, masks, classes = inputs(case)
    maps = stochastic_maps(features, weights_CDss=weights, classes=classes, masks=masks)
    largest = maps.amax(dim=(2, 3), keepdim=True)
    normalised = maps / torch.where(largest > 0, largest, 1.0)
    mean, peak = normalised.mean(dim=0), normalised.amax(dim=0)
    torch.testing.assert_close(mean, golden(case, "mean_map_norm"), rtol=1e-5, atol=1e-6)
    label = ficklenet_label(mean, peak, classes=classes, theta=float(golden(case, "theta")))
    sure = golden(case, "label_sure")
    assert float(sure.double().mean()) > 0.9
    assert torch.equal(label[sure], golden(case, "label").long()[sure])


def test_expansion_of_the_definition() -> None:
    """The windows in the file have the order of our masks: row-major taps around the output position."""
    features, weights, masks, _ = inputs(0)
    s, (height, width) = weights.shape[-1], features.shape[-2:]
    windows = F.unfold(features[None], s, padding=s // 2).view(len(features), s, s, height, width)
    expanded = windows.permute(0, 3, 1, 4, 2).reshape(len(features), s * height, s * width)
    assert torch.equal(expanded, golden(0, "x_expanded"))
    keep = masks[0].view(s, s, height, width).permute(2, 0, 3, 1).reshape(s * height, s * width)
    assert torch.equal(keep, golden(0, "mask0_expanded"))
    score = F.conv2d((expanded * keep)[None], weights, stride=s).mean(dim=(2, 3))
    ours = stochastic_scores(features[None], weights_CDss=weights, masks=masks[:1])
    torch.testing.assert_close(ours, score, rtol=1e-4, atol=1e-6)
