from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from wsss.ops.dropout_cam import dropout_cam
from wsss.ops.kept_draws import DrawKey, draw_kept
from wsss.ops.stochastic_cam import stochastic_cam

SIZE, CHANNELS, CLASSES, KERNEL_SIZE = (5, 7), 3, [4, 2], 3
KEY = DrawKey((7, 11))


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(CHANNELS, *SIZE, generator=generator, dtype=torch.float64).relu()
    return features, torch.randn(5, CHANNELS, KERNEL_SIZE, KERNEL_SIZE, generator=generator, dtype=torch.float64)


def by_back_propagation(num_samples: int, drop_rate: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop units of the map, convolve, pool, and go back from every class's score."""
    features, weights = drawn()
    maps = []
    for sample in range(num_samples):
        kept = draw_kept(features.numel(), drop_rate=drop_rate, key=KEY, first=sample).view(features.shape)
        x = features.clone().requires_grad_()
        scores = F.conv2d((x * kept / (1 - drop_rate))[None], weights, padding=KERNEL_SIZE // 2).mean((2, 3))[0]
        slopes = [torch.autograd.grad(scores[c - 1], x, retain_graph=True)[0] for c in CLASSES]
        of_sample = torch.stack([(features * slope).sum(0).relu() for slope in slopes])
        maps.append(of_sample / of_sample.amax((1, 2), keepdim=True).clamp_min(1e-30))
    stacked = torch.stack(maps)
    return stacked.mean(0), stacked.amax(0)


@pytest.mark.parametrize("drop_rate", [0.0, 0.5, 0.9])
def test_maps_are_those_of_back_propagation(drop_rate: float) -> None:
    features, weights = drawn()
    mean, peak = dropout_cam(
        features,
        weights_CDss=weights,
        classes=CLASSES,
        num_samples=5,
        drop_rate=drop_rate,
        key=KEY,
    )
    wanted_mean, wanted_peak = by_back_propagation(5, drop_rate)
    torch.testing.assert_close(mean, wanted_mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(peak, wanted_peak, rtol=1e-10, atol=1e-12)
    assert mean.shape == (2, *SIZE) and float(peak.max()) == 1.0


def test_without_dropout_it_is_ficklenets_map_without_dropout() -> None:
    features, weights = drawn()
    maps = [
        make(
            features,
            weights_CDss=weights,
            classes=CLASSES,
            num_samples=1,
            drop_rate=0.0,
            key=KEY,
        )[0]
        for make in (dropout_cam, stochastic_cam)
    ]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-10, atol=1e-12)


def test_refusals() -> None:
    features, weights = drawn()
    given = {"weights_CDss": weights, "key": KEY}
    with pytest.raises(ValueError, match="num_samples is 0"):
        dropout_cam(features, classes=CLASSES, num_samples=0, drop_rate=0.5, **given)
    with pytest.raises(ValueError, match="drop_rate is 1"):
        dropout_cam(features, classes=CLASSES, num_samples=1, drop_rate=1.0, **given)
    with pytest.raises(ValueError, match=r"class ids 1\.\.5"):
        dropout_cam(features, classes=[6], num_samples=1, drop_rate=0.5, **given)
