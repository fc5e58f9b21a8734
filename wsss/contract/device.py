"""The device that this process's workers compute on; the runtime says which."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_uses_gpu = False


def choose_device(*, gpu: bool) -> None:
    """Called once by the runtime: the GPU that this process was given, or the CPU even where a GPU is in sight."""
    global _uses_gpu
    if gpu:
        import torch

        if not torch.cuda.is_available():
            raise ValueError("runtime.actor_gpus asks for a GPU, but torch sees none here; set it to 0 to work on CPUs")
    _uses_gpu = gpu


def computed_on() -> str:
    """Device, instruction set and threads of this process: what can change the last bits of a result."""
    import torch

    if _uses_gpu:
        return f"GPU {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"CPU {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"


def worker_device() -> torch.device:
    """The device for networks and maps in a `Map` stage's worker."""
    import torch

    return torch.device("cuda" if _uses_gpu else "cpu")
