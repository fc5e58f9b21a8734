from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss.ops.feature_spread import fuse_stages, spread_evidence, stretch

D, K, H, W = 5, 3, 7, 11


def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    evidence = torch.rand(K, H, W, generator=generator, dtype=torch.float64)
    return evidence, torch.randn(D, H, W, generator=generator, dtype=torch.float64)


def test_by_hand() -> None:
    """Three positions differ from the mean (10, 5) in one direction or its opposite; the last one is the mean."""
    features = torch.tensor([[[11.0, 13.0, 6.0, 10.0]], [[5.0, 5.0, 5.0, 5.0]]])
    evidence = torch.tensor([[[3.0, 0.0, 1.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]])
    spread = spread_evidence(evidence, features_Dhw=features)
    torch.testing.assert_close(spread, torch.tensor([[[0.5, 0.5, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]]))


def test_by_definition() -> None:
    evidence, features = drawn()
    f, e = features.flatten(1).T.tolist(), evidence.flatten(1).tolist()
    middle = [sum(column) / len(f) for column in zip(*f, strict=True)]
    f = [[value - mean for value, mean in zip(position, middle, strict=True)] for position in f]
    expected = torch.zeros(K, H * W, dtype=torch.float64)
    for k in range(K):
        for p in range(H * W):
            total = 0.0
            for q in range(H * W):
                dot = sum(a * b for a, b in zip(f[p], f[q], strict=True))
                cosine = dot / math.sqrt(sum(a * a for a in f[p])) / math.sqrt(sum(b * b for b in f[q]))
                total += e[k][q] / sum(e[k]) * cosine
            expected[k, p] = max(total, 0.0)
    found = spread_evidence(evidence, features_Dhw=features)
    torch.testing.assert_close(found, expected.reshape(K, H, W))
    assert (found == 0).any() and (found > 0.05).any()


def test_scales_and_an_offset_do_not_matter_and_positions_may_be_permuted() -> None:
    evidence, features = drawn()
    wanted = spread_evidence(evidence, features_Dhw=features)
    offset = torch.arange(D, dtype=torch.float64)[:, None, None]
    factors = torch.tensor([1e-9, 1.0, 1e6], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(spread_evidence(evidence * factors, features_Dhw=7 * features + offset), wanted)
    order = torch.randperm(H * W)
    permuted = spread_evidence(
        evidence.flatten(1)[:, order].reshape(K, H, W), features_Dhw=features.flatten(1)[:, order].reshape(D, H, W)
    )
    torch.testing.assert_close(permuted, wanted.flatten(1)[:, order].reshape(K, H, W))


def test_small_float32_evidence_and_a_grid_of_one_position() -> None:
    """Gradients behind average pooling are small."""
    evidence, features = (x.float() for x in drawn())
    wanted = spread_evidence(evidence, features_Dhw=features)
    torch.testing.assert_close(spread_evidence(evidence * 1e-12, features_Dhw=features), wanted)
    assert wanted.isfinite().all() and wanted.max() <= 1
    one = spread_evidence(evidence[:, :1, :1], features_Dhw=features[:, :1, :1])
    assert one.isfinite().all() and not one.any(), "a grid of one position"


def test_no_class_and_shapes_that_do_not_fit() -> None:
    evidence, features = drawn()
    assert spread_evidence(evidence[:0], features_Dhw=features).shape == (0, H, W)
    with pytest.raises(ValueError, match=r"evidence is \[3, 7, 11\], features \[5, 11, 7\]; allowed: \[K,h,w\]"):
        spread_evidence(evidence, features_Dhw=features.mT)


def test_stretch_by_hand_and_a_constant_map() -> None:
    maps = torch.tensor([[[1.0, 2.0, 5.0]], [[4.0, 4.0, 4.0]]])
    torch.testing.assert_close(stretch(maps, eps=0.5), torch.tensor([[[0.0, 1 / 4.5, 4 / 4.5]], [[0.0, 0.0, 0.0]]]))


def test_stages_are_fused_on_the_first_ones_grid() -> None:
    fine = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])
    coarse = torch.tensor([[[10.0, 20.0]]])  # half-pixel centres: 0, 1/4, 3/4, 1 once stretched
    wanted = torch.tensor([[[0.0, (1 / 3 + 0.25) / 2, (2 / 3 + 0.75) / 2, 1.0]]])
    torch.testing.assert_close(fuse_stages([fine, coarse]), wanted, atol=2e-5, rtol=0)
    assert fuse_stages([fine[:0], coarse[:0]]).shape == (0, 1, 4)
    with pytest.raises(ValueError, match="no stage to fuse"):
        fuse_stages([])
