from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.ops.kept_draws import DrawKey
from wsss.ops.stochastic_cam import draw_masks, ficklenet_label, stochastic_cam, stochastic_maps, stochastic_scores

SIZE = (11, 17)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


KEY = DrawKey((3, 1 << 31))


def features_and_weights(dtype: torch.dtype = torch.float64, *, kernel_size: int = 5) -> tuple[Tensor, Tensor]:
    features = torch.randn(3, *SIZE, generator=generator(1), dtype=dtype)
    return features, torch.randn(7, 3, kernel_size, kernel_size, generator=generator(2), dtype=dtype)


def expanded_scores(features_Dhw: Tensor, *, weights: Tensor, mask_Thw: Tensor, kept_scale: float = 1.0) -> Tensor:
    """The paper's way: windows side by side, dropout, convolution of stride s, pooling."""
    s, (height, width) = weights.shape[-1], features_Dhw.shape[-2:]
    padded = F.pad(features_Dhw, (s // 2,) * 4)
    expanded = features_Dhw.new_zeros(features_Dhw.shape[0], s * height, s * width)
    for i in range(height):
        for j in range(width):
            keep = mask_Thw[:, i, j].view(s, s).to(features_Dhw) * kept_scale
            keep[s // 2, s // 2] = mask_Thw[s * s // 2, i, j]
            expanded[:, i * s : i * s + s, j * s : j * s + s] = padded[:, i : i + s, j : j + s] * keep
    return F.conv2d(expanded[None], weights, stride=s).mean(dim=(2, 3))[0]


def expanded_maps(features_Dhw: Tensor, *, weights: Tensor, mask_Thw: Tensor, classes: list[int]) -> Tensor:
    x = features_Dhw.clone().requires_grad_()
    scores = expanded_scores(x, weights=weights, mask_Thw=mask_Thw)
    gradients = [torch.autograd.grad(scores[c - 1], x, retain_graph=True)[0] for c in classes]
    return torch.stack([(features_Dhw * gradient).sum(dim=0).relu() for gradient in gradients])


def test_one_dimension_by_hand() -> None:
    features = torch.tensor([[[1.0, 2.0, 4.0]]])
    weights = torch.zeros(1, 1, 3, 3)
    weights[0, 0, 1] = torch.tensor([10.0, 1.0, 100.0])  # left neighbour, centre, right neighbour
    masks = torch.zeros(1, 9, 1, 3)
    masks[0, 4] = 1
    masks[0, 3, 0, 2] = 1  # the window of the last pixel sees its left neighbour, the middle pixel
    masks[0, 3, 0, 0] = 1  # this one sees padding
    assert torch.allclose(
        stochastic_scores(features[None], weights_CDss=weights, masks=masks), torch.tensor([[(7 + 10 * 2.0) / 3]])
    )
    maps = stochastic_maps(features, weights_CDss=weights, classes=[1], masks=masks)
    assert torch.allclose(maps, torch.tensor([[[[1.0, 2.0 + 10 * 2.0, 4.0]]]]) / 3)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_maps_and_scores_equal_expansion_and_autograd(kernel_size: int) -> None:
    features, weights = features_and_weights(kernel_size=kernel_size)
    masks = draw_masks(SIZE, kernel_size=kernel_size, drop_rate=0.6, num_samples=2, key=KEY)
    maps = stochastic_maps(features, weights_CDss=weights, classes=[6, 2], masks=masks)
    scores = stochastic_scores(features.expand(2, -1, -1, -1), weights_CDss=weights, masks=masks)
    for n in range(2):
        wanted = expanded_maps(features, weights=weights, mask_Thw=masks[n], classes=[6, 2])
        torch.testing.assert_close(maps[n], wanted)
        torch.testing.assert_close(scores[n], expanded_scores(features, weights=weights, mask_Thw=masks[n]))


def test_a_window_larger_than_the_image() -> None:
    features = torch.randn(3, 2, 3, generator=generator(1), dtype=torch.float64)
    weights = torch.randn(2, 3, 7, 7, generator=generator(2), dtype=torch.float64)
    masks = draw_masks((2, 3), kernel_size=7, drop_rate=0.5, num_samples=1, key=KEY)
    wanted = expanded_maps(features, weights=weights, mask_Thw=masks[0], classes=[1, 2])
    torch.testing.assert_close(stochastic_maps(features, weights_CDss=weights, classes=[1, 2], masks=masks)[0], wanted)


def test_kept_scale_multiplies_every_tap_but_the_centre() -> None:
    features, weights = features_and_weights()
    masks = draw_masks(SIZE, kernel_size=5, drop_rate=0.6, num_samples=1, key=KEY)
    scores = stochastic_scores(features[None], weights_CDss=weights, masks=masks, kept_scale=2.5)
    wanted = expanded_scores(features, weights=weights, mask_Thw=masks[0], kept_scale=2.5)
    torch.testing.assert_close(scores[0], wanted)


def test_maximum_is_taken_on_the_grid_that_maps_are_brought_to() -> None:
    """Any theta asked of the maximum is what asking every single map would say."""
    features, weights = features_and_weights()
    grid = (2 * SIZE[0] - 1, 2 * SIZE[1] + 3)

    def on_grid(maps: Tensor) -> Tensor:
        return F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)

    draw = {"kernel_size": 5, "drop_rate": 0.7}
    mean, peak = stochastic_cam(
        features,
        weights_CDss=weights,
        classes=[3, 1],
        num_samples=19,
        drop_rate=0.7,
        key=KEY,
        on_grid=on_grid,
    )
    masks = draw_masks(SIZE, num_samples=19, key=KEY, **draw)
    maps = stochastic_maps(features, weights_CDss=weights, classes=[3, 1], masks=masks)
    each = on_grid(maps / maps.amax((2, 3), keepdim=True))
    torch.testing.assert_close(mean, each.mean(0))
    for theta in (0.2, 0.35, 0.5, 0.7):
        assert torch.equal(peak > theta, (each > theta).any(0))
    plain = stochastic_cam(features, weights_CDss=weights, classes=[3, 1], num_samples=19, drop_rate=0.7, key=KEY)[1]
    assert ((on_grid(plain[None])[0] > 0.5) != (peak > 0.5)).any(), "the interpolated maximum is another map"


def test_everything_kept_is_an_ordinary_convolution() -> None:
    features, weights = features_and_weights()
    masks = draw_masks(SIZE, kernel_size=5, drop_rate=0.0, num_samples=1, key=KEY)
    assert bool(masks.all())
    wanted = F.conv2d(features[None], weights, padding=2).mean(dim=(2, 3))
    torch.testing.assert_close(stochastic_scores(features[None], weights_CDss=weights, masks=masks), wanted)


def test_scores_gradients() -> None:
    features = torch.randn(2, 3, 3, 5, generator=generator(1), dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, 3, 3, generator=generator(2), dtype=torch.float64, requires_grad=True)
    masks = draw_masks((3, 5), kernel_size=3, drop_rate=0.5, num_samples=2, key=KEY)
    assert torch.autograd.gradcheck(lambda x, w: stochastic_scores(x, weights_CDss=w, masks=masks), (features, weights))


def test_streamed_mean_and_peak_are_those_of_all_maps() -> None:
    features, weights = features_and_weights()
    draw = {"drop_rate": 0.7, "num_samples": 19}
    mean, peak = stochastic_cam(features, weights_CDss=weights, classes=[5, 1, 7], key=KEY, **draw)
    masks = draw_masks(SIZE, kernel_size=5, key=KEY, **draw)
    maps = stochastic_maps(features, weights_CDss=weights, classes=[5, 1, 7], masks=masks)
    normalised = maps / maps.amax(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(mean, normalised.mean(dim=0))
    torch.testing.assert_close(peak, normalised.amax(dim=0))
    assert float((peak - mean).max()) > 0.1


def test_a_map_of_zeros_stays_zero() -> None:
    features = torch.ones(1, *SIZE)
    weights = torch.stack([-torch.ones(1, 3, 3), torch.ones(1, 3, 3)])
    mean, peak = stochastic_cam(features, weights_CDss=weights, classes=[1, 2], num_samples=3, drop_rate=0.5, key=KEY)
    assert not bool(mean[0].any()) and not bool(peak[0].any())
    assert float(peak[1].max()) == 1.0


def test_masks_are_bernoulli_with_the_centre_kept() -> None:
    masks = draw_masks(SIZE, kernel_size=5, drop_rate=0.9, num_samples=101, key=KEY)
    assert masks.shape == (101, 25, *SIZE) and masks.dtype == torch.bool
    assert bool(masks[:, 12].all())
    others = torch.cat([masks[:, :12], masks[:, 13:]], dim=1).double()
    for dims in [(0, 1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2), (1, 2, 3)]:
        means = others.mean(dim=dims)
        num_draws = others.numel() / max(means.numel(), 1)
        assert float((means - 0.1).abs().max()) < 5 * (0.09 / num_draws) ** 0.5
    centred = others - 0.1
    for dim in range(4):
        shifted = (centred * centred.roll(1, dims=dim)).mean()
        assert abs(float(shifted)) < 5 * 0.09 / others.numel() ** 0.5


def test_samples_are_numbered() -> None:
    draw = {"kernel_size": 3, "drop_rate": 0.5, "key": KEY}
    parts = [draw_masks(SIZE, num_samples=n, first=first, **draw) for n, first in ((3, 0), (4, 3))]
    assert torch.equal(torch.cat(parts), draw_masks(SIZE, num_samples=7, **draw))
    assert not torch.equal(parts[0][0], parts[0][1])


def test_the_mean_of_views_drawn_apart_is_that_of_all() -> None:
    features, weights = features_and_weights()
    draw = {"weights_CDss": weights, "classes": [2, 5], "drop_rate": 0.7, "key": KEY}
    (one, first), (other, second) = (
        stochastic_cam(features, num_samples=n, first=start, **draw) for n, start in ((13, 0), (6, 13))
    )
    mean, peak = stochastic_cam(features, num_samples=19, **draw)
    torch.testing.assert_close((13 * one + 6 * other) / 19, mean)
    assert torch.equal(torch.maximum(first, second), peak)


def test_label_by_hand() -> None:
    #                     both, first has the mean | second only | equal to theta | tie of means | none
    mean = torch.tensor([[[0.4, 0.9, 0.2, 0.3, 0.0]], [[0.3, 0.1, 0.1, 0.3, 0.0]]])
    peak = torch.tensor([[[0.6, 0.5, 0.5, 0.8, 0.0]], [[0.9, 0.6, 0.4, 0.9, 0.0]]])
    label = ficklenet_label(mean, peak, classes=[200, 3], theta=0.5)
    assert label.dtype == torch.int64
    assert label.tolist() == [[200, 3, 255, 200, 255]]
    assert ficklenet_label(mean[:0], peak[:0], classes=[], theta=0.5).tolist() == [[255] * 5]
    with pytest.raises(ValueError, match="with 1 classes"):
        ficklenet_label(mean, peak, classes=[3], theta=0.5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kernel_size": 4}, "odd numbers"),
        ({"drop_rate": 1.0}, "from 0 to below 1"),
        ({"size_hw": (0, 5)}, "at least one row"),
    ],
)
def test_impossible_draws_are_refused(changed: dict[str, object], message: str) -> None:
    settings = {"size_hw": SIZE, "kernel_size": 3, "drop_rate": 0.5, "num_samples": 1} | changed
    with pytest.raises(ValueError, match=message):
        draw_masks(key=KEY, **settings)  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_refused() -> None:
    features, weights = features_and_weights()
    masks = draw_masks(SIZE, kernel_size=3, drop_rate=0.5, num_samples=1, key=KEY)
    with pytest.raises(ValueError, match=r"masks are \[1, 9, 11, 17\]; allowed: \[1, 25, 11, 17\]"):
        stochastic_maps(features, weights_CDss=weights, classes=[1], masks=masks)
    with pytest.raises(ValueError, match="2 channels, the weights read 3"):
        stochastic_scores(features[None, :2], weights_CDss=weights, masks=masks)
    with pytest.raises(ValueError, match="odd s"):
        stochastic_maps(features, weights_CDss=weights[..., :4, :4], classes=[1], masks=masks)
    with pytest.raises(ValueError, match=r"class ids 1\.\.7"):
        stochastic_maps(features, weights_CDss=weights[..., :3, :3], classes=[0], masks=masks)
    with pytest.raises(ValueError, match="num_samples is 0"):
        stochastic_cam(features, weights_CDss=weights, classes=[1], num_samples=0, drop_rate=0.5, key=KEY)
    with pytest.raises(ValueError, match=r"theta is 1\.5; allowed: from 0 to 1"):
        ficklenet_label(torch.zeros(1, 3, 5), torch.zeros(1, 3, 5), classes=[1], theta=1.5)
    with pytest.raises(ValueError, match=r"theta is -0\.1; allowed: from 0 to 1"):
        ficklenet_label(torch.zeros(1, 3, 5), torch.zeros(1, 3, 5), classes=[1], theta=-0.1)
