"""The one training loop: DeepSpeed around a task, for one rank or many.

Determinism on CPUs: the order of examples is a function of (seed, epoch), an example of (seed, epoch, key), and
random draws inside the network are seeded anew at every step, so that a training that was killed and goes on from
its last checkpoint ends with the weights of one that was not.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch.utils.data import DataLoader, Dataset

from cluster import checkpoints
from cluster.deepspeed_config import deepspeed_config
from cluster.fit_files import has_outcome, write_outcome, write_progress
from cluster.sync_norm import SynchronisedBatchNorm, synchronise_norms
from shards.assign import num_batches, rank_share
from shards.files import write_bytes
from wsss.stages.fit import Fit, TrainingSet, is_whole, weights_path
from wsss.stages.stage import Instance, Outcome
from wsss.tasks.task import Task, combine

PROGRESS_INTERVAL = 1.0
COLLECTIVE_SECONDS = 7200
"""Ranks wait this long for one another: rank 0 validates while the others wait. A rank that dies is noticed at once."""


@dataclass(frozen=True)
class RankPlace:
    """Which rank this process is, and what it may use."""

    rank: int
    num_ranks: int
    local_rank: int
    threads: int
    gpus: int
    address: str | None
    """HOST:PORT to meet the other ranks at; None where a process group exists already (Ray Train makes one)."""


class TrainingDivergedError(RuntimeError):
    """The loss is not a number any more."""


def run_rank(instance: Instance, place: RankPlace) -> None:
    """Train one instance as one rank; rank 0 leaves weights and outcome in the instance's folder."""
    if has_outcome(instance.path) and is_whole(weights_path(instance)):
        return  # a driver that died before it wrote its record
    stage = instance.stage
    assert isinstance(stage, Fit)
    device = _prepare_process(place)
    torch.manual_seed(instance.seed)
    task = stage.task(instance)
    together = place.num_ranks > 1 and getattr(task, "synchronise_norms", False)
    norms = synchronise_norms(task.network) if together else []
    _Trainer(instance, stage, task, norms, place, device).run()


def _prepare_process(place: RankPlace) -> torch.device:
    os.environ["DS_ACCELERATOR"] = "cuda" if place.gpus else "cpu"
    os.environ.setdefault("LOCAL_RANK", str(place.local_rank))
    torch.set_num_threads(place.threads)
    deepspeed = _import_deepspeed()
    from deepspeed.utils import logger

    logger.setLevel("WARNING")
    # Without a C++ compiler, DeepSpeed 0.19 dies while it builds this operator for gloo; it is only a speed-up.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if place.address is not None:
        host, _, port = place.address.rpartition(":")
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=port, RANK=str(place.rank), WORLD_SIZE=str(place.num_ranks))
    if place.gpus:
        torch.cuda.set_device(place.local_rank)
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if place.gpus else "gloo",
            rank=place.rank,
            world_size=place.num_ranks,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
    deepspeed.init_distributed(dist_backend="nccl" if place.gpus else "gloo", auto_mpi_discovery=False, verbose=False)
    return torch.device("cuda", place.local_rank) if place.gpus else torch.device("cpu")


def _import_deepspeed() -> Any:
    """DeepSpeed without MLflow, which only its autotuner uses: importing that takes as long as torch itself."""
    absent = "mlflow" not in sys.modules
    if absent:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
    finally:
        if absent:
            del sys.modules["mlflow"]
    return deepspeed


class _Examples(Dataset[dict[str, Any]]):
    """A training set behind torch's loader; an item is asked for as (index, epoch)."""

    def __init__(self, examples: TrainingSet) -> None:
        self._examples = examples

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        return self._examples.example(*place)


class _Lazy:
    """What torch's loader asks of a batch sampler: it is iterated over once, after the checkpoint is restored."""

    def __init__(self, places: Callable[[], Iterator[list[tuple[int, int]]]]) -> None:
        self._places = places

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._places()


class _Trainer:
    """State of one rank's training."""

    def __init__(
        self,
        instance: Instance,
        stage: Fit,
        task: Task,
        norms: list[SynchronisedBatchNorm],
        place: RankPlace,
        device: torch.device,
    ) -> None:
        self.instance, self.stage, self.task, self.place, self.device = instance, stage, task, place, device
        self.norms = norms
        self.examples = stage.training_set(instance)
        if len(self.examples) == 0:
            raise ValueError(f"{instance.name}: there is nothing to train on")
        # Drawn-more-often samples can make epochs differ by a few records: the schedule needs all lengths beforehand.
        self.orders = [self.examples.order(epoch) for epoch in range(stage.num_epochs)]
        self.steps = [num_batches(len(order), global_batch=stage.batch_size) for order in self.orders]
        self.num_steps = sum(self.steps)
        optimizer = _optimizer(task, stage)
        self.engine, *_ = _import_deepspeed().initialize(
            model=task,
            optimizer=optimizer,
            lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate),
            config=deepspeed_config(stage),
            dist_init_required=False,
        )
        self.folder = instance.path / "checkpoints"
        self.state = checkpoints.restore(self.engine, self.folder)
        self.last_progress = 0.0

    def _rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / self.stage.warmup_steps) if self.stage.warmup_steps else 1.0
        return warm * max(0.0, 1.0 - step / self.num_steps) ** self.stage.poly_power

    def run(self) -> None:
        self.engine.train()
        batches = self._batches()
        end = 0
        for epoch, steps in enumerate(self.steps):
            end += steps
            if self.state.step < end:
                self._run_epoch(epoch, end, batches)
        self._finish()

    def _run_epoch(self, epoch: int, end: int, batches: Iterator[tuple[dict[str, Any], bool]]) -> None:
        begun, first = time.monotonic(), self.state.step
        state = self.state
        while state.step < end:
            terms = self._step(*next(batches), epoch)
            state.step += 1
            state.sums = {name: state.sums.get(name, 0.0) + value for name, value in terms.items()}
            self._report(epoch, terms["loss"])
            every = self.stage.checkpoint_every
            if every and state.step % every == 0 and state.step < end:
                self._save()
        rate = len(self.orders[epoch]) / self.steps[epoch] * (end - first) / max(time.monotonic() - begun, 1e-9)
        means = {name: total / self.steps[epoch] for name, total in state.sums.items()}
        state.history.append({"epoch": epoch + 1, "step": state.step, **means, "images_per_second": rate})
        state.sums = {}
        self._save()

    def _batches(self) -> Iterator[tuple[dict[str, Any], bool]]:
        """This rank's batches of all steps that are left, and whether the rank has a share in each.

        One loader for all epochs: its processes would take seconds to start anew.
        """
        workers = self.stage.loader_workers
        loader = DataLoader(
            _Examples(self.examples),
            batch_sampler=_Lazy(self._places),
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            pin_memory=self.device.type == "cuda",
        )
        for batch, (_, present) in zip(loader, self._shares(self.state.step), strict=True):
            yield {name: self._to_device(value) for name, value in batch.items()}, present

    def _places(self) -> Iterator[list[tuple[int, int]]]:
        return (places for places, _ in self._shares(self.state.step))

    def _shares(self, first: int) -> Iterator[tuple[list[tuple[int, int]], bool]]:
        """The (index, epoch) of this rank's examples, step by step from `first` on; False where none is its own.

        A last batch shorter than the number of ranks leaves some without a share: they compute on the batch's first
        example, so that nobody waits for them, and it counts for nothing.
        """
        step = 0
        for epoch, order in enumerate(self.orders):
            for batch in range(self.steps[epoch]):
                step += 1
                if step <= first:
                    continue
                size, place = self.stage.batch_size, self.place
                share = rank_share(
                    len(order), batch=batch, global_batch=size, rank=place.rank, num_ranks=place.num_ranks
                )
                yield [(int(order[i]), epoch) for i in (share or [batch * size])], len(share) > 0

    def _to_device(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        # Channels last is what convolutions compute in. The weights stay as they are: DeepSpeed views them as bytes.
        layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
        return value.to(self.device, non_blocking=True, memory_format=layout)

    def _step(self, batch: dict[str, Any], present: bool, epoch: int) -> dict[str, float]:
        """One optimisation step; returns the loss and its terms over all ranks."""
        torch.manual_seed((self.instance.seed * 1_000_003 + self.state.step) * 1009 + self.place.rank)
        for norm in self.norms:
            norm.present = present
        output = self.engine(batch)
        names = list(output.terms)
        share = 1.0 if present else 0.0
        counts = torch.stack([output.terms[name].count.detach().float() * share for name in names])
        if self.place.num_ranks > 1:
            dist.all_reduce(counts)
        by_name = dict(zip(names, counts, strict=True))
        loss = combine(output.terms, by_name, output.weights, output.eps) * share
        # DeepSpeed averages gradients over ranks; the terms are already divided by the counts of all ranks.
        self.engine.backward(loss * self.place.num_ranks)
        self.engine.step()
        parts = [combine({n: output.terms[n]}, by_name, {n: 1.0}, output.eps) * share for n in names]
        values = torch.stack([loss, *parts]).detach()
        if self.place.num_ranks > 1:
            dist.all_reduce(values)
        if not torch.isfinite(values[0]):
            self._stop(float(values[0]), batch if present else {}, epoch)
        return dict(zip(["loss", *names], values.tolist(), strict=True))

    def _stop(self, loss: float, batch: dict[str, Any], epoch: int) -> None:
        """Called by all ranks together, since the loss is the same on all."""
        keys: list[list[str]] = [[] for _ in range(self.place.num_ranks)]
        dist.all_gather_object(keys, list(batch.get("key", [])))
        names = ", ".join(key for part in keys for key in part[:8]) or "unnamed examples"
        raise TrainingDivergedError(
            f"the loss is {loss} at step {self.state.step} (epoch {epoch + 1}, batch of {names}); "
            f"the checkpoint before it stands in {self.folder}; try a lower learning_rate"
        )

    def _report(self, epoch: int, loss: float) -> None:
        now = time.monotonic()
        if self.place.rank == 0 and now - self.last_progress > PROGRESS_INTERVAL:
            self.last_progress = now
            state = f"epoch {epoch + 1} of {self.stage.num_epochs}, loss {loss:.4f}"
            write_progress(self.instance.path, step=self.state.step, num_steps=self.num_steps, state=state)

    def _save(self) -> None:
        self._share_buffers()
        checkpoints.save(self.engine, self.folder, self.state)

    def _share_buffers(self) -> None:
        """Every rank takes rank 0's buffers: DeepSpeed keeps parameters equal, running statistics it does not."""
        if self.place.num_ranks > 1:
            for buffer in self.task.buffers():
                dist.broadcast(buffer, src=0)

    def _finish(self) -> None:
        with _whole_parameters(self.task, self.stage):
            if self.place.rank == 0:
                self.task.eval()
                with torch.no_grad():
                    outcome = self.stage.finish(self.task, self.instance)
                state = {
                    name: value.detach().cpu().contiguous().clone()
                    for name, value in self.task.network.state_dict().items()
                }
                write_bytes(weights_path(self.instance), save(state))
                write_outcome(self.instance.path, _with_history(outcome, self.state.history))
        dist.barrier()


def _with_history(outcome: Outcome, history: list[dict[str, Any]]) -> Outcome:
    last = {f"train.{name}": float(value) for name, value in history[-1].items() if name not in ("epoch", "step")}
    return Outcome(
        metrics={**last, **outcome.metrics}, tables={**outcome.tables, "history": history}, artifacts=outcome.artifacts
    )


def _whole_parameters(task: Task, stage: Fit) -> Any:
    """ZeRO 3 keeps a part of every parameter on each rank; inside this context they are whole."""
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(task.parameters()), enabled=stage.zero_stage == 3)


def _optimizer(task: Task, stage: Fit) -> torch.optim.Optimizer:
    """Groups: given or new parameters, biases or not, decayed or not (norms and biases are not)."""
    new = {id(parameter) for parameter in task.new_parameters()}
    groups: dict[tuple[bool, bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            # Biases stand apart only where their rate does: every group costs DeepSpeed a buffer.
            is_bias = stage.bias_rate_factor != 1 and name.endswith("bias")
            groups.setdefault((id(parameter) in new, is_bias, parameter.ndim > 1), []).append(parameter)
    parts = [
        {
            "params": parameters,
            "lr": stage.learning_rate
            * (stage.head_rate_factor if is_new else 1.0)
            * (stage.bias_rate_factor if is_bias else 1.0),
            "weight_decay": stage.weight_decay if decayed else 0.0,
        }
        for (is_new, is_bias, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    if not parts or not math.isfinite(stage.learning_rate):
        raise ValueError("the task has no parameter to train")
    if stage.optimizer == "sgd":
        return torch.optim.SGD(parts, lr=stage.learning_rate, momentum=stage.momentum)
    if stage.optimizer == "adam":
        return torch.optim.Adam(parts, lr=stage.learning_rate, betas=(stage.momentum, 0.999))
    return torch.optim.AdamW(parts, lr=stage.learning_rate, betas=(stage.momentum, 0.999))
