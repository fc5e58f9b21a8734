from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wsss.ops.self_similarity import self_similarity_cam

K, STAGES = 2, ((5, 7, 11), (13, 3, 5))


def drawn() -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(9)
    features = [torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in STAGES]
    return torch.rand(K, 3, 5, generator=generator, dtype=torch.float64) ** 3, features


def test_by_definition() -> None:
    cam, features = drawn()
    total = torch.zeros(K, 7, 11, dtype=torch.float64)
    for f in features:
        on_grid = F.interpolate(cam[None], size=f.shape[1:], mode="bilinear")[0].flatten(1)
        unit = F.normalize(f.flatten(1) - f.mean(dim=(1, 2))[:, None], dim=0)
        for k in range(K):
            spread = ((unit.T @ unit) @ (on_grid[k] / on_grid[k].sum())).relu().reshape(f.shape[1:])
            stretched = (spread - spread.min()) / (spread.max() - spread.min() + 1e-5)
            total[k] += F.interpolate(stretched[None, None], size=(7, 11), mode="bilinear")[0, 0] / 2
    torch.testing.assert_close(self_similarity_cam(cam, features=features), total)


def test_a_map_is_completed_along_alike_features() -> None:
    features = torch.zeros(2, 5, 7)
    features[0, :, :3], features[1, :, 3:] = 1.0, 2.0
    cam = torch.zeros(1, 5, 7)
    cam[0, 0, 0], cam[0, 0, 6] = 1.0, 0.2
    found = self_similarity_cam(cam, features=[features])
    assert (found[0, :, :3] > 0.999).all() and not found[0, :, 3:].any(), "most of the evidence is on the left"


def test_permuting_classes_permutes_maps_and_the_scale_of_a_map_does_not_matter() -> None:
    cam, features = drawn()
    maps = self_similarity_cam(cam, features=features)
    torch.testing.assert_close(self_similarity_cam(cam[[1, 0]] * 37, features=features), maps[[1, 0]])
    assert self_similarity_cam(cam[:0], features=features).shape == (0, 7, 11)
    assert not self_similarity_cam(torch.zeros_like(cam), features=features).any()


def test_shapes_that_do_not_fit() -> None:
    cam, features = drawn()
    with pytest.raises(ValueError, match=r"the map is \[3, 5\]"):
        self_similarity_cam(cam[0], features=features)
    with pytest.raises(ValueError, match="no stage to fuse"):
        self_similarity_cam(cam, features=[])
