"""Parity with the public code of IRNet (Ahn et al., CVPR 2019) on synthetic inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss.losses.affinity_displacement import affinity_displacement_loss, affinity_displacement_sums
from wsss.losses.masked_mean import masked_mean
from wsss.ops.affinity import path_affinity
from wsss.ops.pixel_pairs import half_plane_offsets, interior_window, path_pixels
from wsss.ops.random_walk import random_walk

DATA = Path(__file__).parent / "data"


def load_case(name: str, case: int) -> dict[str, np.ndarray]:
    prefix = f"c{case}_"
    with np.load(DATA / name, allow_pickle=False) as arrays:
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_walk(case: int, dtype: torch.dtype) -> None:
    golden = load_case("irn_random_walk.npz", case)
    out_Khw = random_walk(
        torch.tensor(golden["x"]).to(dtype),
        edge_hw=torch.tensor(golden["edge"]).to(dtype),
        radius=int(golden["radius"]),
        beta=float(golden["beta"]),
        num_steps_log2=int(golden["exp_times"]),
    )
    expected_Khw = torch.tensor(golden["rw_f64"])
    tolerance = 1e-6 if dtype == torch.float32 else 1e-10
    assert (out_Khw - expected_Khw).abs().max() < tolerance * expected_Khw.max()


@pytest.mark.parametrize("case", range(3))
def test_offsets_paths_and_affinity(case: int) -> None:
    golden = load_case("irn_path_index.npz", case)
    radius, (h, w) = int(golden["radius"]), (int(side) for side in golden["size"])
    published = [(int(dy), int(dx)) for dy, dx in golden["search_dst"]]
    assert sorted(published) == list(half_plane_offsets(radius))
    rows, columns = interior_window((h, w), radius=radius).shifted((0, 0))
    pixels_hw = torch.arange(h * w).view(h, w)
    assert pixels_hw[rows, columns].flatten().tolist() == golden["src_indices"].tolist()

    affinity_PBuv = path_affinity(torch.tensor(golden["edge"]), radius=radius)
    for row, offset in enumerate(published):
        length = int(golden["path_len"][row])
        path = {(int(y), int(x)) for y, x in golden["path_offsets"][row, :length]}
        assert path == set(path_pixels(offset))
        ours_Buv = affinity_PBuv[half_plane_offsets(radius).index(offset)]
        expected = torch.tensor(golden["affinity"][:, row])
        torch.testing.assert_close(ours_Buv.flatten(1), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", range(7))
def test_losses_and_gradients(case: int) -> None:
    golden = load_case("irn_losses.npz", case)

    def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        edge, disp = torch.tensor(golden["edge_logits"]), torch.tensor(golden["disp"])
        return edge.to(dtype).requires_grad_(), disp.to(dtype).requires_grad_()

    for dtype, key in ((torch.float32, "grad_edge_logits"), (torch.float64, "grad_edge_logits_f64")):
        edge_logits, displacement = inputs(dtype)
        sums = affinity_displacement_sums(
            edge_logits,
            displacement_B2hw=displacement,
            label_Bhw=torch.tensor(golden["label"]),
            radius=int(golden["radius"]),
            num_classes=int(golden["n_valid_label"]) - 1,
        )
        for name in ("bg_pos", "fg_pos", "neg"):
            term = getattr(sums, name)
            assert term.count.item() == golden[f"count_{name}"].sum()
            assert masked_mean(term).item() == pytest.approx(float(golden[f"{name}_aff_loss"]), rel=1e-5)
        for name in ("dp_fg", "dp_bg"):
            assert masked_mean(getattr(sums, name)).item() == pytest.approx(float(golden[f"{name}_loss"]), rel=1e-5)
        total = affinity_displacement_loss(sums)
        assert total.item() == pytest.approx(float(golden["total_loss"]), rel=1e-5)
        total.backward()
        for ours, published in ((edge_logits.grad, golden[key]), (displacement.grad, golden["grad_disp"])):
            assert ours is not None
            assert (ours - torch.tensor(published)).abs().max() <= 1e-5 * np.abs(published).max()
