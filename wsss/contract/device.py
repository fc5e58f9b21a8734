"""The device that this process's workers compute on; the runtime says which."""

from __future__ import annotations

import torch

_chosen = torch.device("cpu")


def choose_device(*, gpu: bool) -> None:
    """Called once by the runtime: the GPU that this process was given, or the CPU even where a GPU is in sight."""
    global _chosen
    if gpu and not torch.cuda.is_available():
        raise ValueError("runtime.actor_gpus asks for a GPU, but torch sees none here; set it to 0 to work on CPUs")
    _chosen = torch.device("cuda" if gpu else "cpu")


def worker_device() -> torch.device:
    """The device for networks and maps in a `Map` stage's worker."""
    return _chosen
