"""Record <-> members of a tar file: image files, PNG masks, npz arrays and JSON; never pickle.

Members of a record share the key as their name and differ in their extension:

| record | members |
|---|---|
| `Sample` | `img` (the image file's own bytes), `json`, `mask.png` and `saliency.png` if available |
| `CamRecord`, `ScoreRecord` | `npz`, `json` |
| `SeedRecord` | `label.png`, `npz` if its scores are kept |
| `PseudoLabel`, `Prediction` | `mask.png`, `confidence.png`; a `Prediction` may hold `ablation.NAME.png` |
| `InstanceLabel` | `instances.png` (16 bits), `npz` |

Label maps (`mask.png`, `label.png`, `ablation.NAME.png`) are PNGs of 8 bits, or of 16 in data sets of more than 254
classes.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from shards.images import decode_index_png, decode_label_png, decode_u16_png, encode_png
from shards.label_type import type_of
from shards.ranges import from_ranges, to_ranges
from shards.records import (
    Box,
    CamRecord,
    InstanceLabel,
    Prediction,
    PseudoLabel,
    Record,
    Sample,
    ScoreRecord,
    SeedRecord,
)

Members = dict[str, bytes]
_ABLATION = "ablation."
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def member_name(key: str) -> str:
    """A key as a tar member's stem. Raises ValueError for a key that cannot name a file.

    webdataset cuts names at the first dot and skips those that begin with two underscores: both are percent-encoded.
    """
    if not key or key.endswith("/"):
        raise ValueError(f"{key!r} is not a valid key: it must have a name after its last slash")
    stem = quote(key, safe="/-_ ()+,=@~").replace(".", "%2E")
    return "%5F" + stem[1:] if stem.startswith("__") else stem


def key_of(stem: str) -> str:
    """The inverse of `member_name`."""
    return unquote(stem)


def to_json(value: object) -> bytes:
    """JSON bytes, always the same for the same value."""
    return _JSON.encode(value).encode()


def _to_npz(**arrays: np.ndarray) -> bytes:
    # Compressed to save space. numpy gives every member the date 1980, so equal arrays give equal bytes.
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _from_npz(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@lru_cache(maxsize=4096)
def _unknown_json(unknown: tuple[int, ...]) -> bytes:
    """The last part of a sample's JSON."""
    return b"," + to_json({"unknown": unknown})[1:]


def encode(record: Record) -> Members:
    """Encode a record as its members, extension -> bytes. Equal records give equal bytes."""
    if isinstance(record, Sample):
        meta: dict[str, Any] = {
            "classes": list(record.classes),
            "size": list(record.size),
            "position": record.position,
            "source": record.source,
        }
        if record.boxes is not None:
            meta["boxes"] = [[int(value) for value in box] for box in record.boxes]
        # `unknown` is last in alphabetical order, can hold hundreds of numbers, and is the same for many samples, so
        # its JSON is cached.
        members = {"img": record.encoded, "json": to_json(meta)[:-1] + _unknown_json(record.unknown)}
        if record.mask is not None:
            members["mask.png"] = _label_png(record.mask)
        if record.saliency is not None:
            members["saliency.png"] = encode_png(record.saliency)
        return members
    if isinstance(record, CamRecord):
        arrays = {"maps": record.maps, "peak": record.peak, "probabilities": record.probabilities}
        return _maps_members(record, arrays)
    if isinstance(record, ScoreRecord):
        return _maps_members(record, {"scores": record.scores, "background": record.background})
    if isinstance(record, SeedRecord):
        members = {"label.png": _label_png(record.label)}
        if record.scores is not None and record.classes is not None:
            members["npz"] = _to_npz(classes=record.classes, scores=record.scores)
        return members
    if isinstance(record, InstanceLabel):
        npz = _to_npz(classes=record.classes, scores=record.scores)
        return {"instances.png": encode_png(record.instances), "npz": npz}
    members = {"confidence.png": encode_png(record.confidence), "mask.png": _label_png(record.mask)}
    if isinstance(record, Prediction):
        members |= {f"{_ABLATION}{name}.png": _label_png(record.ablation[name]) for name in sorted(record.ablation)}
    return members


def _label_png(label_HW: np.ndarray) -> bytes:
    """A label map as PNG. Raises ValueError for a type that a record cannot hold: PIL would store i32 clipped."""
    type_of(label_HW)
    return encode_png(label_HW)


def _maps_members(record: CamRecord | ScoreRecord, arrays: Mapping[str, np.ndarray | None]) -> Members:
    present = {name: array for name, array in arrays.items() if array is not None}
    meta: dict[str, Any] = {"size": list(record.size)}
    if record.unknown:
        meta["unknown"] = to_ranges(record.unknown)
    return {"json": to_json(meta), "npz": _to_npz(classes=record.classes, **present)}


def decode(kind: str, key: str, members: Mapping[str, bytes]) -> Record:
    """Decode members to a record of that kind. Raises ValueError if a member is missing or unreadable."""
    try:
        return _decode(kind, key, members)
    except KeyError as error:
        raise ValueError(f"record {key!r} has no member {error.args[0]!r}; it has {sorted(members)}") from error
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"record {key!r} is not readable: {error}") from error


def _decode(kind: str, key: str, members: Mapping[str, bytes]) -> Record:
    if kind == Sample.kind:
        meta = json.loads(members["json"])
        encoded_mask, encoded_saliency = members.get("mask.png"), members.get("saliency.png")
        return Sample(
            key=key,
            encoded=members["img"],
            size=_size(meta),
            classes=tuple(meta["classes"]),
            unknown=tuple(meta["unknown"]),
            mask=None if encoded_mask is None else decode_label_png(encoded_mask),
            boxes=tuple(Box(*box) for box in meta["boxes"]) if "boxes" in meta else None,
            saliency=None if encoded_saliency is None else decode_index_png(encoded_saliency),
            position=meta["position"],
            source=meta["source"],
        )
    if kind in (CamRecord.kind, ScoreRecord.kind):
        return _decode_maps(kind, key, members)
    if kind == SeedRecord.kind:
        kept = _from_npz(members["npz"]) if "npz" in members else {"classes": None, "scores": None}
        label = decode_label_png(members["label.png"])
        return SeedRecord(key=key, label=label, classes=kept["classes"], scores=kept["scores"])
    if kind == InstanceLabel.kind:
        arrays, instances = _from_npz(members["npz"]), decode_u16_png(members["instances.png"])
        if instances.max(initial=0) > len(arrays["classes"]):
            raise ValueError(
                f"its map contains instance {instances.max()}, but it lists {len(arrays['classes'])} instances"
            )
        return InstanceLabel(key=key, instances=instances, classes=arrays["classes"], scores=arrays["scores"])
    if kind in (PseudoLabel.kind, Prediction.kind):
        mask, confidence = decode_label_png(members["mask.png"]), decode_index_png(members["confidence.png"])
        if kind == PseudoLabel.kind:
            return PseudoLabel(key=key, mask=mask, confidence=confidence)
        subsets = {name: data for name, data in members.items() if name.startswith(_ABLATION)}
        ablation = {n.removeprefix(_ABLATION).removesuffix(".png"): decode_label_png(d) for n, d in subsets.items()}
        return Prediction(key=key, mask=mask, confidence=confidence, ablation=ablation)
    raise ValueError(f"unknown record kind {kind!r}")


def _decode_maps(kind: str, key: str, members: Mapping[str, bytes]) -> CamRecord | ScoreRecord:
    arrays, meta = _from_npz(members["npz"]), json.loads(members["json"])
    size, unknown = _size(meta), tuple(from_ranges(meta.get("unknown", "")))
    if kind == ScoreRecord.kind:
        return ScoreRecord(
            key=key,
            classes=arrays["classes"],
            scores=arrays["scores"],
            background=arrays.get("background"),
            unknown=unknown,
            size=size,
        )
    return CamRecord(
        key=key,
        classes=arrays["classes"],
        maps=arrays["maps"],
        peak=arrays.get("peak"),
        probabilities=arrays.get("probabilities"),
        unknown=unknown,
        size=size,
    )


def _size(meta: Mapping[str, Any]) -> tuple[int, int]:
    height, width = meta["size"]
    return int(height), int(width)
