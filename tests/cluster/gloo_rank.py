"""One of two gloo ranks: python -m tests.cluster.gloo_rank RANK ADDRESS MASTER PREPARED."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from cluster.ranks.node_interface import use_interface_of


def main(rank: str, address: str, master: str, prepared: str) -> None:
    if prepared == "yes":
        use_interface_of(address)
    os.environ.update(MASTER_ADDR=master, MASTER_PORT="29511", RANK=rank, WORLD_SIZE="2")
    dist.init_process_group("gloo", timeout=timedelta(seconds=5))
    total = torch.tensor([float(rank) + 1])
    dist.all_reduce(total)
    print(f"sum {total.item():g}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
