"""Changes to saving and loading checkpoints inside a rank of a `TinyFit`, for tests: faults, and notes on the state."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from cluster.training import checkpoints
from cluster.training.batches import RankBatches
from cluster.training.gathered_state import OPTIMIZER, gather, scatter
from wsss.contract.stage import Instance

if TYPE_CHECKING:
    from tests.cluster.tiny import TinyFit


def change_checkpoints(stage: TinyFit, instance: Instance) -> None:
    """Called in every rank before it loads a checkpoint."""
    if stage.die_after:
        _die_after(stage.die_after)
    if stage.die_while_saving:
        _die_while_saving(stage.die_while_saving, instance.path / "died")
    if stage.forget:
        checkpoints.scatter = lambda engine, state: scatter(  # type: ignore[attr-defined]
            engine, {name: value for name, value in state.items() if not name.startswith(OPTIMIZER)}
        )
    if stage.watched:
        _watch(stage, instance)


def _die_after(step: int) -> None:
    save = checkpoints.save

    def saved(engine: Any, folder: Path, state: checkpoints.TrainingState, average: Any = None) -> None:
        save(engine, folder, state, average)
        if state.step == step and dist.get_rank() == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.save = saved


def _die_while_saving(step: int, marker: Path) -> None:
    write = checkpoints.write_bytes  # type: ignore[attr-defined]

    def half(path: Path, data: bytes, *, what: str = "") -> None:
        if path.name == f"step-{step:08d}.safetensors" and not marker.exists():
            marker.touch()
            path.with_name(f".{path.name}.tmp").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, data, what=what)

    checkpoints.write_bytes = half  # type: ignore[attr-defined]


def _watch(stage: TinyFit, instance: Instance) -> None:
    """Write what was loaded: weights, moments, buffers, learning rates, and the examples that come next."""
    restore = checkpoints.restore

    def restored(engine: Any, folder: Path, average: Any = None) -> checkpoints.TrainingState:
        state = restore(engine, folder, average)
        whole, rank, ranks = gather(engine), dist.get_rank(), dist.get_world_size()
        examples = stage.training_set(instance)
        batches = RankBatches(examples, stage, rank=rank, world_size=ranks, device=torch.device("cpu"))
        upcoming = [key for part in next(batches.after(state.step)) if part.present for key in part.batch["key"]]
        keys: list[Any] = [None] * ranks
        dist.all_gather_object(keys, upcoming)
        if rank == 0 and state.step:
            noted = {"rates": [group["lr"] for group in engine.optimizer.param_groups], "keys": keys}
            _write(instance.path / f"restored-{state.step}-{ranks}", whole, noted)
        return state

    checkpoints.restore = restored


def _write(path: Path, whole: Mapping[str, torch.Tensor], noted: Mapping[str, Any]) -> None:
    save_file(dict(whole), path.with_suffix(".safetensors"))
    path.with_suffix(".json").write_text(json.dumps(noted))
