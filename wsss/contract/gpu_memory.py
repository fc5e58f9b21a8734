"""When a GPU runs out of memory: how that is recognised, and what may be changed."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import fields

from wsss.contract.failure import OutOfGpuMemoryError
from wsss.contract.stage import Instance

_WORDS = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDA error: out of memory",
    "nable to find an engine to execute this computation",
)
"""What CUDA and its libraries say if there is no memory for their own handles and workspaces."""
_OF_MAPS = ("max_side", "long_side", "scales")
_OF_TRAININGS = ("crop_size", "precision", "activation_checkpointing", "zero_stage", "encoder")
"""Settings on which the memory for one image depends, the cheapest first."""


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """True for torch's OutOfMemoryError, and for the errors of CUDA's libraries that mean the same."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def is_gpu_failure(error: BaseException) -> bool:
    """True for errors after which CUDA refuses all further work of this process: an illegal access, a broken GPU."""
    torch = sys.modules.get("torch")
    broken = torch is not None and isinstance(error, torch.AcceleratorError)
    return broken and not is_out_of_gpu_memory(error)


def free_gpu_memory() -> None:
    """Give up what torch keeps for later: it may be in pieces that are too small for what is tried next."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def too_large(instance: Instance, error: BaseException, *, what: str) -> OutOfGpuMemoryError:
    """The error for one image or example that does not fit; `what` it is, in words."""
    names = _settings(instance, _OF_TRAININGS if what == "example" else _OF_MAPS)
    cure = f"change one of {', '.join(names)}, or use" if names else "use"
    return OutOfGpuMemoryError(
        f"{instance.name}: the GPU's memory is too small for a single {what}; {cure} a GPU with more memory ({error})"
    )


def _settings(instance: Instance, names: Sequence[str]) -> list[str]:
    """Those of these settings that the stage has, as dotted names with values, without those that are at their end."""
    known = {field.name for field in fields(instance.stage)}
    least = {"long_side": 0, "precision": "bf16", "activation_checkpointing": True, "zero_stage": 3}
    values = {name: getattr(instance.stage, name) for name in names if name in known}
    if getattr(instance.stage, "world_size", 1) == 1:
        values.pop("zero_stage", None)  # it divides what several ranks hold
    return [f"{instance.name}.{name} = {value}" for name, value in values.items() if least.get(name) != value]
