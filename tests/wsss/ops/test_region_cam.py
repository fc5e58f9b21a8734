from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wsss.ops.region_cam import region_cam, semantic_information

K, STAGES = 3, ((5, 7, 11), (13, 3, 5))  # channels, height, width


def drawn() -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(7)
    features = [torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in STAGES]
    return features, [torch.rand(K, *s[1:], generator=generator, dtype=torch.float64) ** 4 for s in STAGES]


def test_semantic_information_by_definition() -> None:
    gradient = torch.randn(2, 5, 3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = semantic_information(gradient)
    assert found.shape == (2, 3, 7)
    for b in range(2):
        for row in range(3):
            for column in range(7):
                wanted = sum(max(float(gradient[b, d, row, column]), 0.0) for d in range(5))
                assert float(found[b, row, column]) == pytest.approx(wanted)


def test_by_definition() -> None:
    """With the whole matrix of similarities, stage by stage."""
    features, evidence = drawn()
    total = torch.zeros(K, *STAGES[0][1:], dtype=torch.float64)
    for f, e in zip(features, evidence, strict=True):
        unit = F.normalize(f.flatten(1) - f.mean(dim=(1, 2))[:, None], dim=0)
        similarity = unit.T @ unit
        for k in range(K):
            spread = (similarity @ (e[k].flatten() / e[k].sum())).relu().reshape(f.shape[1:])
            stretched = (spread - spread.min()) / (spread.max() - spread.min() + 1e-5)
            total[k] += F.interpolate(stretched[None, None], size=STAGES[0][1:], mode="bilinear")[0, 0] / len(STAGES)
    found = region_cam(features, evidence=evidence)
    torch.testing.assert_close(found, total)
    assert found.min() >= 0 and found.max() < 1 and found.max() > 0.5


def test_evidence_at_one_place_reaches_the_whole_region_of_alike_features() -> None:
    """Two regions: one position of the left one has evidence, all of the left one and nothing of the right gets it."""
    features = torch.zeros(2, 5, 7)
    features[0, :, :3], features[1, :, 3:] = 1.0, 2.0
    evidence = torch.zeros(1, 5, 7)
    evidence[0, 1, 1] = 0.3
    found = region_cam([features], evidence=[evidence])
    assert (found[0, :, :3] > 0.999).all() and not found[0, :, 3:].any()


def test_permuting_classes_permutes_maps_and_no_class_gives_none() -> None:
    features, evidence = drawn()
    maps = region_cam(features, evidence=evidence)
    torch.testing.assert_close(region_cam(features, evidence=[e[[2, 0, 1]] for e in evidence]), maps[[2, 0, 1]])
    assert region_cam(features, evidence=[e[:0] for e in evidence]).shape == (0, 7, 11)
    silent = [torch.cat([e[:2], torch.zeros_like(e[:1])]) for e in evidence]
    torch.testing.assert_close(region_cam(features, evidence=silent)[:2], maps[:2])
    assert not region_cam(features, evidence=silent)[2].any(), "a class without evidence has no map"


def test_a_stage_without_evidence() -> None:
    features, evidence = drawn()
    with pytest.raises(ValueError, match="2 stages and evidence for 1"):
        region_cam(features, evidence=evidence[:1])
