"""Masks of the Semantic Boundaries Dataset: MATLAB files, `dataset/cls/<key>.mat`.

Source: Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011. The files contain the structure `GTcls`
with the field `Segmentation`, u8[H, W] of VOC's class ids. They have no pixels with value 255.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from shards.file_system_errors import reading
from shards.records import BadSampleError
from shards.sources.disk import words


def sbd_masks(root: Path) -> Path:
    """The folder of SBD's masks in an unpacked copy of SBD. Raises ValueError if there is none."""
    for folder in (root / "dataset" / "cls", root / "benchmark_RELEASE" / "dataset" / "cls", root / "cls", root):
        if folder.is_dir() and (folder != root or root.name == "cls"):
            return folder
    raise ValueError(f"{root} holds no folder dataset/cls with SBD's masks")


def read_sbd_mask(path: Path) -> np.ndarray:
    """Read u8[H, W] of VOC's class ids. Raises `BadSampleError` if the file is not a mask of SBD."""
    from scipy.io import loadmat  # slow to import, and not needed to read a recipe

    try:
        with reading(path):
            content = path.read_bytes()
    except OSError as error:
        raise BadSampleError(f"cannot read the mask {path.name} of SBD: {words(error)}") from error
    try:
        values = np.asarray(loadmat(io.BytesIO(content), variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # on damaged files scipy raises many kinds of exceptions
        raise BadSampleError(f"the mask {path.name} is not a file of SBD: {type(error).__name__}") from error
    if values.ndim != 2 or values.dtype != np.uint8:
        raise BadSampleError(f"the mask {path.name} of SBD holds {values.dtype}{list(values.shape)}, not u8[H, W]")
    return values
