"""Checkpoints of a training in progress: DeepSpeed's own files, and a pointer that is replaced atomically.

    checkpoints/step-00000120/     written by DeepSpeed (its pickles are read from the run's own folder only)
    checkpoints/best-00000080.safetensors    weights of the best validation, if the training validates
    checkpoints/average-00000120.safetensors    moving average of the weights, if ema_decay is set
    checkpoints/latest.json        written after every rank has finished writing; the step and the history so far

A checkpoint folder that the pointer does not name is incomplete and is overwritten.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save as to_safetensors

from cluster.checkpoint_space import checkpoint_bytes, explain_failed_save
from cluster.ema import MovingAverage
from shards.file_system_errors import writing
from shards.files import write_bytes
from wsss.contract.stage import Outcome

POINTER = "latest.json"


@dataclass
class TrainingState:
    """Progress of a training, as stored in a checkpoint."""

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row per finished epoch."""
    sums: dict[str, float] = field(default_factory=dict)
    """Loss and terms, summed over the steps of the current epoch."""
    faults: int = 0
    """Examples of the current epoch that could not be read."""
    best_score: float | None = None
    """Score of the best validation so far."""
    best_step: int = 0
    """Step of the best validation; its weights are stored in `best_path`."""


def best_path(folder: Path, state: TrainingState) -> Path:
    """Weights of the best validation so far."""
    return folder / f"best-{state.best_step:08d}.safetensors"


def average_path(folder: Path, state: TrainingState) -> Path:
    """Moving average of the weights at a checkpoint."""
    return folder / f"average-{state.step:08d}.safetensors"


def weights_of(network: torch.nn.Module) -> bytes:
    """A network's weights as the bytes of a .safetensors file."""
    state = network.state_dict()
    return to_safetensors({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})


def save(engine: Any, folder: Path, state: TrainingState, average: MovingAverage | None = None) -> None:
    """Save on all ranks. The pointer is updated after all have written; then the previous checkpoint is removed.

    Raises: FileSystemError if the disk is full or the like; the previous checkpoint is then still complete.
    """
    tag = f"step-{state.step:08d}"
    _save_engine(engine, folder, tag)
    dist.barrier()
    if dist.get_rank() == 0:
        if average is not None:
            write_bytes(average_path(folder, state), average.to_bytes(), what="the moving average of a checkpoint")
        pointer = json.dumps({"tag": tag, "world_size": dist.get_world_size(), **asdict(state)}).encode()
        write_bytes(folder / POINTER, pointer, what="the pointer to the latest checkpoint")
        for old in folder.glob("step-*"):
            if old.name != tag:
                shutil.rmtree(old, ignore_errors=True)
        for old in [*folder.glob("best-*"), *folder.glob("average-*")]:
            if old not in (best_path(folder, state), average_path(folder, state)):
                old.unlink()
    dist.barrier()


def _save_engine(engine: Any, folder: Path, tag: str) -> None:
    what = f"the checkpoint {tag}"
    try:
        with writing(folder / tag, what=what):
            engine.save_checkpoint(str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=False)
    except Exception as error:
        needed = checkpoint_bytes(engine, ranks=dist.get_world_size())
        explained = explain_failed_save(error, folder, what=what, needed=needed)
        shutil.rmtree(folder / tag, ignore_errors=True)
        if explained is None or explained is error:
            raise
        raise explained from error


def last_step(folder: Path) -> int | None:
    """The step of the checkpoint that `restore` would load, None if there is none."""
    try:
        return int(json.loads((folder / POINTER).read_bytes())["step"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def restore(engine: Any, folder: Path, average: MovingAverage | None = None) -> TrainingState:
    """Load the latest checkpoint into the engine and the average; a new state if there is none.

    Raises: ValueError if the pointer is not readable, or if a ZeRO checkpoint, which is partitioned over the ranks, was
    written with another world size; RuntimeError if the checkpoint does not load.
    """
    try:
        pointer = json.loads((folder / POINTER).read_bytes())
        tag, world_size = pointer.pop("tag"), pointer.pop("world_size", None)
        state = TrainingState(**pointer)
    except FileNotFoundError:
        return TrainingState()
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{folder / POINTER} is not readable ({error}); delete {folder} to train from the start"
        ) from None
    if world_size not in (None, dist.get_world_size()) and engine.zero_optimization_stage() > 0:
        raise ValueError(
            f"the checkpoint in {folder} was written by {world_size} ranks, and this training has "
            f"{dist.get_world_size()}: with zero_stage = {engine.zero_optimization_stage()} every rank stores a part; "
            f"set world_size = {world_size}, or delete {folder} to train from the start"
        )
    loaded, _ = engine.load_checkpoint(str(folder), tag=tag)
    if loaded is None:
        raise RuntimeError(f"{folder / tag} does not load; delete {folder} to train from the start")
    if average is not None:
        average.from_bytes(average_path(folder, state).read_bytes())
    return state


def with_history(outcome: Outcome, state: TrainingState) -> Outcome:
    """The outcome with the last epoch's metrics, and a table with one row per epoch."""
    skipped = ("epoch", "step", *outcome.metrics)
    last = {f"train.{name}": float(value) for name, value in state.history[-1].items() if name not in skipped}
    if state.best_score is not None:
        last["best_step"] = float(state.best_step)
    tables = {**outcome.tables, "history": state.history}
    return Outcome(metrics={**last, **outcome.metrics}, tables=tables, artifacts=outcome.artifacts)
