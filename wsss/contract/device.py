"""The device that this process's workers compute on and the threads beside it, as chosen by the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_uses_gpu = False
_decoding_threads = 0


_CONTEXT_BYTES = 768 << 20
"""What CUDA and its libraries hold on a GPU for a process, beside torch's tensors; 300 to 600 MB are usual."""


def choose_device(*, gpus: float, cpus: float = 1.0) -> None:
    """Called once by the runtime: use the GPU assigned to this process, or the CPU even if a GPU is visible.

    `gpus`: how many the process holds; of a share below 1, its tensors take no more of the memory than this share, so
    that one process cannot keep the others' memory for later. `cpus`: those that it holds; beside a GPU all but one
    of them decode images, and at least one does.
    """
    global _uses_gpu
    if gpus:
        import torch

        if not torch.cuda.is_available():
            raise ValueError("runtime.actor_gpus asks for a GPU, but torch finds none here; set it to 0 to use CPUs")
        if gpus < 1:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(memory_share(gpus, total_bytes=total))
    _uses_gpu = bool(gpus)
    decode_beside(max(1, int(cpus) - 1) if gpus else 0)


def memory_share(gpus: float, *, total_bytes: int) -> float:
    """The share of a GPU's memory for the tensors of a process that holds this share of the GPU."""
    return max(gpus / 2, gpus - _CONTEXT_BYTES / total_bytes)


def decode_beside(threads: int) -> None:
    """How many threads decode images ahead of the one that computes, and whether a thread writes behind it; 0: none."""
    global _decoding_threads
    _decoding_threads = threads


def decoding_threads() -> int:
    """As `decode_beside` chose: 0 on CPUs, where more actors are better than more threads."""
    return _decoding_threads


def computed_on() -> str:
    """Device, instruction set and number of threads of this process: these can change the last bits of a result."""
    import torch

    if _uses_gpu:
        return f"GPU {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"CPU {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device. To a GPU it is copied from pinned memory, without waiting for what the GPU computes."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def worker_device() -> torch.device:
    """The device for networks and maps in a `Map` stage's worker."""
    import torch

    return torch.device("cuda" if _uses_gpu else "cpu")
