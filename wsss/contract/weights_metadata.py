"""What a file of trained weights says about itself: its classes, its stage and the settings that shape the network.

It stands in the header of the .safetensors file, as one JSON text under one key: several keys are written in random
order (safetensors issue 584), and equal trainings are to give equal bytes. So it also holds nothing that depends on
the machine: no path, no time, no commit; a file named by a setting is replaced by its SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsss.contract.settings import hashed_values
from wsss.contract.stage import DataStage, Instance

KEY = "wsss"
FORMAT = 1
_MAX_HEADER = 100_000_000


@dataclass(frozen=True, kw_only=True)
class WeightsMetadata:
    """The description of a trained network."""

    kind: str
    """The kind of the stage that trained it, such as train_segmenter."""
    revision: int
    """The revision of that stage."""
    fingerprint: str
    """Fingerprint of the training: its settings and everything that it read."""
    classes: tuple[str, ...]
    """Names of the foreground classes, in the order of their ids; 0 is the background."""
    settings: Mapping[str, Any]
    """The settings that the fingerprint contains: encoder, head, stride, mean, std, padding, pretraining, …"""

    def header(self) -> dict[str, str]:
        """The entry of the file's header."""
        return {KEY: json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)}


def metadata_of(instance: Instance) -> WeightsMetadata | None:
    """The description of the network that a training makes; None if the training reads no data set, which alone says
    what the network's outputs mean."""
    if (classes := _classes(instance)) is None:
        return None
    return WeightsMetadata(
        kind=instance.stage.kind,
        revision=instance.stage.own_revision(),
        fingerprint=instance.fingerprint,
        classes=classes,
        settings=hashed_values(instance.stage),
    )


def weights_header(instance: Instance) -> dict[str, str]:
    """The entries of the header of the weights that a training writes."""
    described = metadata_of(instance)
    return {} if described is None else described.header()


def _classes(instance: Instance) -> tuple[str, ...] | None:
    """The class list behind a training; None if there is none."""
    while not isinstance(instance.stage, DataStage):
        if not instance.inputs:
            return None
        instance = next(iter(instance.inputs.values()))
    return instance.taxonomy.names


def read_metadata(path: Path) -> WeightsMetadata | None:
    """The description in a file's header; None if it has none. Only the header is read.

    Raises ValueError for a file that is not a .safetensors file, and for a description of a later version.
    """
    entries = _header(path).get("__metadata__") or {}
    if KEY not in entries:
        return None
    try:
        found = dict(json.loads(entries[KEY]))
        version = found.pop("format")
        if version != FORMAT:
            raise ValueError(
                f"{path} was written by another version of wsss: its metadata have format {version}, this version "
                f"reads {FORMAT}; use the version that wrote it"
            )
        return WeightsMetadata(**found | {"classes": tuple(found["classes"])})
    except (TypeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"the metadata of {path} are damaged ({error}); take the file from its run again") from None


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER:
                raise ValueError
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (ValueError, UnicodeDecodeError):
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is not a .safetensors file; give the weights.safetensors of a training")
    return header
