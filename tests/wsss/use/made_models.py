"""Weight files of small untrained networks, and folders of drawn pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from wsss.contract.fit import Fit
from wsss.contract.stage import Instance
from wsss.contract.weights_metadata import weights_header
from wsss.stages.train_affinity import TrainAffinity
from wsss.stages.train_classifier import TrainClassifier
from wsss.stages.train_segmenter import TrainSegmenter
from wsss.use.model_file import KnownClasses

CLASSES = ("cat", "dog", "sheep")
SMALL: dict[str, Any] = {
    "encoder": "test_efficientnet",
    "pretrained": "none",
    "crop_size": 32,
    "resize_long": (32, 64),
    "batch_size": 4,
}
SEGMENTER = SMALL | {"decoder_channels": 8}


def instance_of(stage: Fit, path: Path, classes: tuple[str, ...] = CLASSES) -> Instance:
    data = KnownClasses(names=classes)
    samples = Instance(name="samples", stage=data, seed=0, inputs={}, fingerprint="", path=path)
    return Instance(name="model", stage=stage, seed=0, inputs={"samples": samples}, fingerprint="5e" * 32, path=path)


def write_model(path: Path, stage: Fit, *, classes: tuple[str, ...] = CLASSES, header: bool = True) -> Path:
    """A file of random weights, whose norms do something, as a training of `stage` would write it."""
    torch.manual_seed(3)
    instance = instance_of(stage, path.parent, classes)
    network = stage.model(instance, pretrained=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, path, metadata=weights_header(instance) if header else None)
    return path


def segmenter(path: Path, **changes: Any) -> Path:
    return write_model(path, TrainSegmenter(**SEGMENTER | changes))


def classifier(path: Path, **changes: Any) -> Path:
    return write_model(path, TrainClassifier(**SMALL | changes))


def affinity(path: Path, **changes: Any) -> Path:
    return write_model(path, TrainAffinity(**SMALL | changes))


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def draw_folder(folder: Path, names: dict[str, tuple[int, int]]) -> Path:
    """Pictures of these sizes (H, W)."""
    for number, (name, size) in enumerate(names.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, size)).save(path)
    return folder
