from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from cluster.training.batches import RankBatches
from cluster.training.loader_memory import AHEAD, ReusedMemory, SharedMemory
from tests.cluster.tiny import TinyFit, TinySet
from wsss.contract.fit import Draw

WORKERS = 2


class Numbered(Dataset[dict[str, Any]]):
    """Example n: a large and a small tensor filled with n; from example `wider` on the large one has another shape."""

    def __init__(self, wider: int = 1000) -> None:
        self._wider = wider

    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> dict[str, Any]:
        width = 200 if number < self._wider else 240
        return {
            "image": torch.full((3, 200, width), float(number)),
            "number": torch.tensor([number]),
            "key": str(number),
        }


class LargeSet(TinySet):
    """Its images are large enough for reused buffers."""

    def example(self, draw: Draw) -> dict[str, Any]:
        example = super().example(draw)
        return example | {"image": example["image"].repeat(1, 30, 30)}


def loader(data: Numbered, *, workers: int) -> DataLoader[dict[str, Any]]:
    return DataLoader(
        data,
        batch_size=4,
        collate_fn=ReusedMemory(4),
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
    )


def test_batches_are_correct_and_their_buffers_are_reused() -> None:
    shared, buffers = SharedMemory(), set()
    kept = []
    for batch in loader(Numbered(), workers=WORKERS):
        buffers.add(batch["image"].data_ptr())
        kept.append(shared.copy_reused(batch, batch))
    assert len(buffers) <= WORKERS * (AHEAD + 1) < len(kept)
    for number, batch in enumerate(kept):
        expected = torch.arange(4 * number, 4 * number + 4)
        assert torch.equal(batch["number"][:, 0], expected)
        assert batch["key"] == [str(n) for n in expected.tolist()]
        assert torch.equal(batch["image"], expected.float()[:, None, None, None].expand(4, 3, 200, 200))


def test_another_shape_gets_new_buffers() -> None:
    shared = SharedMemory()
    kept = [shared.copy_reused(batch, batch)["image"] for batch in loader(Numbered(wider=32), workers=1)]
    assert [image.shape[-1] for image in kept] == [200] * 8 + [240] * 8
    assert [float(image[0, 0, 0, 0]) for image in kept] == [4.0 * number for number in range(16)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_batches_equal_those_read_without_loader_processes(accumulation: int) -> None:
    read = {}
    for workers in (0, WORKERS):
        stage = TinyFit(batch_size=4, num_epochs=4, gradient_accumulation_steps=accumulation, loader_workers=workers)
        data = LargeSet(stage, Path("unused"))
        batches = RankBatches(data, stage, rank=0, world_size=1, device=torch.device("cpu"))
        read[workers] = [micro_batch.batch for step in batches.after(0) for micro_batch in step]
    assert len(read[0]) == len(read[WORKERS]) == (12 if accumulation == 1 else 20)
    for here, there in zip(read[0], read[WORKERS], strict=True):
        assert here["key"] == there["key"]
        for name in ("image", "target", "valid"):
            assert torch.equal(here[name], there[name])
