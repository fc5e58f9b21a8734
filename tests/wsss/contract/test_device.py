from __future__ import annotations

from typing import Any

import pytest
import torch

from wsss.contract.device import choose_device, decoding_threads, on_device, worker_device


def test_cpus_have_no_threads_beside_them() -> None:
    choose_device(gpu=False, cpus=7)
    assert decoding_threads() == 0 and worker_device().type == "cpu"


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (2, 1), (8, 7)])
def test_beside_a_gpu_all_cpus_but_one_decode(cpus: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    try:
        choose_device(gpu=True, cpus=cpus)
        assert decoding_threads() == threads and worker_device().type == "cuda"
    finally:
        choose_device(gpu=False)
    assert decoding_threads() == 0


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
