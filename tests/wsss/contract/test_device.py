from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from wsss.contract.device import choose_device, decoding_threads, memory_share, on_device, worker_device


def test_cpus_have_no_threads_beside_them() -> None:
    choose_device(gpus=0, cpus=7)
    assert decoding_threads() == 0 and worker_device().type == "cpu"


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (2, 1), (8, 7)])
def test_beside_a_gpu_all_cpus_but_one_decode(cpus: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    try:
        choose_device(gpus=1, cpus=cpus)
        assert decoding_threads() == threads and worker_device().type == "cuda"
    finally:
        choose_device(gpus=0)
    assert decoding_threads() == 0


def test_a_process_with_a_share_of_a_gpu_takes_no_more_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's own memory, which two processes have twice, is left free."""
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=24 << 30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    try:
        for gpus in (1, 0.5):
            choose_device(gpus=gpus)
    finally:
        choose_device(gpus=0)
    assert shares == [0.5 - 0.75 / 24]
    assert memory_share(0.1, total_bytes=8 << 30) == pytest.approx(0.05), "a small share keeps half of it"


def test_only_copies_to_a_gpu_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: what torch is asked for is recorded."""
    asked: list[object] = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        asked.append("pinned")
        return tensor

    def to(tensor: torch.Tensor, device: torch.device, **given: Any) -> torch.Tensor:
        asked.append((device.type, given))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "to", to)
    values = torch.arange(5)
    assert torch.equal(on_device(values, torch.device("cpu")), values)
    assert asked == [("cpu", {})]
    asked.clear()
    assert torch.equal(on_device(values, torch.device("cuda")), values)
    assert asked == ["pinned", ("cuda", {"non_blocking": True})]
