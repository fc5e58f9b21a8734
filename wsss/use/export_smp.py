"""A DeepLabv3+ as a folder that segmentation_models_pytorch and Hugging Face's tools read: weights, config, model card.

model = segmentation_models_pytorch.from_pretrained(FOLDER)      # strict
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shards.files import write_bytes
from shards.images import decode_image
from wsss.contract.settings import resolved
from wsss.data.images import long_side_size, to_tensor
from wsss.ops.multi_scale import resize_bilinear
from wsss.use.model_card import model_card
from wsss.use.model_file import ModelFile
from wsss.use.picture_folder import find_pictures

MOST_PICTURES = 64
"""Pictures that are read at most: the fit has two numbers per channel."""
FEWEST_PICTURES = 4
_MODEL, _CONFIG, _CARD = "model.safetensors", "config.json", "README.md"


@dataclass(frozen=True)
class Agreement:
    """How the exported network compares with the one in the weight file, on the pictures of the fit."""

    pictures: int
    same_pixels: float
    """Share of pixels with the same class."""


def export_smp(model: ModelFile, folder: Path, *, pictures: Path) -> Agreement:
    """Write the folder. `pictures`: some pictures like those that the network is for, for the fit of one layer.

    Raises ValueError for another architecture, naming the setting, for too few pictures, and if the folder exists.
    """
    from wsss.models.plain_smp import as_plain_smp, refuse_other_encoders

    stage: Any = model.stage
    if stage.network != "deeplabv3plus":
        raise ValueError(
            f"network = {stage.network!r}: segmentation_models_pytorch has no such network, only DeepLabv3+; export "
            "ONNX instead"
        )
    refuse_other_encoders(stage.encoder_spec(pretrained=False))
    if folder.exists():
        raise ValueError(f"{folder} exists; name a new folder")
    segmenter = model.network().to(memory_format=torch.contiguous_format)
    images = list(_images(pictures, stage))
    if len(images) < FEWEST_PICTURES:
        raise ValueError(
            f"{pictures} has {len(images)} readable pictures; at least {FEWEST_PICTURES} are needed, and about "
            f"{MOST_PICTURES} are best"
        )
    plain = as_plain_smp(
        segmenter,
        images,
        spec=stage.encoder_spec(pretrained=False),
        num_classes=len(model.taxonomy) + 1,
        atrous_rates=resolved(stage, "aspp_rates"),
        decoder_channels=stage.decoder_channels,
        dropout=stage.dropout,
    )
    agreement = _compared(segmenter, plain, images, stride=stage.output_stride)
    _write(folder, plain, model, agreement)
    return agreement


def _images(pictures: Path, stage: Any) -> Iterator[torch.Tensor]:
    """Normalised pictures f32[1, 3, H, W], with a longer side in the middle of the sizes of training."""
    found = find_pictures(pictures)
    low, high = stage.resize_long
    for name in found.pictures[:: max(1, len(found.pictures) // MOST_PICTURES)][:MOST_PICTURES]:
        try:
            pixels = decode_image((found.root / name).read_bytes())
        except (ValueError, OSError):
            continue
        size = long_side_size((pixels.shape[0], pixels.shape[1]), long_side=(low + high) // 2)
        yield resize_bilinear(to_tensor(pixels, mean=stage.mean, std=stage.std)[None], size=size)


@torch.inference_mode()
def _compared(segmenter: Any, plain: Any, images: list[torch.Tensor], *, stride: int) -> Agreement:
    """Both networks on the pictures, cropped to multiples of the stride, which is all that the plain one takes."""
    same = total = 0
    for image_13HW in images:
        height, width = (side // stride * stride for side in image_13HW.shape[-2:])
        cropped = image_13HW[..., :height, :width]
        if not cropped.numel():
            continue
        equal = segmenter(cropped).argmax(1) == plain(cropped).argmax(1)
        same, total = same + int(equal.sum()), total + equal.numel()
    return Agreement(len(images), same / max(total, 1))


def _write(folder: Path, plain: Any, model: ModelFile, agreement: Agreement) -> None:
    """Write under another name first, so that a folder of this name is complete."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        plain.save_pretrained(unfinished)
        config = json.loads((unfinished / _CONFIG).read_bytes())
        names = ["background", *model.taxonomy.names]
        config["_wsss"] = {
            "class_names": names,
            "mean": list(model.metadata.settings["mean"]),
            "std": list(model.metadata.settings["std"]),
            "fingerprint": model.metadata.fingerprint,
        }
        write_bytes(unfinished / _CONFIG, json.dumps(config, indent=1, sort_keys=True).encode())
        card = model_card(model, pictures=agreement.pictures, same_pixels=agreement.same_pixels)
        write_bytes(unfinished / _CARD, card.encode())
        (unfinished / _MODEL).chmod(0o644)  # it is written for its owner alone
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
