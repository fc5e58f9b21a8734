"""Grad-CAM, Grad-CAM++ and HiResCAM against the package grad-cam: raw maps, before ReLU and rescaling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss.ops.grad_cam import METHODS, Method

GOLDEN = np.load(Path(__file__).parent / "data" / "grad_cam.npz", allow_pickle=False)
NAMES: dict[Method, str] = {
    "grad_cam": "gradcam",
    "grad_cam_pp": "gradcampp",
    "elementwise_grad_cam": "hirescam",
}


def golden(case: int, name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[f"c{case}_{name}"])


@pytest.mark.parametrize("case", range(int(GOLDEN["n_cases"])))
@pytest.mark.parametrize("layer", ["relu1", "relu2"])
@pytest.mark.parametrize("method", NAMES)
def test_raw_maps(case: int, layer: str, method: Method) -> None:
    activations = golden(case, f"{layer}_activations")
    gradients_KBDhw = golden(case, f"{layer}_grads").transpose(0, 1)
    maps = METHODS[method](activations, gradients_KBDhw=gradients_KBDhw)
    expected = golden(case, f"{layer}_{NAMES[method]}_raw")
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
