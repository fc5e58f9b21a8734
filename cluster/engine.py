"""The one training loop: DeepSpeed around a task, for one rank or many.

Determinism on CPUs: the order of examples is a function of (seed, epoch), an example of (seed, epoch, key), and
random draws inside the network are seeded anew at every step, so that a training that was killed and goes on from
its last checkpoint ends with the weights of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load

from cluster import checkpoints
from cluster.batches import Part, RankBatches
from cluster.deepspeed_config import deepspeed_config
from cluster.ema import make_average
from cluster.faults import FaultLog, stop_for_faults
from cluster.fit_files import has_outcome, write_outcome, write_progress
from cluster.loader_server import start_loader_server
from cluster.optimizer import lr_multiplier, make_optimizer
from cluster.rank_process import RankPlace, import_deepspeed, prepare_process
from cluster.sync_norm import SynchronisedBatchNorm, TorchSynchronisedBatchNorm, synchronise_norms
from shards.at_work import note
from shards.files import write_bytes
from wsss.contract.fit import Fit, is_whole, spare_path, weights_path
from wsss.contract.stage import Instance
from wsss.tasks.task import Batch, Task, TaskOutput, combine

PROGRESS_INTERVAL = 1.0
_TOLD_KEYS = 16


class TrainingDivergedError(RuntimeError):
    """The loss is not a number any more."""


def run_rank(instance: Instance, place: RankPlace) -> None:
    """Train one instance as one rank; rank 0 leaves weights and outcome in the instance's folder."""
    if has_outcome(instance.path) and is_whole(weights_path(instance)):
        return  # a driver that died before it wrote its record
    stage = instance.stage
    assert isinstance(stage, Fit)
    note(rank=str(place.rank))
    if stage.loader_workers:
        start_loader_server()
    device = prepare_process(place)
    torch.manual_seed(instance.seed)
    task = stage.task(instance)
    assert isinstance(task, Task)
    _Trainer(instance, stage, task, place, device).run()


def _keys(parts: list[Part]) -> list[str]:
    """Keys of the examples that a rank computes in one step."""
    return [key for part in parts if part.present for key in part.batch.get("key", [])]


class _Trainer:
    """State of one rank's training."""

    def __init__(self, instance: Instance, stage: Fit, task: Task, place: RankPlace, device: torch.device) -> None:
        self.instance, self.stage, self.task, self.place, self.device = instance, stage, task, place, device
        examples = stage.training_set(instance)
        if len(examples) == 0:
            raise ValueError(f"{instance.name}: there is nothing to train on")
        self.batches = RankBatches(
            examples, stage, rank=place.rank, world_size=place.world_size, device=device, folder=instance.path
        )
        self.epoch_ends = self.batches.epoch_ends
        self.norms = self._synchronise_norms()
        optimizer = make_optimizer(task, stage)
        self.engine, *_ = import_deepspeed().initialize(
            model=task,
            optimizer=optimizer,
            lr_scheduler=torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: lr_multiplier(stage, step, epoch_ends=self.epoch_ends)
            ),
            config=deepspeed_config(stage),
            dist_init_required=False,
        )
        self.folder = instance.path / "checkpoints"
        self.average = make_average(task.network, stage, rank=place.rank)
        self.state = checkpoints.restore(self.engine, self.folder, self.average)
        self.faults = FaultLog.of(instance.path, rank=place.rank)
        self.last_progress = 0.0

    def _synchronise_norms(self) -> list[SynchronisedBatchNorm]:
        """Norms over the batches of all ranks, where the task asks for them; those that must know who is present."""
        if self.place.world_size == 1 or not getattr(self.task, "synchronise_norms", False):
            return []
        if self.device.type == "cuda" and self.batches.are_whole:
            synchronise_norms(self.task.network, layer=TorchSynchronisedBatchNorm)
            return []
        return synchronise_norms(self.task.network, layer=SynchronisedBatchNorm)

    def run(self) -> None:
        if self.place.rank == 0:
            self.stage.begin(self.instance)
        self.engine.train()
        parts = self.batches.after(self.state.step)
        for epoch, end in enumerate(self.epoch_ends):
            if self.state.step < end:
                self._run_epoch(epoch, end, parts)
        self._finish()

    def _run_epoch(self, epoch: int, end: int, parts: Iterator[list[Part]]) -> None:
        begun, first = time.monotonic(), self.state.step
        state = self.state
        while state.step < end:
            note(step=str(state.step + 1), sample="")
            terms = self._step(next(parts), epoch)
            state.step += 1
            state.faults += round(terms.pop("faults"))
            if state.faults > (allowed := self.batches.allowed_faults(epoch)):
                stop_for_faults(self.faults, name=self.instance.name, count=state.faults, allowed=allowed, epoch=epoch)
            if self.average is not None:
                self.average.update(self.task.network, step=state.step)
            state.sums = {name: state.sums.get(name, 0.0) + value for name, value in terms.items()}
            self._report(epoch, terms["loss"])
            every = self.stage.checkpoint_every
            if every and state.step % every == 0 and state.step < end:
                self._save()
        steps = self.batches.steps[epoch]
        rate = self.batches.num_draws[epoch] / steps * (end - first) / max(time.monotonic() - begun, 1e-9)
        means = {name: total / steps for name, total in state.sums.items()}
        row = {"epoch": epoch + 1, "step": state.step, **means, "images_per_second": rate}
        if state.faults:
            row["unreadable"] = state.faults
        if self.stage.validate_every and (epoch + 1) % self.stage.validate_every == 0:
            row.update(self._validate())
        state.history.append(row)
        state.sums, state.faults = {}, 0
        self._save()

    def _step(self, parts: list[Part], epoch: int) -> dict[str, float]:
        """One optimisation step; returns the loss, its terms and the faults over all ranks and parts."""
        note(sample=", ".join(_keys(parts)[:_TOLD_KEYS]))
        faults = [fault for part in parts if part.present for fault in part.faults]
        self.faults.add(faults, epoch=epoch, step=self.state.step)
        self.task.begin_step(self.state.step, num_steps=self.epoch_ends[-1])
        prepared = [replace(part, batch=self._prepare(part, number)) for number, part in enumerate(parts)]
        # Without parts the counts come with the loss; with them they must be known before the first has run.
        counts = self._count(prepared) if len(parts) > 1 else None
        values, names = torch.zeros(()), list[str]()
        for number, part in enumerate(prepared):
            output = self._forward(part, number)
            names, share = list(output.terms), float(part.present)
            by_name = counts or self._add_over_ranks({n: term.count * share for n, term in output.terms.items()})
            loss = combine(output.terms, by_name, output.weights, output.eps) * share
            # A short batch may have fewer parts than DeepSpeed expects.
            self.engine.set_gradient_accumulation_boundary(number == len(parts) - 1)
            # It averages gradients over ranks and parts; the terms are already divided by the counts of all.
            self.engine.backward(loss * self.place.world_size * self.stage.gradient_accumulation_steps)
            self.engine.step()
            terms = [combine({n: output.terms[n]}, by_name, {n: 1.0}, output.eps) * share for n in names]
            values = values.to(loss.device) + torch.stack([loss, *terms]).detach()
        values = torch.cat([values, values.new_tensor([len(faults)])])
        if self.place.world_size > 1:
            dist.all_reduce(values)
        if not torch.isfinite(values[0]):
            self._stop(float(values[0]), prepared, epoch)
        return dict(zip(["loss", *names, "faults"], values.tolist(), strict=True))

    def _prepare(self, part: Part, number: int) -> Batch:
        self._seed(2 * number)
        return self.task.prepare(part.batch)

    def _forward(self, part: Part, number: int) -> TaskOutput:
        self._seed(2 * number + 1)
        for norm in self.norms:
            norm.present = part.present
        output: TaskOutput = self.engine(part.batch)
        return output

    def _seed(self, use: int) -> None:
        """Random draws inside the network depend on the step and the rank alone, not on what was drawn before."""
        words = np.random.SeedSequence([self.instance.seed, self.state.step, self.place.rank, use])
        torch.manual_seed(int(words.generate_state(1, np.uint64)[0] >> 1))

    def _count(self, parts: list[Part]) -> dict[str, torch.Tensor]:
        """Counts of the whole batch, from the labels of all parts and ranks."""
        counted = [(self.task.counts(part.batch), float(part.present)) for part in parts]
        return self._add_over_ranks({name: sum(c[name] * share for c, share in counted) for name in counted[0][0]})

    def _add_over_ranks(self, counts: dict[str, Any]) -> dict[str, torch.Tensor]:
        summed = torch.stack([count.detach().float() for count in counts.values()])
        if self.place.world_size > 1:
            dist.all_reduce(summed)
        return dict(zip(counts, summed, strict=True))

    def _stop(self, loss: float, parts: list[Part], epoch: int) -> None:
        """Called by all ranks together, since the loss is the same on all."""
        keys: list[list[str]] = [[] for _ in range(self.place.world_size)]
        dist.all_gather_object(keys, _keys(parts))
        names, path = [key for of_rank in keys for key in of_rank], self.instance.path / "diverged.txt"
        if self.place.rank == 0:
            write_bytes(path, "\n".join([f"loss {loss} at step {self.state.step}", *names, ""]).encode())
        told = ", ".join(names[:_TOLD_KEYS]) or "unnamed examples"
        raise TrainingDivergedError(
            f"the loss is {loss} at step {self.state.step} (epoch {epoch + 1}, batch of {told}; all keys stand in "
            f"{path}); {self._last_checkpoint()}; try a lower learning_rate"
        )

    def _last_checkpoint(self) -> str:
        step = checkpoints.last_step(self.folder)
        return (
            "there is no checkpoint yet" if step is None else f"the checkpoint of step {step} stands in {self.folder}"
        )

    def _require_finite(self) -> None:
        """A gradient that is no number shows in the loss a step too late: weights are checked before they are kept."""
        bad = torch.zeros((), device=self.device)
        for parameter in self.task.parameters():
            own = getattr(parameter, "ds_tensor", parameter)  # ZeRO 3: what this rank holds of it
            bad += (~torch.isfinite(own)).any()
        if self.place.world_size > 1:
            dist.all_reduce(bad)
        if bad > 0:
            raise TrainingDivergedError(
                f"weights are no numbers after step {self.state.step}, though the loss was; "
                f"{self._last_checkpoint()}; try a lower learning_rate, or gradient_clipping"
            )

    def _report(self, epoch: int, loss: float) -> None:
        now = time.monotonic()
        if self.place.rank == 0 and now - self.last_progress > PROGRESS_INTERVAL:
            self.last_progress = now
            state = f"epoch {epoch + 1} of {self.stage.num_epochs}, loss {loss:.4f}"
            write_progress(self.instance.path, step=self.state.step, num_steps=self.epoch_ends[-1], state=state)

    def _save(self) -> None:
        note(sample="")
        self._require_finite()
        self._share_buffers()
        checkpoints.save(self.engine, self.folder, self.state, self.average)

    def _share_buffers(self) -> None:
        """Every rank takes rank 0's buffers: DeepSpeed keeps parameters equal, running statistics it does not."""
        if self.place.world_size > 1:
            for buffer in self.task.buffers():
                dist.broadcast(buffer, src=0)

    def _validate(self) -> dict[str, float]:
        """Figures of a validation, on rank 0 alone; the weights are kept where they are the best so far."""
        figures: dict[str, float] = {}
        note(sample="")
        self._require_finite()
        self._share_buffers()
        network = self._whole_network()
        if network is not None:
            network.eval()
            with torch.no_grad():
                found = self.stage.validate(network, self.instance)
            self.task.train()
            figures = found.outcome.metrics
            if math.isnan(found.score):
                raise ValueError(f"{self.instance.name}: the validation's score is not a number")
            if self.state.best_score is None or found.score > self.state.best_score:
                self.state.best_score, self.state.best_step = found.score, self.state.step
                write_bytes(checkpoints.best_path(self.folder, self.state), checkpoints.weights_of(network))
        dist.barrier()
        return figures

    def _whole_network(self) -> torch.nn.Module | None:
        """On rank 0 the network with whole parameters, None on the others; all ranks call it together.

        A moving average goes into a network of its own, while the task's trains on. Under ZeRO 3 a rank holds a part of
        every parameter, and its hooks would wait for the others at every layer: so do the gathered weights.
        """
        import deepspeed

        is_first = self.place.rank == 0
        if self.stage.zero_stage < 3 and self.average is None:
            return self.task.network if is_first else None
        if self.average is not None:
            state = self.average.state
        else:
            with deepspeed.zero.GatheredParameters(list(self.task.parameters())):
                state = {name: value.detach().cpu().clone() for name, value in self.task.network.state_dict().items()}
        if not is_first:
            return None
        network = self.stage.model(self.instance, pretrained=False)
        network.load_state_dict(state)
        return network.to(self.device)

    def _finish(self) -> None:
        note(sample="")
        self._require_finite()
        network = self._whole_network()
        if network is not None:
            network.eval()
            with torch.no_grad():
                self._leave(network)
        dist.barrier()

    def _leave(self, network: torch.nn.Module) -> None:
        """Write what the training leaves: weights, those of the best validation beside the last, and the outcome."""
        if self.stage.validate_every:
            last, best = checkpoints.weights_of(network), checkpoints.best_path(self.folder, self.state).read_bytes()
            if self.stage.keep == "best":
                network.load_state_dict(load(best))
            write_bytes(spare_path(self.instance), best if self.stage.keep == "last" else last)
        outcome = self.stage.finish(network, self.instance)
        write_bytes(weights_path(self.instance), checkpoints.weights_of(network))
        write_outcome(self.instance.path, checkpoints.with_history(outcome, self.state))
