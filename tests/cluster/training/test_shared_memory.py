from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from cluster.training import shared_memory
from cluster.training.batches import _explain_shared_memory_errors
from cluster.training.shared_memory import SharedMemoryError, is_about_room, require_room

EXAMPLE = {"image": torch.zeros(3, 200, 200), "number": torch.zeros(1), "key": "a"}
IMAGE_BYTES = 3 * 200 * 200 * 4


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Free bytes in /dev/shm: a test sets `f_bavail`; a block has one byte."""
    found = SimpleNamespace(f_bavail=0, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    return found


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 4), (3, 2)])
def test_what_the_loader_needs_is_known_before_it_starts(free: SimpleNamespace, workers: int, batch_size: int) -> None:
    need = workers * batch_size * 3 * IMAGE_BYTES  # each process has three batches in flight
    free.f_bavail = need
    require_room(EXAMPLE, batch_size=batch_size, workers=workers)
    free.f_bavail = need - 1
    with pytest.raises(SharedMemoryError, match=rf"loader_workers = {workers}: /dev/shm is too small.*--shm-size"):
        require_room(EXAMPLE, batch_size=batch_size, workers=workers)


def test_a_system_without_dev_shm_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "statvfs", absent)
    assert shared_memory.free_bytes() is None
    require_room(EXAMPLE, batch_size=1000, workers=1000)


@pytest.mark.parametrize(
    ("words", "workers", "translated"),
    [
        ("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)", 2, True),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that", 2, True),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", 2, False),
        ("unable to allocate shared memory(shm) for file </torch_1_2>", 0, False),
    ],
)
def test_a_full_dev_shm_is_reported_with_settings(words: str, workers: int, translated: bool) -> None:
    def batches() -> object:
        yield {"image": 1}
        raise RuntimeError(words)

    stream = _explain_shared_memory_errors(batches(), workers=workers)  # type: ignore[arg-type]
    assert next(stream) == {"image": 1}
    with pytest.raises(SharedMemoryError if translated else RuntimeError) as caught:
        next(stream)
    assert isinstance(caught.value, SharedMemoryError) == translated
    assert is_about_room(RuntimeError(words)) or not translated
