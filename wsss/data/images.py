"""Images as tensors.

Shape letters: `H W` pixels.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from shards.records import GRID_STRIDE, CamRecord, ScoreRecord
from wsss.contract.device import on_device
from wsss.ops.multi_scale import magnify, resize_bilinear


def to_tensor(
    image_HW3: np.ndarray, *, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device | None = None
) -> torch.Tensor:
    """u8[H, W, 3] to f32[3, H, W]: (x / 255 - mean) / std per channel; mean and std are for the range [0, 1].

    `device`: where the result is, by default on the CPU. A GPU gets the bytes, a quarter of the floats', and does the
    same divisions: by a tensor, since CUDA multiplies by the rounded reciprocal of a number.
    """
    if device is None or device.type == "cpu":
        x_3HW = torch.from_numpy(_own(image_HW3.transpose(2, 0, 1))).float()
    else:
        x_3HW = on_device(torch.from_numpy(np.array(image_HW3)), device).permute(2, 0, 1).float()
    largest, mean_3, std_3 = (_constants(values, x_3HW.device) for values in ((255.0,), mean, std))
    return x_3HW.div_(largest).sub_(mean_3[:, None, None]).div_(std_3[:, None, None])


def normalised(image_BHW3: torch.Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """u8[B, H, W, 3] on any device to f32[B, 3, H, W] in channels-last layout, with the values of `to_tensor`."""
    out_BHW3 = torch.empty(image_BHW3.shape, dtype=torch.float32, device=image_BHW3.device)
    if out_BHW3.device.type == "cpu":
        # A lookup table of 256 values takes half the time of arithmetic, which passes over the memory three times.
        for image, out in zip(image_BHW3.numpy(), out_BHW3.numpy(), strict=True):
            cv2.LUT(image, _table(mean, std), out)
    else:
        # Repeat mean and std for a row of pixels: contiguous operations, rather than strided ones over three channels.
        device, width = out_BHW3.device, image_BHW3.shape[2]
        mean_n, std_n = (_constants(values, device).repeat(width) for values in (mean, std))
        torch.div(image_BHW3, _constants((255.0,), device), out=out_BHW3).flatten(-2).sub_(mean_n).div_(std_n)
    return out_BHW3.permute(0, 3, 1, 2)


@cache
def _constants(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """f32[n] on a device, copied there once: a copy from memory that is not pinned waits for the GPU."""
    with torch.inference_mode(False):  # so that the tensor can be used inside and outside of it
        return torch.tensor(values, dtype=torch.float32, device=device)


@cache
def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """f32[1, 256, 3]: what each value of each channel becomes."""
    values = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    return to_tensor(values, mean=mean, std=std).permute(2, 1, 0).contiguous().numpy()


def label_tensor(label_HW: np.ndarray) -> torch.Tensor:
    """A label map of a record for computation: u8[H, W] as it is, u16[H, W] as i32 (torch computes little with u16)."""
    return torch.from_numpy(label_HW if label_HW.dtype == np.uint8 else label_HW.astype(np.int32))


def pixels(image_HW3: np.ndarray) -> torch.Tensor:
    """u8[H, W, 3] as a tensor for transfer between processes; a quarter of the bytes of `to_tensor`."""
    return torch.from_numpy(_own(image_HW3))


def _own(array: np.ndarray) -> np.ndarray:
    """Contiguous and writable, as torch wants it: decoded images are read-only."""
    return np.require(array, requirements=("C_CONTIGUOUS", "WRITEABLE"))


def resize_image(x_B3HW: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
    """Resize normalised images: bicubic, with antialiasing when shrinking (as PIL does, which irn uses)."""
    if tuple(x_B3HW.shape[-2:]) == size:
        return x_B3HW
    return F.interpolate(x_B3HW, size=size, mode="bicubic", align_corners=False, antialias=True)


def long_side_size(size: tuple[int, int], *, long_side: int) -> tuple[int, int]:
    """(H, W) scaled so that the longer one is `long_side`, each at least 1."""
    factor = long_side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def upsample(maps_Khw: np.ndarray, size: tuple[int, int], *, device: torch.device) -> torch.Tensor:
    """f16[K, h, w] of the stride-4 grid to f32[K, H, W]."""
    if len(maps_Khw) == 0:
        return torch.zeros((0, *size), device=device)
    maps = on_device(torch.from_numpy(maps_Khw), device).float()
    return resize_bilinear(maps[None], size=size)[0]


def pixel_scores(record: CamRecord | ScoreRecord, size: tuple[int, int], *, device: torch.device) -> torch.Tensor:
    """The maps or scores of an image's classes at its pixels, f32[K, H, W]."""
    if isinstance(record, CamRecord):
        return upsample(record.maps, size, device=device)
    return magnify_scores(record.scores, size, device=device)


def nearest(maps_Khw: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """f32[K, H, W]: every pixel gets the value of the nearest cell, as the labels of make_seeds' rule "ficklenet"."""
    if not len(maps_Khw):
        return torch.zeros((0, *size))
    return F.interpolate(torch.from_numpy(maps_Khw).float()[None], size=size, mode="nearest")[0]


def magnify_scores(scores_Khw: np.ndarray, size: tuple[int, int], *, device: torch.device) -> torch.Tensor:
    """f16[K, h, w] of the stride-4 grid to f32[K, H, W]: magnified four times and cropped, as irn reads its scores.

    Activation maps are resized instead (`upsample`), since they are made by resizing views to the grid.
    """
    scores = on_device(torch.from_numpy(scores_Khw), device).float()
    return magnify(scores, size=size, stride=GRID_STRIDE)
