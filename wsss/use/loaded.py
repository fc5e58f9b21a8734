"""A trained segmenter as a Python function: `wsss.load(FILE)(image)`.

    import wsss

    model = wsss.load("weights.safetensors")
    found = model("photo.jpg")
    found.mask            u8[H, W]: 0 is background, other values are indices into class_names
    found.probabilities   f32[C, H, W]
    found.class_names     ("background", "cat", ...)

Shape letters: `C` classes with the background first, `H W` pixels of the upright picture.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import ValidationError

from shards.images import decode_image, pixels_of
from shards.label_type import label_type
from shards.records import BadSampleError, Sample
from shards.wording import counted
from wsss.contract.weights_metadata import WeightsMetadata
from wsss.models.inference import for_inference
from wsss.pipeline.wrong_values import first_complaint
from wsss.stages.segmenter.image_segmenter import ImageSegmenterTraining
from wsss.stages.segmenter.prediction_settings import PredictionSettings
from wsss.stages.segmenter.predictor import Predictor
from wsss.use.model_file import ModelFile, learned_side, read_segmenter

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """What a segmenter says about one picture."""

    mask: np.ndarray
    """u8[H, W], or u16[H, W] for more than 254 classes: index of the class of every pixel in `class_names`."""
    probabilities: np.ndarray
    """f32[C, H, W]; they sum to 1 over the classes."""
    class_names: tuple[str, ...]
    """The background first."""

    def shares(self) -> dict[str, float]:
        """Class -> its share of the pixels, largest first, for the classes in the mask."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.class_names))
        order = sorted(np.flatnonzero(counts), key=lambda index: (-counts[index], index))
        return {self.class_names[index]: float(counts[index]) / self.mask.size for index in order}


@dataclass(frozen=True, kw_only=True)
class _Picture(Sample):
    """A sample whose pixels are already decoded."""

    pixels: np.ndarray

    @property
    def image(self) -> np.ndarray:
        return self.pixels


class LoadedSegmenter:
    """A segmenter in memory; call it with a picture."""

    def __init__(self, model: ModelFile, *, device: str = "cpu") -> None:
        self.metadata: WeightsMetadata = model.metadata
        self.class_names: tuple[str, ...] = ("background", *model.taxonomy.names)
        self.network: Any = model.network(device=device)
        """The torch module: logits [B, C, H, W] of normalised images f32[B, 3, H, W]. Pictures are segmented by a
        faster copy, made when the file is loaded."""
        self.learned_side: int = learned_side(model)
        """Longer side of a picture, in pixels, in the middle of the sizes that the network learned from."""
        self._trained = model.stage
        self._faster = for_inference(self.network)

    def __call__(
        self,
        picture: str | os.PathLike[str] | bytes | np.ndarray | Image.Image,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        merge: Literal["mean_logits", "mean_probabilities", "max"] = "mean_logits",
        long_side: int | None = None,
        refine: Literal["none", "crf"] = "none",
    ) -> Segmentation:
        """Segment one picture: a path, the bytes of a file, u8[H, W, 3] in RGB, or an image of PIL.

        Files and PIL's images are turned upright by their EXIF orientation, so mask and probabilities have the size
        of the upright picture. The options are the settings of the stage predict (`wsss show predict`); but without
        `long_side` the network sees the picture at the size that it learned from (`learned_side`), not at its own.

        Raises ValueError for a picture that cannot be read, and for a wrong option.
        """
        if isinstance(scales, str | bytes) or not isinstance(scales, Iterable):
            raise ValueError(
                f"scales = {scales!r}: give several numbers, or one in brackets, such as (0.5, 1.0) or (1.0,)"
            )
        long_side = self.learned_side if long_side is None else long_side
        options = {"scales": tuple(scales), "flip": flip, "merge": merge, "long_side": long_side, "refine": refine}
        try:
            chosen = PredictionSettings(**options)  # type: ignore[arg-type]
        except ValidationError as error:
            raise ValueError(first_complaint(error, "wsss.load(...)(picture)")) from None
        pixels = _pixels(picture)
        sample = _Picture(
            key="picture", encoded=b"", size=(pixels.shape[0], pixels.shape[1]), classes=(), pixels=pixels
        )
        assert isinstance(self._trained, ImageSegmenterTraining)
        mask, probabilities = Predictor(chosen, self._faster, self._trained).probabilities(sample)
        return Segmentation(
            mask=mask.cpu().numpy().astype(label_type(len(self.class_names) - 1).dtype, copy=False),
            probabilities=probabilities.cpu().numpy(),
            class_names=self.class_names,
        )


def load(path: str | os.PathLike[str], *, device: str = "cpu") -> LoadedSegmenter:
    """The segmenter in a file of weights, or in the folder of a training. `device`: cpu, cuda, cuda:1, …

    Raises ValueError, saying what to give instead, for a file that holds no segmenter of this project, and for a device
    that is not there.
    """
    _check_device(device)
    return LoadedSegmenter(read_segmenter(Path(path), use="wsss.load"), device=device)


def _check_device(device: str) -> None:
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", str(device))
    if found is None:
        raise ValueError(f"device = {str(device)!r}: allowed are cpu, cuda (a GPU), and cuda:1 for the second one")
    if str(device) == "cpu":
        return
    if not torch.cuda.is_available():
        raise ValueError(
            f"device = {str(device)!r}: torch finds no GPU here; use cpu (wsss doctor says what is missing)"
        )
    if int(found[1] or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(
            f"device = {str(device)!r}: there are {counted(count, 'GPU')}, from cuda:0 to cuda:{count - 1}"
        )


def _pixels(picture: Any) -> np.ndarray:
    """u8[H, W, 3], upright."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(
                f"an array must be u8[H, W, 3] in RGB, this one is {picture.dtype}{list(picture.shape)}; convert it, "
                "or give a path"
            )
        return picture
    if isinstance(picture, bytes):
        return decode_image(picture)
    if isinstance(picture, str | os.PathLike):
        try:
            return decode_image(Path(picture).read_bytes())
        except OSError as error:
            raise ValueError(f"cannot read {os.fspath(picture)}: {error.strerror}") from None
        except ValueError as error:
            raise BadSampleError(f"{os.fspath(picture)}: {error}") from None
    if hasattr(picture, "getexif"):
        return pixels_of(picture.copy())
    raise ValueError(
        f"a picture is a path, the bytes of an image file, an array u8[H, W, 3] or an image of PIL, not a "
        f"{type(picture).__name__}"
    )
