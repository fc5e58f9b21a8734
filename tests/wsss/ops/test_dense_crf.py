from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss.ops import dense_crf as module
from wsss.ops.dense_crf import (
    BilateralKernel,
    GaussianKernel,
    ImageCrf,
    bilateral_lattice_of,
    dense_crf,
    unary_from_labels,
    unary_from_probabilities,
)
from wsss.ops.permutohedral import build_lattice

GAUSSIAN = GaussianKernel(sxy=3, compat=3)
BILATERAL = BilateralKernel(sxy=50, srgb=5, compat=10)
HEIGHT, WIDTH, NUM_LABELS = 13, 19, 4


def _photo(height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Two flat regions with a little noise."""
    noise = torch.randint(0, 9, (height, width, 3), generator=torch.Generator().manual_seed(3))
    noise[:, width // 2 :] += torch.tensor([90, 40, 20])
    return (noise + 60).to(torch.uint8)


def _unary(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(5))


def _refine(unary: Tensor, **changes: object) -> Tensor:
    settings = {"image_HW3": _photo(), "num_iterations": 5, "gaussian": GAUSSIAN, "bilateral": BILATERAL}
    return dense_crf(unary, **{**settings, **changes})  # type: ignore[arg-type]


both_paths = pytest.mark.parametrize("in_torch", [False, True], ids=["loops", "torch"])


def _exact_mean_field(unary: Tensor, image: Tensor, *, num_iterations: int) -> Tensor:
    """The definition in double precision: every pair of pixels, no lattice."""
    num_labels, height, width = unary.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    num = len(pixels)
    place = torch.zeros(num, num, dtype=torch.float64)
    colour = torch.zeros(num, num, dtype=torch.float64)
    for i, (y, x) in enumerate(pixels):
        for j, (v, u) in enumerate(pixels):
            place[i, j] = (y - v) ** 2 + (x - u) ** 2
            colour[i, j] = ((image[y, x].double() - image[v, u].double()) ** 2).sum()
    weighted = torch.zeros(num, num, dtype=torch.float64)
    for compat, distance in (
        (GAUSSIAN.compat, place / GAUSSIAN.sxy**2),
        (BILATERAL.compat, place / BILATERAL.sxy**2 + colour / BILATERAL.srgb**2),
    ):
        kernel = torch.exp(-distance / 2)
        norm = kernel.sum(1).rsqrt()
        weighted += compat * norm[:, None] * kernel * norm[None, :]
    energy = unary.double().reshape(num_labels, num)
    q = torch.softmax(-energy, 0)
    for _ in range(num_iterations):
        q = torch.softmax(-energy + q @ weighted, 0)
    return q.view_as(unary)


@both_paths
def test_one_pixel_by_hand(in_torch: bool) -> None:
    """Alone, a pixel's normalised kernel is 1: z = log 3 + (1 + 2) (3/4 - 1/4)."""
    q = dense_crf(
        torch.tensor([0.0, math.log(3)]).view(2, 1, 1),
        image_HW3=torch.full((1, 1, 3), 7, dtype=torch.uint8),
        num_iterations=1,
        gaussian=GaussianKernel(sxy=3, compat=1),
        bilateral=BilateralKernel(sxy=50, srgb=5, compat=2),
        in_torch=in_torch,
    )
    odds = 3 * math.exp(1.5)
    torch.testing.assert_close(q.flatten(), torch.tensor([odds / (1 + odds), 1 / (1 + odds)]))


@both_paths
def test_close_to_the_exact_definition(in_torch: bool) -> None:
    unary, image = _unary(3, 11, 7), _photo(11, 7)
    q = _refine(unary, image_HW3=image, num_iterations=2, in_torch=in_torch)
    exact = _exact_mean_field(unary, image, num_iterations=2)
    assert (q - exact).abs().mean() < 0.03
    untouched = torch.softmax(-unary, 0)
    assert (untouched - exact).abs().mean() > 0.1


def test_filter_approximates_the_gaussian_sum() -> None:
    """On points denser than the lattice the normalised filter is close to n K n (5 % of its size at most)."""
    points_2N = 4 * torch.rand(2, 307, generator=torch.Generator().manual_seed(1))
    values_NC = torch.rand(307, 5, generator=torch.Generator().manual_seed(2))
    kernel = torch.exp(-(torch.cdist(points_2N.T, points_2N.T) ** 2) / 2)
    norm = kernel.sum(1).rsqrt()
    exact = norm[:, None] * (kernel @ (norm[:, None] * values_NC))
    filtered = build_lattice(points_2N).filter(values_NC)
    assert ((filtered - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4, 5])
def test_channels_are_filtered_independently(num_channels: int) -> None:
    lattice = bilateral_lattice_of(_photo(), kernel=BILATERAL)
    values_NC = _unary(HEIGHT * WIDTH, 5)
    alone = torch.cat([lattice.filter(values_NC[:, [c]].contiguous()) for c in range(num_channels)], 1)
    torch.testing.assert_close(lattice.filter(values_NC[:, :num_channels].contiguous()), alone)


def test_far_points_do_not_meet() -> None:
    """Three points many deviations apart: each keeps its own value, though their keys need 64 bits."""
    points = torch.tensor([[0.0, 900.0, -900.0]] * 5)
    values = torch.tensor([[1.0], [2.0], [3.0]])
    torch.testing.assert_close(build_lattice(points).filter(values), values)


def test_sums_to_one_and_is_reproducible() -> None:
    q = _refine(_unary(NUM_LABELS, HEIGHT, WIDTH))
    torch.testing.assert_close(q.sum(0), torch.ones(HEIGHT, WIDTH))
    assert q.shape == (NUM_LABELS, HEIGHT, WIDTH) and q.dtype == torch.float32 and q.min() >= 0
    assert torch.equal(q, _refine(_unary(NUM_LABELS, HEIGHT, WIDTH)))


def test_permuting_classes_permutes_the_result() -> None:
    unary, order = _unary(NUM_LABELS, HEIGHT, WIDTH), [2, 0, 3, 1]
    torch.testing.assert_close(_refine(unary[order]), _refine(unary)[order], atol=1e-5, rtol=1e-5)


@both_paths
@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_several_unaries_of_one_image_equal_one_by_one(num_labels: int, in_torch: bool) -> None:
    unary = _unary(3, num_labels, HEIGHT, WIDTH)
    one_by_one = torch.stack([_refine(u, in_torch=in_torch) for u in unary])
    torch.testing.assert_close(_refine(unary, in_torch=in_torch), one_by_one, atol=1e-5, rtol=1e-5)


@both_paths
def test_unaries_one_after_another_share_the_lattices(in_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    name = "bilateral_lattice_of" if in_torch else "pixel_lattice"
    build = getattr(module, name)

    def counted(*given: object, **settings: object) -> object:
        built.append(name)
        return build(*given, **settings)

    monkeypatch.setattr(module, name, counted)
    module._places_lattice.cache_clear()
    crf = ImageCrf(_photo(), num_iterations=5, gaussian=GAUSSIAN, bilateral=BILATERAL, in_torch=in_torch)
    given = [_unary(2, HEIGHT, WIDTH), _unary(3, 4, HEIGHT, WIDTH), _unary(1, HEIGHT, WIDTH)]
    found = [crf(unary) for unary in given]
    assert len(built) == (1 if in_torch else 2), "the lattice of the appearance kernel, and in loops that of the places"
    for unary, one in zip(given, found, strict=True):
        assert torch.equal(one, _refine(unary, in_torch=in_torch))


@pytest.mark.parametrize(("num_unaries", "num_labels"), [(1, 2), (2, 2), (1, 3), (2, 3), (1, 5), (3, 3), (1, 13)])
def test_loops_and_torch_agree(num_unaries: int, num_labels: int) -> None:
    """The number of channels decides which compiled loop is used."""
    unary = _unary(num_unaries, num_labels, HEIGHT, WIDTH)
    torch.testing.assert_close(_refine(unary), _refine(unary, in_torch=True), atol=1e-5, rtol=0)


def test_loops_and_torch_agree_on_colours_that_fill_the_hash_table() -> None:
    """Every pixel of another colour: each has vertices of its own, and the table grows twice."""
    image = torch.randint(0, 256, (HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    unary = _unary(3, HEIGHT, WIDTH)
    in_torch = _refine(unary, image_HW3=image, in_torch=True)
    torch.testing.assert_close(_refine(unary, image_HW3=image), in_torch, atol=1e-5, rtol=0)


def test_energies_far_apart_give_certain_labels() -> None:
    unary = torch.zeros(3, HEIGHT, WIDTH)
    unary[1] = -1e4
    expected = torch.zeros_like(unary)
    expected[1] = 1
    torch.testing.assert_close(_refine(unary), expected, atol=1e-30, rtol=0)


@both_paths
@pytest.mark.parametrize("num_iterations", [0, 4])
def test_without_kernels_or_iterations_it_is_the_softmax(in_torch: bool, num_iterations: int) -> None:
    unary = _unary(3, HEIGHT, WIDTH)
    compat = 0 if num_iterations else 10
    q = _refine(
        unary,
        num_iterations=num_iterations,
        gaussian=GaussianKernel(sxy=3, compat=compat),
        bilateral=BilateralKernel(sxy=50, srgb=5, compat=compat),
        in_torch=in_torch,
    )
    torch.testing.assert_close(q, torch.softmax(-unary, 0))


def test_one_label_gives_ones() -> None:
    unary = unary_from_labels(torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8), num_labels=1, gt_prob=0.7)
    assert torch.equal(_refine(unary), torch.ones(1, HEIGHT, WIDTH))


def test_stray_pixel_takes_the_label_around_it() -> None:
    label = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    label[:, WIDTH // 2 :] = 1
    expected = label.clone()
    label[5, 3], label[6, 15] = 1, 0
    q = _refine(unary_from_labels(label, num_labels=2, gt_prob=0.7))
    assert torch.equal(q.argmax(0), expected)


def test_unaries_by_hand() -> None:
    unary = unary_from_labels(torch.tensor([[0, 2]], dtype=torch.uint8), num_labels=3, gt_prob=0.6)
    low, high = -math.log(0.6), -math.log(0.2)
    torch.testing.assert_close(unary, torch.tensor([[[low, high]], [[high, high]], [[high, low]]]))
    energies = unary_from_probabilities(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1))
    torch.testing.assert_close(energies.flatten(), torch.tensor([-math.log(1e-5), math.log(2), 0.0]))


def test_errors_say_what_came_and_what_to_give() -> None:
    unary = _unary(2, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"\(2, 13, 19\).*\(19, 13, 3\).*same H and W"):
        _refine(unary, image_HW3=_photo().transpose(0, 1))
    with pytest.raises(ValueError, match=r"torch.float32; give uint8"):
        _refine(unary, image_HW3=_photo().float())
    with pytest.raises(ValueError, match="num_iterations = -1"):
        _refine(unary, num_iterations=-1)
    with pytest.raises(ValueError, match=r"bilateral.srgb = 0"):
        BilateralKernel(sxy=50, srgb=0, compat=10)
    with pytest.raises(ValueError, match=r"labels span 0..255; give indices 0..1"):
        unary_from_labels(torch.tensor([[0, 255]], dtype=torch.uint8), num_labels=2, gt_prob=0.7)
    with pytest.raises(ValueError, match=r"gt_prob = 1"):
        unary_from_labels(torch.tensor([[0, 1]]), num_labels=2, gt_prob=1.0)
    with pytest.raises(ValueError, match=r"\(7, 5\).*1 <= D <= 6"):
        build_lattice(torch.zeros(7, 5))
    with pytest.raises(ValueError, match=r"more than 63 bits can number; use wider kernels"):
        build_lattice(torch.tensor([[0.0, 1e9]] * 5))
