"""Explains why a checkpoint could not be written: torch reports a full disk as `unexpected pos 736320 vs 736208`."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from shards.file_system_errors import FileSystemError, disk_of, lasting_error, why_not_writable

_TORCH_WRITER = re.compile(r"unexpected pos \d+ vs \d+|file write failed|PytorchStreamWriter|inline_container")
"""How torch reports that a file could not be written, whatever the reason."""


def explain_failed_save(
    error: Exception, folder: Path, *, what: str, needed: int
) -> FileSystemError | RuntimeError | None:
    """Why a checkpoint could not be written into `folder`; None if the error is not about writing.

    A `FileSystemError` would recur: the disk is full, read-only and so on. `needed`: bytes of the whole checkpoint.
    Several ranks fail together, and one that fails first removes the incomplete checkpoint: so the free space is
    compared with what all of it needs, not with what is left to write.
    """
    if isinstance(error, FileSystemError):
        return error
    for one in _chain(error):
        if isinstance(one, OSError) and (lasting := lasting_error(one, folder, what=what, needed=needed)) is not None:
            return lasting
    if (probed := why_not_writable(folder, what=what, needed=needed)) is not None:
        return probed
    if not _TORCH_WRITER.search(str(error)):
        return None
    disk = disk_of(folder)
    if disk.free < needed:
        return lasting_error(OSError(errno.ENOSPC, ""), folder, what=what, needed=needed)
    return RuntimeError(f"cannot write {folder} ({what}): {error}; its disk {disk.describe(needed=needed)}")


def checkpoint_bytes(engine: Any, *, ranks: int) -> int:
    """About how many bytes a checkpoint of all ranks takes: the network once, and the optimizer's state of every rank
    (with ZeRO; without it once)."""
    network = sum(_bytes(value) for value in engine.module.state_dict().values())
    optimizer = getattr(engine, "optimizer", None)
    base = getattr(optimizer, "optimizer", optimizer)
    state = sum(_bytes(value) for value in _tensors(getattr(base, "state", {})))
    return network + state * (ranks if engine.zero_optimization_stage() else 1)


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif hasattr(value, "values"):
        for one in value.values():
            yield from _tensors(one)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
