"""A segmenter as an ONNX file, for pictures of any size and batches of any length.

    input  image   f32[B, 3, H, W]   RGB, 0 to 255, upright; the normalisation is in the file
    output logits  f32[B, C, H, W]   the background first; argmax over C is the mask

The file's metadata hold `class_names`, one per line, and `wsss`, the description of the weights.

Shape letters: `B` pictures, `C` classes with the background first, `H W` pixels.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shards.files import write_bytes
from wsss.contract.stopping import raise_if_stopped
from wsss.models.vision_transformer import is_vision_transformer
from wsss.use.model_file import ModelFile

OPSET = 17
TOLERANCE = 1e-4
"""Largest difference of logits to torch's, as a share of the largest logit, in the check after the export."""
_EXAMPLE, _CHECKED = (97, 131), ((97, 131), (160, 96))
"""Sizes of the traced image, whose sides are no multiple of a stride, and of those that are compared."""
_EXTRA = "install them with: pip install 'wsss[onnx]'"


class _FromPixels(nn.Module):
    """The network with its normalisation."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, network: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(mean)[:, None, None])
        self.register_buffer("deviation", 255 * torch.tensor(std)[:, None, None])

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        logits_BCHW: torch.Tensor = self.network((image_B3HW - self.mean) / self.deviation)
        return logits_BCHW


def export_onnx(model: ModelFile, path: Path) -> float:
    """Write the file after comparing it with torch in onnxruntime; returns the largest relative difference.

    Raises ValueError without the packages for it, for a vision transformer, and if the results differ by more than
    `TOLERANCE`.
    """
    runtime = _runtime()
    stage: Any = model.stage
    if is_vision_transformer(stage.encoder):
        raise ValueError(
            f"encoder = {stage.encoder!r}: ONNX opset {OPSET} has no operation for resampling a vision transformer's "
            "position embeddings to every size of picture; export --weights instead"
        )
    network = model.network().to(memory_format=torch.contiguous_format)
    whole = _FromPixels(network, mean=stage.mean, std=stage.std).eval()
    described = _traced(whole)
    names = "\n".join(("background", *model.taxonomy.names))
    for key, value in {"class_names": names, **model.metadata.header()}.items():
        entry = described.metadata_props.add()
        entry.key, entry.value = key, value
    data = described.SerializeToString()
    error = _difference(whole, runtime.InferenceSession(data, providers=["CPUExecutionProvider"]))
    if not error <= TOLERANCE:
        raise ValueError(f"onnxruntime's logits differ from torch's by {error:.1e} of the largest; nothing was written")
    write_bytes(path, data, what="the ONNX file")
    return error


def _runtime() -> Any:
    """The package onnxruntime; onnx must be there too."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise_if_stopped()  # a signal in the middle of an import of C code comes out as ImportError
        raise ValueError(f"--onnx needs the packages onnx and onnxruntime ({error}); {_EXTRA}") from None
    return onnxruntime


def _traced(network: nn.Module) -> Any:
    """The network as a model of the package onnx."""
    import onnx

    axes = {0: "B", 2: "H", 3: "W"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # torch's newer exporter does not trace the padding to multiples of the stride: it takes the example's.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.rand(1, 3, *_EXAMPLE) * 255,),
            f"{folder}/model.onnx",
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": axes, "logits": axes},
            opset_version=OPSET,
            dynamo=False,
        )
        return onnx.load(f"{folder}/model.onnx")


@torch.inference_mode()
def _difference(network: nn.Module, session: Any) -> float:
    """The largest difference of logits at several sizes and batches, as a share of the largest logit."""
    found = 0.0
    generator = torch.Generator().manual_seed(0)
    for number, size in enumerate(_CHECKED, start=1):
        image_B3HW = torch.rand(number, 3, *size, generator=generator) * 255
        wanted = network(image_B3HW).numpy()
        (made,) = session.run(["logits"], {"image": image_B3HW.numpy()})
        if made.shape != wanted.shape:
            return float("inf")
        found = max(found, float(np.abs(made - wanted).max() / np.abs(wanted).max()))
    return found
