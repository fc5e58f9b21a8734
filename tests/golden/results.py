"""What a finished case left behind, as a digest of its bytes and as a few numbers that survive another CPU.

Names of values say how they are compared:

| name | numbers |
|---|---|
| `metric/NAME`, `table/ROW/COLUMN` | one figure of the run record |
| `weights/PART` | norm of a part's tensors, and their sum with fixed signs |
| `array/MEMBER` | means over the nine fields of a 3 x 3 grid, standard deviation, maximum |
| `labels/MEMBER/VALUE` | share of the pixels with this value, in each quarter of the map |
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

Values = dict[str, list[float]]
_DIGITS = 7
_TIMED = ("images_per_second", "seconds")
_PARTS = 3
_MULTIPLIER = 2654435761
"""Knuth's, of multiplicative hashing."""
_GREY_LEVELS = ("confidence.png", "saliency.png", ".img")
"""Ends of the members whose pixels are amounts, not labels."""


@dataclass(frozen=True)
class Result:
    """What a case left behind."""

    digest: str
    """Of the bytes: tar or zip members, or tensors, with their names."""
    content: str
    """Of the names, and of pixels and numbers once PNG and npz are unpacked: no compression library decides it."""
    values: Values


def result_of(folder: Path, tars: Mapping[str, str]) -> Result:
    """The result of one instance. `tars`: shard -> file, for a layer; its run record is in `folder`."""
    record = json.loads((folder / "run.json").read_bytes())
    values = dict(_figures(record))
    members = dict(_members_of_tars(tars))
    for path in record.get("artifacts", {}).values():
        if str(path).endswith(".zip"):
            members |= _members_of_zip(folder / path)
    unpacked = {name: array for key, data in members.items() for name, array in _unpacked(key, data)}
    raw, pieces = _Digest(), _Digest()
    for name, data in members.items():
        raw.add(name, data)
    for name, content in unpacked.items():
        pieces.add(name, content)
        if isinstance(content, np.ndarray) and content.size:
            values |= _summary(name, content)
    if (folder / "weights.safetensors").exists():
        tensors = load_file(folder / "weights.safetensors")
        for name in sorted(tensors):
            raw.add(name, tensors[name])
            pieces.add(name, tensors[name])
        values |= _of_weights(tensors)
    return Result(raw.hexdigest(), pieces.hexdigest(), values)


class _Digest:
    """SHA-256 of named contents."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, content: bytes | np.ndarray) -> None:
        form = ""
        if isinstance(content, np.ndarray):
            form, content = f"{content.dtype}{list(content.shape)}", np.ascontiguousarray(content).tobytes()
        self._hash.update(f"{name} {form} {len(content)}\n".encode())
        self._hash.update(content)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()[:32]


def _members_of_tars(tars: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    for shard, path in tars.items():
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                yield f"{shard}/{member.name}", file.read()


def _members_of_zip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _unpacked(name: str, data: bytes) -> Iterator[tuple[str, bytes | np.ndarray]]:
    if name.endswith("npz"):
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            yield from ((f"{name}:{array}", archive[array]) for array in sorted(archive.files))
    elif data.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(data)) as image:
            yield name, np.asarray(image)
    else:
        yield name, data


def _figures(record: Mapping[str, Any]) -> Iterator[tuple[str, list[float]]]:
    for name, value in record["metrics"].items():
        if not name.endswith(_TIMED):
            yield f"metric/{name}", [float(value)]
    for number, row in enumerate(record.get("tables", {}).get("per_class", [])):
        for column, value in row.items():
            if isinstance(value, int | float):
                yield f"table/{number}/{column}", [float(value)]


def _rounded(numbers: Any) -> list[float]:
    return [float(f"{float(number):.{_DIGITS}g}") for number in numbers]


def _summary(name: str, array: np.ndarray) -> Values:
    if array.dtype.kind in "ui" and array.ndim == 2 and not name.endswith(_GREY_LEVELS):
        return _of_labels(name, array)
    planes = np.asarray(array, np.float64)
    if planes.ndim < 2:
        return {f"array/{name}": _rounded(planes.reshape(-1))}
    if name.endswith(_GREY_LEVELS) and planes.ndim == 3:
        planes = planes.transpose(2, 0, 1)
    fields = [field for rows in np.array_split(planes, 3, axis=-2) for field in np.array_split(rows, 3, axis=-1)]
    means = [field.mean() if field.size else 0.0 for field in fields]
    return {f"array/{name}": _rounded([*means, planes.std(), planes.max()])}


def _of_labels(name: str, label_HW: np.ndarray) -> Values:
    quarters = [half for rows in np.array_split(label_HW, 2) for half in np.array_split(rows, 2, axis=1)]
    return {
        f"labels/{name}/{value}": _rounded((quarter == value).mean() for quarter in quarters)
        for value in np.unique(label_HW).tolist()
    }


def _of_weights(tensors: Mapping[str, np.ndarray]) -> Values:
    parts: dict[str, list[np.ndarray]] = {}
    for name in sorted(tensors):
        leaf = name.rpartition(".")[2]
        kind = leaf if leaf.startswith(("running_", "num_")) else "weights"
        parts.setdefault(".".join([*name.split(".")[:_PARTS][:-1], kind]), []).append(tensors[name].reshape(-1))
    return {f"weights/{part}": _norm_and_probe(np.concatenate(found)) for part, found in parts.items()}


def _norm_and_probe(numbers: np.ndarray) -> list[float]:
    """The norm, and the sum with signs that look random: it sees what moves weights without changing their size."""
    numbers = numbers.astype(np.float64)
    signs = 1.0 - 2.0 * (
        (np.arange(len(numbers), dtype=np.uint64) * np.uint64(2654435761) >> np.uint64(16)) & np.uint64(1)
    )
    return _rounded([np.sqrt((numbers**2).sum()), (signs * numbers).sum()])
