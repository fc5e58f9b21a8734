"""Prepares a process as one rank of a training: its number, its device, and its process group."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from cluster.training.hand_over import Notice
from cluster.training.memory import keep_freed_memory

COLLECTIVE_SECONDS = 7200
"""Timeout of collectives: the other ranks wait while rank 0 validates. A dead rank is noticed immediately."""


@dataclass(frozen=True)
class RankPlace:
    """This process's rank and the resources that it may use."""

    rank: int
    world_size: int
    local_rank: int
    threads: int
    gpus: int
    address: str | None
    """HOST:PORT of the process group's store; None if a process group exists already (Ray Train creates one)."""
    notice: Notice | None = None
    """Tells this rank that its process will end soon."""


def prepare_process(place: RankPlace) -> torch.device:
    os.environ["DS_ACCELERATOR"] = "cuda" if place.gpus else "cpu"
    # DeepSpeed computes on the GPU of this number, whatever Ray or a shell has set.
    os.environ["LOCAL_RANK"] = str(place.local_rank)
    torch.set_num_threads(place.threads)
    keep_freed_memory()
    deepspeed = import_deepspeed()
    from deepspeed.utils import logger

    logger.setLevel("WARNING")
    if not place.gpus:
        # Without a C++ compiler, DeepSpeed 0.19 fails to build this operator for gloo; it only improves speed.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if place.address is not None:
        host, _, port = place.address.rpartition(":")
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=port, RANK=str(place.rank), WORLD_SIZE=str(place.world_size))
    if place.gpus:
        torch.cuda.set_device(place.local_rank)
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if place.gpus else "gloo",
            rank=place.rank,
            world_size=place.world_size,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
    deepspeed.init_distributed(dist_backend="nccl" if place.gpus else "gloo", auto_mpi_discovery=False, verbose=False)
    return torch.device("cuda", place.local_rank) if place.gpus else torch.device("cpu")


def import_deepspeed() -> Any:
    """Import DeepSpeed without MLflow, which only its autotuner uses and which takes as long to import as torch."""
    absent = "mlflow" not in sys.modules
    if absent:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
    finally:
        if absent:
            del sys.modules["mlflow"]
    return deepspeed
