"""The device that this process's workers compute on, as chosen by the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_uses_gpu = False


def choose_device(*, gpu: bool) -> None:
    """Called once by the runtime: use the GPU assigned to this process, or the CPU even if a GPU is visible."""
    global _uses_gpu
    if gpu:
        import torch

        if not torch.cuda.is_available():
            raise ValueError("runtime.actor_gpus asks for a GPU, but torch finds none here; set it to 0 to use CPUs")
    _uses_gpu = gpu


def computed_on() -> str:
    """Device, instruction set and number of threads of this process: these can change the last bits of a result."""
    import torch

    if _uses_gpu:
        return f"GPU {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"CPU {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"


def worker_device() -> torch.device:
    """The device for networks and maps in a `Map` stage's worker."""
    import torch

    return torch.device("cuda" if _uses_gpu else "cpu")
