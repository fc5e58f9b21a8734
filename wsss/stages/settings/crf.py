"""The settings of the dense CRF, shared by the stages that refine labels with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from wsss.contract.cost import Units
from wsss.contract.device import on_device
from wsss.contract.settings import ActiveIf, active_with, settings

if TYPE_CHECKING:
    import numpy as np
    import torch

    from wsss.ops.dense_crf import ImageCrf
    from wsss.ops.seeds import Refine

_Deviation = Annotated[float, Field(ge=0.1, le=10_000)]
_Weight = Annotated[float, Field(ge=0, le=10_000)]


_FROM_LABELS = ActiveIf(
    "refine = 'crf' starting from labels",
    lambda stage: stage.refine == "crf" and getattr(stage, "crf_start", "labels") == "labels",
)


@settings
class CrfSettings:
    """Dense CRF: mean-field inference over all pixel pairs. The defaults are irn's."""

    crf_iterations: Annotated[int, Field(ge=0, le=1000), active_with("refine", "crf")] = 10
    """Number of mean-field iterations."""
    crf_gaussian: Annotated[tuple[_Deviation, _Weight], active_with("refine", "crf")] = (
        3.0,
        3.0,
    )
    """Smoothness kernel: standard deviation in pixels, weight."""
    crf_bilateral: Annotated[tuple[_Deviation, _Deviation, _Weight], active_with("refine", "crf")] = (50.0, 5.0, 10.0)
    """Appearance kernel: standard deviation in pixels, standard deviation in grey levels, weight."""
    crf_label_confidence: Annotated[
        float,
        Field(gt=0, lt=1),
        _FROM_LABELS,
    ] = 0.7
    """Probability given to a pixel's initial label, if the CRF starts from labels."""

    def _arguments(self) -> dict[str, Any]:
        from wsss.ops.dense_crf import BilateralKernel, GaussianKernel

        gaussian_sxy, gaussian_weight = self.crf_gaussian
        bilateral_sxy, bilateral_srgb, bilateral_weight = self.crf_bilateral
        return {
            "num_iterations": self.crf_iterations,
            "gaussian": GaussianKernel(sxy=gaussian_sxy, compat=gaussian_weight),
            "bilateral": BilateralKernel(sxy=bilateral_sxy, srgb=bilateral_srgb, compat=bilateral_weight),
        }

    def planned_units(self, megapixels: float, *, labels: float, maps: float = 1) -> Units:
        """Cost units of the dense CRF for one image, for `wsss plan`; all maps share the image's lattices."""
        return {"crf_lattice": megapixels, "crf_step_label": megapixels * self.crf_iterations * labels * maps}

    def refine_energy(self, energy_KHW: torch.Tensor, image_HW3: np.ndarray) -> torch.Tensor:
        """Convert energies f32[K, H, W], or [B, K, H, W] of one image, to probabilities of the same shape."""
        return self.image_crf(image_HW3, device=energy_KHW.device)(energy_KHW)

    def image_crf(self, image_HW3: np.ndarray, *, device: torch.device) -> ImageCrf:
        """The function that does so for one image; its lattices are built once for all calls."""
        from wsss.ops.dense_crf import ImageCrf

        return ImageCrf(_image(image_HW3, device), **self._arguments())

    def label_refinement(self, image_HW3: np.ndarray, *, num_labels: int, device: torch.device) -> Refine:
        """The function that refines label index maps of one image."""
        from wsss.ops.seeds import crf_refinement

        image, confidence = _image(image_HW3, device), self.crf_label_confidence
        return crf_refinement(image, num_labels=num_labels, gt_prob=confidence, **self._arguments())


def _image(image_HW3: np.ndarray, device: torch.device) -> torch.Tensor:
    import torch

    return on_device(torch.from_numpy(image_HW3.copy()), device)
