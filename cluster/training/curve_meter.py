"""What a training measures for its curve: means over intervals of steps, and the state of the machines.

| value | meaning |
|---|---|
| `train/loss`, `train/TERM` | mean over the steps since the last point |
| `train/learning_rate` | that of the first group of parameters, at the point's step |
| `train/gradient_norm` | norm of the whole gradient at the point's step, before clipping |
| `train/images_per_second` | over all ranks |
| `train/data_wait_share` | share of the time in which rank 0 waited for its examples |
| `validation/NAME` | metrics of a validation |
| `system/HOST/NAME` | load and memory of each node, written by its first rank |
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from cluster.training.rank_process import RankPlace
from wsss.contract.curve import CURVE, append_point, remove_points_after
from wsss.contract.stage import Instance

T = TypeVar("T")
LONGEST = 500
"""Points of a whole training: with more steps, a point is the mean of several."""


class CurveMeter:
    """Measures one rank's training. Rank 0 writes the curve, and the first rank of every node the node's state."""

    def __init__(self, instance: Instance, place: RankPlace, *, step: int, num_steps: int) -> None:
        """`step`: the step that the training resumes from."""
        folder = instance.path
        self._folder, self._place = folder, place
        # DeepSpeed's ZeRO splits gradients over the ranks, and adds up their norm by itself.
        self._whole_gradients = getattr(instance.stage, "zero_stage", 0) == 0
        self._norm: float | None = None
        self._every = -(-num_steps // LONGEST)
        self._num_steps = num_steps
        host = re.sub(r"[^\w.-]", "_", os.uname().nodename)
        self._system, self._host = folder / f"system-{host}.jsonl", host
        if place.rank == 0:
            remove_points_after(folder / CURVE, step=step)
        if place.local_rank == 0:
            remove_points_after(self._system, step=step)
            psutil.cpu_percent()  # the first call only begins the measurement
        self._begin()

    def _begin(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps, self._images, self._waited, self._since = 0, 0.0, 0.0, time.monotonic()

    def awaited(self, steps: Iterator[T]) -> T:
        """The examples of the next step; the time until they are there is time spent waiting."""
        begun = time.monotonic()
        found = next(steps)
        self._waited += time.monotonic() - begun
        return found

    def see_gradient(self, task: torch.nn.Module, *, step: int, last: bool) -> None:
        """Called after every backward pass of a step, before the optimizer; `last`: the gradient is now complete."""
        if last and self._whole_gradients and self._place.rank == 0 and self.is_due(step):
            self._norm = gradient_norm(task.parameters())

    def is_due(self, step: int) -> bool:
        """True if step number `step`, once computed, ends an interval."""
        return step % self._every == 0 or step == self._num_steps

    def add(self, step: int, terms: Mapping[str, float], *, images: float, engine: Any) -> None:
        """One more step was computed, of so many images over all ranks."""
        self._steps, self._images = self._steps + 1, self._images + images
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in terms.items()}
        if not self.is_due(step):
            return
        seconds = max(time.monotonic() - self._since, 1e-9)
        if self._place.rank == 0:
            values = {f"train/{name}": total / self._steps for name, total in self._sums.items()}
            values["train/learning_rate"] = float(engine.get_lr()[0])
            values["train/images_per_second"] = self._images / seconds
            values["train/data_wait_share"] = min(self._waited / seconds, 1.0)
            norm = self._norm if self._whole_gradients else engine.get_global_grad_norm()
            if norm is not None:
                values["train/gradient_norm"] = float(norm)
            append_point(self._folder / CURVE, step=step, values=values)
        if self._place.local_rank == 0:
            state = {f"system/{self._host}/{name}": value for name, value in _machine(self._folder).items()}
            append_point(self._system, step=step, values=state)
        self._begin()

    def add_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """The network was validated after a step; the time that this took counts for no step."""
        if self._place.rank == 0:
            named = {f"validation/{name.removeprefix('val.')}": value for name, value in metrics.items()}
            append_point(self._folder / CURVE, step=step, values=named)
        self._begin()


def gradient_norm(parameters: Iterator[torch.nn.Parameter]) -> float:
    """Norm of the gradients of all parameters together, as they are now."""
    norms = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


def _machine(folder: Path) -> dict[str, float]:
    memory, network, disk = psutil.virtual_memory(), psutil.net_io_counters(), shutil.disk_usage(folder)
    state = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_percentage": 100 * disk.used / disk.total,
        "network_receive_megabytes": network.bytes_recv / 1e6,
        "network_transmit_megabytes": network.bytes_sent / 1e6,
    }
    if torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        state["gpu_memory_usage_megabytes"] = (total - free) / 1e6
        state["gpu_memory_usage_percentage"] = 100 * (total - free) / total
    return state
