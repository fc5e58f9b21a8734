from __future__ import annotations

import torch

from wsss.ops.relative_maps import relative_to_others

K, H, W = 3, 7, 11


def test_by_definition() -> None:
    maps = torch.rand(K, H, W, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = relative_to_others(maps)
    for k in range(K):
        for row in range(H):
            for column in range(W):
                others = sum(float(maps[j, row, column]) for j in range(K) if j != k)
                wanted = float(maps[k, row, column]) / (1 + others)
                assert abs(float(found[k, row, column]) - wanted) < 1e-12


def test_the_strongest_class_stays_the_strongest_and_an_only_class_stays_as_it_is() -> None:
    maps = torch.rand(K, H, W, generator=torch.Generator().manual_seed(3))
    found = relative_to_others(maps)
    assert torch.equal(found.argsort(dim=0), maps.argsort(dim=0))
    assert (found <= maps).all() and found.min() >= 0
    torch.testing.assert_close(relative_to_others(maps[:1]), maps[:1])
    torch.testing.assert_close(relative_to_others(maps[[2, 0, 1]]), found[[2, 0, 1]])
    assert relative_to_others(maps[:0]).shape == (0, H, W)


def test_a_position_where_no_other_class_is_active_keeps_its_value() -> None:
    maps = torch.tensor([[[0.8, 0.8]], [[0.0, 0.6]]])
    torch.testing.assert_close(relative_to_others(maps), torch.tensor([[[0.8, 0.5]], [[0.0, 0.6 / 1.8]]]))
