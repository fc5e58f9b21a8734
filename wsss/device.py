"""The device that a worker computes on."""

from __future__ import annotations

import torch


def worker_device() -> torch.device:
    """The GPU that this process was given, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
