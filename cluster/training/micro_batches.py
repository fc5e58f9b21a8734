"""Micro-batches that are smaller than the settings say, because a GPU's memory is too small for theirs.

The global batch stays as it is: every rank processes more and smaller micro-batches per step, as with more
`gradient_accumulation_steps`. The training is begun again for that, from its last checkpoint, with all ranks: a rank
in the middle of a step cannot tell the others, which wait for its gradients. What fits is kept in the instance's
folder, so that it is found out once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from shards.files import write_bytes
from shards.wording import counted
from wsss.contract.failure import SmallerBatchError
from wsss.contract.fit import Fit, largest_micro_batch
from wsss.contract.gpu_memory import too_large
from wsss.contract.stage import Instance

_FILE = "micro_batch.json"
_FIRST_WORDS = "a GPU's memory was too small for micro-batches of"


def read_limit(folder: Path) -> int | None:
    """The most examples that a rank processes together, if they are fewer than the settings say."""
    try:
        return int(json.loads((folder / _FILE).read_bytes())["examples"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def agreed_size(instance: Instance, stage: Fit, *, world_size: int) -> int:
    """The largest micro-batch, the same on all ranks, which call this together."""
    found: list[int | None] = [read_limit(instance.path) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0)
    size = largest_micro_batch(stage, world_size=world_size)
    return size if found[0] is None else min(size, found[0])


def smaller_micro_batches(instance: Instance, error: BaseException, *, size: int) -> SmallerBatchError:
    """The error to raise after a GPU had no memory for `size` examples; the next start of the training takes half.

    Raises `OutOfGpuMemoryError`, with the settings to change, if it was a single one.
    """
    if size == 1:
        raise too_large(instance, error, what="example") from error
    write_bytes(instance.path / _FILE, json.dumps({"examples": size // 2}).encode())
    return SmallerBatchError(
        f"the GPU's memory is too small for micro-batches of {size} examples; the training goes on with "
        f"{size // 2} ({error})"
    )


def with_note(notes: Sequence[str], instance: Instance, stage: Fit, *, size: int, world_size: int) -> list[str]:
    """The notes of a training, and what the user should know of its micro-batches if they are smaller than set."""
    others = [note for note in notes if not note.startswith(_FIRST_WORDS)]  # an earlier start tried larger ones
    if size == (wanted := largest_micro_batch(stage, world_size=world_size)):
        return others
    of_rank = -(-stage.batch_size // world_size)
    name = f"{instance.name}.gradient_accumulation_steps"
    return [
        *others,
        f"{_FIRST_WORDS} {counted(wanted, 'example')}: they had {size}, the batch "
        f"is the same; with {name} = {-(-of_rank // size)} this is not found out by trying. BatchNorm statistics that "
        "are not frozen are those of one micro-batch",
    ]
