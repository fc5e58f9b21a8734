"""The dense CRF against pydensecrf2 1.1 (`dense_crf*.npz`): the same labels, and the same Q up to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsss.ops.dense_crf import (
    BilateralKernel,
    GaussianKernel,
    dense_crf,
    unary_from_labels,
    unary_from_probabilities,
)

GAUSSIAN = GaussianKernel(sxy=3, compat=3)
BILATERAL = {"A": BilateralKernel(sxy=50, srgb=5, compat=10), "B": BilateralKernel(sxy=80, srgb=13, compat=10)}
SYNTHETIC = Path(__file__).parent / "data" / "dense_crf_synth.npz"
PHOTOS = Path(__file__).parents[2].parent / "shared" / "golden" / "dense_crf.npz"


def _golden(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        pytest.skip(f"{path.name} contains photographs and is only in ../shared/golden, which does not exist here")
    with np.load(path, allow_pickle=False) as data:
        return dict(data)


def _assert_agrees(q: torch.Tensor, expected: np.ndarray) -> None:
    reference = torch.from_numpy(expected)
    assert (q - reference).abs().mean() <= 1e-5
    assert (q.argmax(0) == reference.argmax(0)).float().mean() >= 0.9999


CASES = [(SYNTHETIC, 0), (SYNTHETIC, 1), (PHOTOS, 0), (PHOTOS, 1), (PHOTOS, 2)]


@pytest.mark.parametrize("in_torch", [False, True], ids=["loops", "torch"])
@pytest.mark.parametrize("kernel", ["A", "B"])
@pytest.mark.parametrize("kind", ["softmax", "labels"])
@pytest.mark.parametrize(("path", "case"), CASES, ids=lambda value: getattr(value, "stem", value))
def test_agrees_with_pydensecrf(path: Path, case: int, kind: str, kernel: str, in_torch: bool) -> None:
    golden = _golden(path)
    image = torch.from_numpy(golden[f"c{case}_image"])
    num_labels = int(golden[f"c{case}_K"])
    if kind == "softmax":
        unary = unary_from_probabilities(torch.from_numpy(golden[f"c{case}_softmax"]))
    else:
        unary = unary_from_labels(torch.from_numpy(golden[f"c{case}_labels"]), num_labels=num_labels, gt_prob=0.7)
    reference = torch.from_numpy(golden[f"c{case}_unary_{kind}"]).view_as(unary)
    torch.testing.assert_close(unary, reference, atol=2e-6, rtol=1e-6)
    for num_iterations in (1, 5, 10):
        q = dense_crf(
            unary,
            image_HW3=image,
            num_iterations=num_iterations,
            gaussian=GAUSSIAN,
            bilateral=BILATERAL[kernel],
            in_torch=in_torch,
        )
        _assert_agrees(q, golden[f"c{case}_Q_{kind}_{kernel}_t{num_iterations}"])


@pytest.mark.parametrize("num_iterations", [1, 5])
@pytest.mark.parametrize(
    ("name", "gaussian_compat", "bilateral", "bilateral_compat"),
    [("gauss_only", 3, "A", 0), ("bilatA_only", 0, "A", 10), ("bilatB_only", 0, "B", 10)],
)
def test_one_kernel_alone(
    name: str, gaussian_compat: float, bilateral: str, bilateral_compat: float, num_iterations: int
) -> None:
    golden = _golden(SYNTHETIC)
    kernel = BILATERAL[bilateral]
    q = dense_crf(
        torch.from_numpy(golden["c0_unary_softmax"]).view(3, 37, 47),
        image_HW3=torch.from_numpy(golden["c0_image"]),
        num_iterations=num_iterations,
        gaussian=GaussianKernel(sxy=3, compat=gaussian_compat),
        bilateral=BilateralKernel(sxy=kernel.sxy, srgb=kernel.srgb, compat=bilateral_compat),
    )
    _assert_agrees(q, golden[f"c0_Q_softmax_{name}_t{num_iterations}"])


@pytest.mark.parametrize("kernel", ["A", "B"])
def test_lattice_is_close_to_exact_gaussian_sums(kernel: str) -> None:
    """The lattice is an approximation: the largest allowed difference from the definition (mean 4e-3, labels 0.6 %)."""
    golden = _golden(SYNTHETIC)
    q = dense_crf(
        torch.from_numpy(golden["c0_unary_softmax"]).view(3, 37, 47),
        image_HW3=torch.from_numpy(golden["c0_image"]),
        num_iterations=10,
        gaussian=GAUSSIAN,
        bilateral=BILATERAL[kernel],
    )
    exact = torch.from_numpy(golden[f"c0_Qexact_softmax_{kernel}_t10"])
    assert (q - exact).abs().mean() <= 4.1e-3
    assert (q.argmax(0) != exact.argmax(0)).float().mean() <= 0.0065
