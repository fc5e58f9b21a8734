"""The settings of DSRG's objective, for a stage that trains a segmenter."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wsss.contract.settings import read_with, settings
from wsss.ops.dense_crf import BilateralKernel, GaussianKernel
from wsss.tasks.dsrg import CrfInTheLoop

_DSRG = read_with("objective", "dsrg")
_Deviation = Annotated[float, Field(ge=0.1, le=10_000)]
_Weight = Annotated[float, Field(ge=0, le=10_000)]


@settings
class DsrgSettings:
    """Seeds that grow at every step, and a dense CRF that they grow by; the defaults are the public code's."""

    growing_foreground_threshold: Annotated[float, Field(gt=0, lt=1), _DSRG] = 0.85
    """dsrg: a pixel joins the seeds of a class above this probability."""
    growing_background_threshold: Annotated[float, Field(gt=0, lt=1), _DSRG] = 0.99
    """dsrg: a pixel joins the seeds of the background above this probability."""
    loop_crf_iterations: Annotated[int, Field(ge=0, le=1000), _DSRG] = 10
    """dsrg: steps of mean field."""
    loop_crf_gaussian: Annotated[tuple[_Deviation, _Weight], _DSRG] = (3.0, 3.0)
    """dsrg: smoothness kernel: standard deviation in pixels of the crop, weight."""
    loop_crf_bilateral: Annotated[tuple[_Deviation, _Deviation, _Weight], _DSRG] = (80.0, 13.0, 10.0)
    """dsrg: appearance kernel: standard deviation in pixels of the crop, in grey levels, weight."""
    loop_crf_scale: Annotated[float, Field(gt=0), _DSRG] = 12.0
    """dsrg: deviations in pixels are divided by this on the grid; its stride is 8, the published value is 12."""

    def crf_in_the_loop(self) -> CrfInTheLoop:
        """The CRF on the grid."""
        gaussian_sxy, gaussian_weight = self.loop_crf_gaussian
        bilateral_sxy, srgb, bilateral_weight = self.loop_crf_bilateral
        return CrfInTheLoop(
            num_iterations=self.loop_crf_iterations,
            gaussian=GaussianKernel(sxy=gaussian_sxy / self.loop_crf_scale, compat=gaussian_weight),
            bilateral=BilateralKernel(sxy=bilateral_sxy / self.loop_crf_scale, srgb=srgb, compat=bilateral_weight),
        )
