"""Checkpoints of a training in progress. They do not depend on the number of ranks, and contain no pickle.

    checkpoints/step-00000120.safetensors    weights and optimizer (`cluster.training.gathered_state`)
    checkpoints/average-00000120.safetensors    moving average of the weights, if ema_decay is set
    checkpoints/best-00000080.safetensors    weights of the best validation, if the training validates
    checkpoints/latest.json        the step, the history so far, and size and SHA-256 of the files; written after them
    checkpoints/previous.json      the same of the checkpoint before, which is used if a file of the latest is damaged

The training waits while rank 0 writes: 1.8 s for the 189 MB of a ResNet-50 with momentum on a local disk, where a step
of 16 images takes 44 s (a busy machine with 2 cores, 2026-11-29, `tests/benchmarks/checkpoints.py`). A thread would
save 1.6 s of that, but it would need a second copy of all tensors in memory, and a disk that is full would be noticed
only after further steps.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors

from cluster.training.ema import MovingAverage
from cluster.training.gathered_state import gather, scatter
from shards.file_system_errors import writing
from shards.files import remove_leftovers, sha256_of, write_bytes
from wsss.contract.stage import Outcome

POINTER, PREVIOUS = "latest.json", "previous.json"
_FILES = ("step-*", "best-*", "average-*")
RANKS = "ranks"
"""The table with the ranks of each part of a training."""


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
    parts: list[dict[str, int]] = field(default_factory=list)
    """The parts of the training with equal numbers of ranks: `first_step`, `last_step`, `world_size`."""
    micro_batch: int = 0
    """Examples of a micro-batch, if a GPU's memory was too small for those of the settings."""
    notes: list[str] = field(default_factory=list)
    """What the user should know about resuming, such as a damaged checkpoint."""

    def begin_part(self, world_size: int) -> None:
        """The following steps are computed by this many ranks."""
        if not self.parts or self.parts[-1]["world_size"] != world_size:
            self.parts.append({"first_step": self.step + 1, "last_step": self.step, "world_size": world_size})

    def count_step(self) -> None:
        """One more step has been computed."""
        self.step += 1
        self.parts[-1]["last_step"] = self.step


def best_path(folder: Path, state: TrainingState) -> Path:
    """Weights of the best validation so far."""
    return folder / f"best-{state.best_step:08d}.safetensors"


def average_path(folder: Path, state: TrainingState) -> Path:
    """Moving average of the weights at a checkpoint."""
    return folder / f"average-{state.step:08d}.safetensors"


def state_path(folder: Path, state: TrainingState) -> Path:
    """Weights and optimizer at a checkpoint."""
    return folder / f"step-{state.step:08d}.safetensors"


def weights_of(network: torch.nn.Module, header: Mapping[str, str]) -> bytes:
    """A network's weights as the bytes of a .safetensors file, with the entries of its header that describe it."""
    state = network.state_dict()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    return to_safetensors(tensors, metadata=dict(header) or None)


def save(engine: Any, folder: Path, state: TrainingState, average: MovingAverage | None = None) -> None:
    """Save, called by all ranks together; older checkpoints than the previous one are removed.

    Raises: FileSystemError if the disk is full or the like; the previous checkpoint is then still complete.
    """
    gathered = gather(engine)
    if dist.get_rank() == 0:
        written = {state_path(folder, state): to_safetensors(gathered)}
        del gathered
        if average is not None:
            written[average_path(folder, state)] = average.to_bytes()
        files = {}
        for path, data in written.items():
            write_bytes(path, data, what=f"the checkpoint of step {state.step}")
            files[path.name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if state.best_step:
            best = best_path(folder, state)
            files[best.name] = _known(folder, best.name) or {"size": best.stat().st_size, "sha256": sha256_of(best)}
        _require_whole_sizes(folder, files)
        _write_pointer(folder, {**asdict(state), "files": files})
        _prune(folder)
    dist.barrier()


def _known(folder: Path, name: str) -> dict[str, Any] | None:
    """Size and digest of a file that the latest checkpoint has too."""
    found: dict[str, Any] | None = (_read(folder / POINTER) or {}).get("files", {}).get(name)
    return found


def _require_whole_sizes(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """The file system may have lost what it accepted; the checkpoint before must then stay the latest one."""
    for name, known in files.items():
        if (size := (folder / name).stat().st_size) != known["size"]:
            raise RuntimeError(f"{folder / name} has {size} bytes after it was written, expected {known['size']}")


def _write_pointer(folder: Path, content: Mapping[str, Any]) -> None:
    pointer, what = folder / POINTER, "the pointer to the latest checkpoint"
    before = _read(pointer)
    if before is not None and before["step"] != content["step"]:
        with writing(pointer, what=what):
            os.replace(pointer, folder / PREVIOUS)
    write_bytes(pointer, json.dumps(content).encode(), what=what)


def _prune(folder: Path) -> None:
    """Remove the files of older checkpoints, and those of checkpoints that were not completed."""
    remove_leftovers(folder)  # of a rank that was killed while it saved
    kept: set[str] = set()
    for name in (POINTER, PREVIOUS):
        kept |= (_read(folder / name) or {}).get("files", {}).keys()
    for path in [path for pattern in _FILES for path in folder.glob(pattern)]:
        if path.name not in kept and path.is_file():
            path.unlink()


def _read(pointer: Path) -> dict[str, Any] | None:
    """A pointer's content; None if there is none, or none of this version. Raises OSError if it cannot be read now."""
    try:
        content = json.loads(pointer.read_bytes())
        TrainingState(**{name: value for name, value in content.items() if name != "files"})
        return content if isinstance(content["files"], dict) else None
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None


def last_step(folder: Path) -> int | None:
    """The step of the latest checkpoint, None if there is none, or if it cannot be read now."""
    try:
        content = _read(folder / POINTER) or _read(folder / PREVIOUS)
    except OSError:
        return None
    return None if content is None else int(content["step"])


def restore(engine: Any, folder: Path, average: MovingAverage | None = None) -> TrainingState:
    """Load the latest checkpoint that is whole, written by any number of ranks, into the engine and the average.

    Called by all ranks together. Returns a new state if there is no checkpoint, or none that is whole; the notes of the
    state say what is wrong. Raises KeyError or ValueError if a checkpoint is not that of this network.
    """
    chosen: list[Any] = [_choose(folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(chosen, src=0)
    state: TrainingState = chosen[0]
    if state.step:
        scatter(engine, load_file(state_path(folder, state)))
        _set_schedule(engine, state.step)
        if average is not None:
            average.from_bytes(average_path(folder, state).read_bytes())
    return state


def _choose(folder: Path) -> TrainingState:
    """The state of the latest whole checkpoint."""
    notes: list[str] = []
    for name in (POINTER, PREVIOUS):
        if not (folder / name).exists():
            continue
        content = _read(folder / name)
        unread = f"{folder / name} is not readable, or of an earlier version"
        fault = unread if content is None else _fault(folder, content["files"])
        if content is None or fault:
            notes.append(fault)
            (folder / name).unlink()  # so that it is not taken for the previous checkpoint later
            continue
        state = TrainingState(**{key: value for key, value in content.items() if key != "files"})
        found = [f"{note}; the training was resumed from step {state.step}" for note in notes]
        return replace(state, notes=[*state.notes, *found])
    return TrainingState(notes=[f"{note}; the training was begun again" for note in notes])


def _fault(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with a checkpoint's files; empty if they are what was written."""
    for name, known in files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if (size := path.stat().st_size) != known["size"]:
            return f"{path} is not whole: {size} of {known['size']} bytes"
        if sha256_of(path) != known["sha256"]:
            return f"{path} is damaged: its SHA-256 is not the one that was written"
    return ""


def _set_schedule(engine: Any, step: int) -> None:
    """Put learning rates and counters where they are after `step` steps."""
    schedule = engine.lr_scheduler
    rates = [base * factor(step) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    schedule.last_epoch, schedule._step_count, schedule._last_lr = step, step + 1, rates
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    engine.global_steps, engine.global_samples = step, step * engine.train_batch_size()


def with_history(outcome: Outcome, state: TrainingState) -> Outcome:
    """The outcome with the last epoch's metrics, a table with a row per epoch, and one with the ranks of each part."""
    skipped = ("epoch", "step", *outcome.metrics)
    last = {f"train.{name}": float(value) for name, value in state.history[-1].items() if name not in skipped}
    if state.micro_batch:
        last["micro_batch"] = float(state.micro_batch)
    if state.best_score is not None:
        last["best_step"] = float(state.best_step)
    tables = {**outcome.tables, "history": state.history, RANKS: [dict(part) for part in state.parts]}
    notes = (*outcome.notes, *state.notes, *_about_ranks(state.parts))
    return replace(outcome, metrics={**last, **outcome.metrics}, tables=tables, notes=notes)


def _about_ranks(parts: list[dict[str, int]]) -> list[str]:
    if len(parts) < 2:
        return []
    each = [f"steps {part['first_step']} to {part['last_step']} by {part['world_size']}" for part in parts]
    return [f"computed by different numbers of ranks: {', '.join(each)}"]
