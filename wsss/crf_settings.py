"""The settings of the dense CRF, shared by the stages that refine labels with it."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from wsss.ops.dense_crf import BilateralKernel, GaussianKernel, dense_crf
from wsss.settings import settings


@settings
class CrfSettings:
    """Mean field over all pixel pairs; the defaults are irn's. A field here is a setting of the stage that holds it."""

    crf_iterations: Annotated[int, Field(ge=0)] = 10
    """Steps of mean field."""
    crf_gaussian: tuple[float, float] = (3.0, 3.0)
    """Smoothness kernel: standard deviation in pixels, weight."""
    crf_bilateral: tuple[float, float, float] = (50.0, 5.0, 10.0)
    """Appearance kernel: standard deviation in pixels, in grey levels, weight."""
    crf_label_confidence: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Probability given to the label that a pixel starts with, where the CRF starts from labels."""

    def refine_energy(self, energy: torch.Tensor, image_HW3: np.ndarray) -> torch.Tensor:
        """Energies f32[K, H, W] or f32[B, K, H, W] of one image to probabilities of the same shape."""
        return dense_crf(
            energy,
            image_HW3=torch.from_numpy(np.ascontiguousarray(image_HW3)).to(energy.device),
            num_iterations=self.crf_iterations,
            gaussian=GaussianKernel(*self.crf_gaussian),
            bilateral=BilateralKernel(*self.crf_bilateral),
        )
