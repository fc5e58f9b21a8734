from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.pixel_pairs import path_pixels
from wsss.ops.random_walk import chebyshev_power, edge_affinity, feature_walk, random_walk, transition


def random_map(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_transition(edge_hw: Tensor, *, radius: int, beta: float) -> Tensor:
    """T of the definition, one pair at a time."""
    h, w = edge_hw.shape
    affinity_NN = torch.eye(h * w, dtype=torch.float64)
    for i in range(h * w):
        for j in range(h * w):
            (y, x), (dy, dx) = divmod(i, w), (j // w - i // w, j % w - i % w)
            if i != j and dy * dy + dx * dx < radius * radius:
                affinity_NN[i, j] = 1 - max(edge_hw[y + py, x + px].item() for py, px in path_pixels((dy, dx)))
    powered_NN = affinity_NN**beta
    return powered_NN / powered_NN.sum(0)


def test_two_pixels_by_hand() -> None:
    scores_Khw = torch.tensor([[[1.0, 0.0]]])
    edge_hw = torch.tensor([[0.0, 0.5]])
    # A = 1/2 between them, so with beta 1: T = [[2/3, 1/3], [1/3, 2/3]]; two steps from (1, 0).
    out_Khw = random_walk(scores_Khw, edge_hw=edge_hw, radius=2, beta=1.0, num_steps_log2=1)
    torch.testing.assert_close(out_Khw, torch.tensor([[[5 / 9, 4 / 9]]]))


@pytest.mark.parametrize("num_steps_log2", [0, 1, 3, 8])
@pytest.mark.parametrize(("size", "radius"), [((7, 11), 3), ((5, 3), 5), ((1, 13), 4), ((11, 1), 2), ((1, 1), 5)])
def test_walk_is_its_definition(size: tuple[int, int], radius: int, num_steps_log2: int) -> None:
    scores_Khw, edge_hw = random_map(2, *size), random_map(*size, seed=1) ** 3
    step_NN = dense_transition(edge_hw, radius=radius, beta=6.0)
    expected_KN = (scores_Khw * (1 - edge_hw)).flatten(1) @ torch.linalg.matrix_power(step_NN, 2**num_steps_log2)
    out_Khw = random_walk(scores_Khw, edge_hw=edge_hw, radius=radius, beta=6.0, num_steps_log2=num_steps_log2)
    torch.testing.assert_close(out_Khw.flatten(1), expected_KN, rtol=1e-10, atol=1e-12)


def test_operator_is_the_transposed_transition_and_its_layout_is_valid() -> None:
    edge_hw = random_map(5, 7)
    walk_NN = transition(edge_affinity(1 - edge_hw, radius=4, beta=3.0), radius=4)
    torch.sparse_csr_tensor(
        walk_NN.crow_indices(), walk_NN.col_indices(), walk_NN.values(), size=walk_NN.shape, check_invariants=True
    )
    torch.testing.assert_close(walk_NN.to_dense().t(), dense_transition(edge_hw, radius=4, beta=3.0))
    torch.testing.assert_close(walk_NN.to_dense().sum(1), torch.ones(35, dtype=torch.float64))


def test_float32_is_within_rounding_of_float64() -> None:
    scores_Khw, edge_hw = random_map(3, 29, 31).float(), random_map(29, 31, seed=1).float() ** 2
    out, exact = (
        random_walk(s, edge_hw=e, radius=5, beta=10.0, num_steps_log2=8)
        for s, e in ((scores_Khw, edge_hw), (scores_Khw.double(), edge_hw.double()))
    )
    assert out.dtype == torch.float32
    assert (out - exact).abs().max() < 1e-6 * exact.max()


def test_scores_do_not_cross_a_closed_wall_and_fill_an_open_room() -> None:
    edge_hw = torch.zeros(7, 13)
    edge_hw[:, 5:7] = 1
    scores_Khw = torch.zeros(1, 7, 13)
    scores_Khw[0, 3, 2] = 1
    out_hw = random_walk(scores_Khw, edge_hw=edge_hw, radius=5, beta=10.0, num_steps_log2=8)[0]
    assert out_hw[:, 5:].count_nonzero() == 0
    assert out_hw[:, :5].min() > 0.9 * out_hw[:, :5].max() > 0


def test_constants_stay_and_means_stay_between_the_extremes() -> None:
    open_hw = torch.zeros(11, 17)
    constant = random_walk(torch.full((1, 11, 17), 0.3), edge_hw=open_hw, radius=5, beta=10.0, num_steps_log2=8)
    torch.testing.assert_close(constant, torch.full((1, 11, 17), 0.3), rtol=1e-6, atol=0)
    edge_hw = random_map(11, 17) ** 0.2
    scores_Khw = (random_map(4, 11, 17, seed=2) > 0.95).double()
    out_Khw = random_walk(scores_Khw, edge_hw=edge_hw, radius=5, beta=10.0, num_steps_log2=8)
    seeds_Khw = scores_Khw * (1 - edge_hw)
    assert (out_Khw >= 0).all()
    assert (out_Khw.amax((1, 2)) <= seeds_Khw.amax((1, 2))).all()


def test_classes_do_not_mix_and_images_may_be_mirrored() -> None:
    scores_Khw, edge_hw = random_map(3, 7, 11), random_map(7, 11, seed=1)

    def walk(scores: Tensor, edge: Tensor) -> Tensor:
        return random_walk(scores, edge_hw=edge, radius=4, beta=8.0, num_steps_log2=5)

    out_Khw = walk(scores_Khw, edge_hw)
    torch.testing.assert_close(walk(scores_Khw[[2, 0, 1]], edge_hw), out_Khw[[2, 0, 1]])
    torch.testing.assert_close(walk(scores_Khw.flip(2), edge_hw.flip(1)), out_Khw.flip(2))
    torch.testing.assert_close(walk(scores_Khw.mT, edge_hw.mT), out_Khw.mT)


def test_no_class_gives_no_plane_and_half_precision_gives_float32() -> None:
    empty = random_walk(torch.zeros(0, 5, 7), edge_hw=torch.zeros(5, 7), radius=5, beta=10.0, num_steps_log2=8)
    assert empty.shape == (0, 5, 7)
    half = torch.ones(1, 5, 7, dtype=torch.float16)
    out_Khw = random_walk(half, edge_hw=torch.zeros(5, 7).half(), radius=5, beta=10.0, num_steps_log2=8)
    assert out_Khw.dtype == torch.float32


def test_repeating_gives_the_same_bits_and_leaves_the_inputs_alone() -> None:
    scores_Khw, edge_hw = random_map(2, 13, 17), random_map(13, 17, seed=1)
    before = scores_Khw.clone(), edge_hw.clone()
    first, second = (random_walk(scores_Khw, edge_hw=edge_hw, radius=5, beta=10.0, num_steps_log2=6) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(scores_Khw, before[0]) and torch.equal(edge_hw, before[1])


@pytest.mark.parametrize("num_steps", [1, 2, 8, 64, 256])
def test_chebyshev_weights_make_the_power(num_steps: int) -> None:
    weights = chebyshev_power(num_steps, tolerance=1e-9)
    angle = torch.linspace(0, torch.pi, 101, dtype=torch.float64)
    series = sum(weight * torch.cos(degree * angle) for degree, weight in enumerate(weights))
    torch.testing.assert_close(series, torch.cos(angle) ** num_steps, rtol=0, atol=2e-9)


def test_few_chebyshev_weights_matter() -> None:
    assert len(chebyshev_power(256, tolerance=1.2e-7)) == 85


def test_errors_name_the_remedy() -> None:
    scores_Khw, edge_hw = torch.zeros(2, 5, 7), torch.zeros(5, 7)
    with pytest.raises(ValueError, match=r"\(2, 5, 7\) and the edge or features \(7, 5\).* resize"):
        random_walk(scores_Khw, edge_hw=edge_hw.t(), radius=5, beta=10.0, num_steps_log2=8)
    with pytest.raises(ValueError, match="beta is 0"):
        random_walk(scores_Khw, edge_hw=edge_hw, radius=5, beta=0, num_steps_log2=8)
    with pytest.raises(ValueError, match="num_steps_log2 is -1"):
        random_walk(scores_Khw, edge_hw=edge_hw, radius=5, beta=10.0, num_steps_log2=-1)


def test_walk_over_features_is_its_definition() -> None:
    h, w, radius, beta = 5, 7, 3, 4.0
    scores_Khw, features_Dhw = random_map(2, h, w), 2 * random_map(3, h, w, seed=5)
    affinity_NN = torch.eye(h * w, dtype=torch.float64)
    for i in range(h * w):
        for j in range(h * w):
            (y, x), (v, u) = divmod(i, w), divmod(j, w)
            if i != j and (y - v) ** 2 + (x - u) ** 2 < radius**2:
                affinity_NN[i, j] = torch.exp(-(features_Dhw[:, y, x] - features_Dhw[:, v, u]).abs().mean())
    step_NN = affinity_NN**beta / (affinity_NN**beta).sum(0)
    expected_KN = scores_Khw.flatten(1) @ torch.linalg.matrix_power(step_NN, 8)
    out_Khw = feature_walk(scores_Khw, features_Dhw=features_Dhw, radius=radius, beta=beta, num_steps_log2=3)
    torch.testing.assert_close(out_Khw.flatten(1), expected_KN, rtol=1e-10, atol=1e-12)
    assert feature_walk(scores_Khw[:0], features_Dhw=features_Dhw, radius=3, beta=4.0, num_steps_log2=3).shape == (
        0,
        h,
        w,
    )
    with pytest.raises(ValueError, match="of one grid"):
        feature_walk(scores_Khw, features_Dhw=features_Dhw[..., 1:], radius=3, beta=4.0, num_steps_log2=3)


def test_images_walked_together_are_walked_as_alone() -> None:
    generator = torch.Generator().manual_seed(4)
    scores, edge = torch.rand(3, 2, 7, 11, generator=generator), torch.rand(3, 7, 11, generator=generator)
    scores[1, 1] = 0  # an image of one class, filled up
    walk = {"radius": 4, "beta": 3.0, "num_steps_log2": 5}
    together = random_walk(scores, edge_hw=edge, **walk)  # type: ignore[arg-type]
    alone = torch.stack([random_walk(s, edge_hw=e, **walk) for s, e in zip(scores, edge, strict=True)])  # type: ignore[arg-type]
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-7)
    assert not together[1, 1].any()
    features = torch.rand(3, 5, 7, 11, generator=generator)
    together = feature_walk(scores, features_Dhw=features, **walk)  # type: ignore[arg-type]
    alone = torch.stack([feature_walk(s, features_Dhw=f, **walk) for s, f in zip(scores, features, strict=True)])  # type: ignore[arg-type]
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-7)
