"""`wsss export`: a trained segmenter in the forms that other programs read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shards.files import write_bytes
from shards.output_places import check_output_file, check_output_folder
from wsss.contract.fit import Fit
from wsss.use.model_file import ModelFile, read_model, read_segmenter, with_own_metadata


def export(
    path: Path, *, onnx: Path | None, smp: Path | None, pictures: Path | None, weights: Path | None
) -> Iterator[str]:
    """Write each form that is asked for; yields a line about each.

    Raises ValueError if none is asked for, and for a model that cannot take the form.
    """
    if onnx is smp is weights is None:
        raise ValueError("name what to write: --onnx FILE, --smp FOLDER or --weights FILE")
    if smp is not None and pictures is None:
        raise ValueError(
            "--smp needs --pictures FOLDER, some pictures like those that the network is for: one layer, the norm of "
            "the image pooling, exists there in another form only, which is fitted on them"
        )
    _check_places(onnx=onnx, smp=smp, weights=weights)
    if weights is not None:
        yield _write_weights(read_model(path, wanted=Fit, use="wsss export"), weights)
    if onnx is not None:
        from wsss.use.export_onnx import export_onnx

        error = export_onnx(with_own_metadata(read_segmenter(path, use="--onnx")), onnx)
        yield f"{onnx}: onnxruntime agrees with torch to {error:.0e} of the largest logit"
    if smp is not None and pictures is not None:
        from wsss.use.export_smp import export_smp

        found = export_smp(with_own_metadata(read_segmenter(path, use="--smp")), smp, pictures=pictures)
        yield (
            f"{smp}: loads with smp.from_pretrained; {found.same_pixels:.2%} of the pixels of {found.pictures} "
            "pictures have the same class as by the trained network"
        )


def _check_places(*, onnx: Path | None, smp: Path | None, weights: Path | None) -> None:
    """Raise ValueError before the network is read, if one of the results cannot be written."""
    if weights is not None:
        check_output_file(weights, option="--weights", endings=(".safetensors",))
    if onnx is not None:
        check_output_file(onnx, option="--onnx", endings=(".onnx",))
    if smp is not None:
        if smp.exists():
            raise ValueError(f"--smp {smp} exists; name a new folder")
        check_output_folder(smp, option="--smp")


def _write_weights(model: ModelFile, path: Path) -> str:
    """The same tensors, with a description in the header."""
    from safetensors.torch import load_file, save

    model.network()  # raises if the weights are not those that the description promises
    data = save(load_file(model.path), metadata=with_own_metadata(model).metadata.header())
    write_bytes(path, data, what="the weights")
    return f"{path}: the weights with their metadata, which wsss.load and the commands need"
