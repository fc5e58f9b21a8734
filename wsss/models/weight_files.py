"""Weight files of encoders: .safetensors with timm's names, with errors that list the keys that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

_T = TypeVar("_T")
_NUM_NAMED = 4  # keys quoted in an error: enough to see the pattern


def load_weight_file(network: nn.Module, *, path: Path, described: str) -> None:
    """Load a whole timm state dict into `network`, strictly, except for a classifier that it may contain."""
    require_weight_file(path)
    state = drop_classifier(load_file(path), network=network)
    load_state(network, state=state, described=described, origin=f"pretrained = {str(path)!r}")


def require_weight_file(path: Path) -> None:
    """Raise ValueError if `path` is not an existing .safetensors file."""
    if path.suffix != ".safetensors":
        raise ValueError(
            f"pretrained = {str(path)!r}: allowed are 'imagenet', 'none' and the path of a .safetensors file"
        )
    if not path.is_file():
        raise ValueError(f"pretrained = {str(path)!r} does not exist; give the path of a .safetensors file")


def drop_classifier(state: Mapping[str, _T], *, network: Any) -> dict[str, _T]:
    """Remove the keys of the classifier, whose name `network` gives."""
    named = network.default_cfg.get("classifier") or ()
    heads = (named,) if isinstance(named, str) else tuple(named)
    return {key: value for key, value in state.items() if not any(key.startswith(f"{head}.") for head in heads)}


def load_state(network: nn.Module, *, state: Mapping[str, torch.Tensor], described: str, origin: str) -> None:
    """Load `state`, or raise ValueError that names the keys that are missing, unexpected or of another shape."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    require_fit(network, shapes=shapes, described=described, origin=origin)
    network.load_state_dict(dict(state), strict=False)


def require_fit(network: nn.Module, *, shapes: Mapping[str, tuple[int, ...]], described: str, origin: str) -> None:
    """Raise ValueError, naming the keys, if these names and shapes are not those of the network's weights."""
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    # num_batches_tracked is unused with a fixed momentum, and older files lack it.
    missing = [key for key in expected if key not in shapes and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in shapes if key not in expected]
    misshapen = [
        f"{key} {list(shapes[key])} where {list(shape)} is expected"
        for key, shape in expected.items()
        if key in shapes and shapes[key] != shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(faults.values()):
        found = "; ".join(f"{len(keys)} {kind} ({_quote(keys)})" for kind, keys in faults.items() if keys)
        raise ValueError(
            f"{origin} does not fit {described}, which expects {len(expected)} tensors besides the classifier's: "
            f"{found}. Check the encoder's name and whether the file is reparameterised"
        )


def _quote(keys: list[str]) -> str:
    rest = len(keys) - _NUM_NAMED
    return ", ".join(keys[:_NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
