"""The two-threshold seed rule against irn's cam_to_ir_label.py (`irn_ir_label*.npz`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsss.ops.dense_crf import BilateralKernel, GaussianKernel, dense_crf, unary_from_labels
from wsss.ops.seeds import crf_refinement, two_threshold_seeds

GAUSSIAN = GaussianKernel(sxy=3, compat=3)
BILATERAL = BilateralKernel(sxy=50, srgb=5, compat=10)
SYNTHETIC = Path(__file__).parent / "data" / "irn_ir_label_synth.npz"
PHOTOS = Path(__file__).parents[2].parent / "shared" / "golden" / "irn_ir_label.npz"


@pytest.mark.parametrize(
    ("path", "case"),
    [(SYNTHETIC, 0), (SYNTHETIC, 1), (PHOTOS, 0), (PHOTOS, 1), (PHOTOS, 2)],
    ids=lambda value: getattr(value, "stem", value),
)
def test_agrees_with_irn(path: Path, case: int) -> None:
    if not path.exists():
        pytest.skip(f"{path.name} contains photographs and is only in ../shared/golden, which does not exist here")
    with np.load(path, allow_pickle=False) as data:
        golden = {name.removeprefix(f"c{case}_"): data[name] for name in data if name.startswith(f"c{case}_")}
    image, cam = torch.from_numpy(golden["image"]), torch.from_numpy(golden["cam"])
    num_labels = len(cam) + 1
    crf = crf_refinement(
        image, num_labels=num_labels, gt_prob=0.7, num_iterations=10, gaussian=GAUSSIAN, bilateral=BILATERAL
    )
    seen: dict[str, torch.Tensor] = {}

    def refine(index_2HW: torch.Tensor) -> torch.Tensor:
        seen["in"], seen["out"] = index_2HW, crf(index_2HW)
        return seen["out"]

    label = two_threshold_seeds(
        cam,
        classes=[int(key) + 1 for key in golden["keys0"]],
        foreground_threshold=float(golden["conf_fg_thres"]),
        background_threshold=float(golden["conf_bg_thres"]),
        refine=refine,
    )
    for row, name in enumerate(("fg", "bg")):
        assert np.array_equal(seen["in"][row].numpy(), golden[f"{name}_argmax_in"])
        assert (seen["out"][row].numpy() == golden[f"{name}_pred_idx"]).mean() >= 0.9999
        unary = unary_from_labels(seen["in"][row], num_labels=num_labels, gt_prob=0.7)
        q = dense_crf(unary, image_HW3=image, num_iterations=10, gaussian=GAUSSIAN, bilateral=BILATERAL)
        assert np.abs(q.numpy() - golden[f"{name}_q"]).mean() <= 1e-5
    assert label.dtype == torch.uint8
    assert (label.numpy() == golden["conf_label"]).mean() >= 0.9999
