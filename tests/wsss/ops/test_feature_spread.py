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
    """Three positions: two with the same direction, one orthogonal to them; evidence at the first and the last."""
    features = torch.tensor([[[1.0, 4.0, 0.0]], [[0.0, 0.0, 2.0]]])
    evidence = torch.tensor([[[3.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]])
    spread = spread_evidence(evidence, features_Dhw=features)
    torch.testing.assert_close(spread, torch.tensor([[[0.75, 0.75, 0.25]], [[0.0, 0.0, 0.0]]]))


def test_by_definition() -> None:
    evidence, features = drawn()
    f, e = features.flatten(1).T.tolist(), evidence.flatten(1).tolist()
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


def test_scales_of_features_and_evidence_do_not_matter_and_positions_may_be_permuted() -> None:
    evidence, features = drawn()
    wanted = spread_evidence(evidence, features_Dhw=features)
    lengths = torch.rand(1, H, W, dtype=torch.float64) + 0.1
    factors = torch.tensor([1e-9, 1.0, 1e6], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(spread_evidence(evidence * factors, features_Dhw=features * lengths), wanted)
    order = torch.randperm(H * W)
    permuted = spread_evidence(
        evidence.flatten(1)[:, order].reshape(K, H, W), features_Dhw=features.flatten(1)[:, order].reshape(D, H, W)
    )
    torch.testing.assert_close(permuted, wanted.flatten(1)[:, order].reshape(K, H, W))


def test_small_float32_evidence_and_positions_without_features() -> None:
    """Gradients behind average pooling are small; a ReLU's output may be 0 in all channels."""
    evidence, features = (x.float() for x in drawn())
    features[:, 2, 3] = 0
    wanted = spread_evidence(evidence, features_Dhw=features)
    torch.testing.assert_close(spread_evidence(evidence * 1e-12, features_Dhw=features), wanted)
    assert wanted.isfinite().all() and not wanted[:, 2, 3].any() and wanted.max() <= 1


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
