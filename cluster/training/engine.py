"""The one training loop: DeepSpeed around a task, for one rank or many.

Determinism on CPUs: the order of examples is a function of (seed, epoch), an example of (seed, epoch, key), and
the random generator of the network is seeded at every step and rank. A training that was killed and resumes from its
last checkpoint therefore ends with the same weights as one that was never interrupted. With another number of ranks it
sees the same examples in the same steps, and the loss is the same mean over the whole batch; sums are rounded
differently, and what the network draws (dropout, mixing) are other draws.
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

from cluster.training import checkpoints
from cluster.training.batches import MicroBatch, RankBatches
from cluster.training.curve_meter import CurveMeter
from cluster.training.deepspeed_config import deepspeed_config
from cluster.training.ema import make_average
from cluster.training.faults import FaultLog, stop_for_faults
from cluster.training.fit_files import has_outcome, write_progress
from cluster.training.hand_over import HandOver
from cluster.training.loader_server import start_loader_server
from cluster.training.micro_batches import agreed_size, smaller_micro_batches, with_note
from cluster.training.optimizer import lr_multiplier, make_optimizer, num_gradients
from cluster.training.rank_process import RankPlace, import_deepspeed, prepare_process
from cluster.training.results import whole_network, write_results
from cluster.training.sync_norm import SynchronisedBatchNorm, TorchSynchronisedBatchNorm, synchronise_norms
from cluster.training.tally import StepTally
from shards.files import write_bytes
from shards.work_notes import note
from wsss.contract.fit import Fit, is_whole, largest_micro_batch, weights_path
from wsss.contract.gpu_memory import free_gpu_memory, is_out_of_gpu_memory
from wsss.contract.stage import Instance
from wsss.contract.weights_metadata import weights_header
from wsss.tasks.task import Batch, Task, TaskOutput, combine

PROGRESS_INTERVAL, _NUM_NAMED_KEYS = 1.0, 16


class TrainingDivergedError(RuntimeError):
    """The loss or the weights are no longer finite."""


def run_rank(instance: Instance, place: RankPlace) -> None:
    """Train one instance as one rank; rank 0 writes weights and outcome into the instance's folder."""
    if has_outcome(instance.path) and is_whole(weights_path(instance)):
        return  # already trained; the driver died before it wrote its run record
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


def _keys(micro_batches: list[MicroBatch]) -> list[str]:
    """Keys of the examples that a rank computes in one step."""
    return [key for each in micro_batches if each.present for key in each.batch.get("key", [])]


class _Trainer:
    """State of one rank's training."""

    def __init__(self, instance: Instance, stage: Fit, task: Task, place: RankPlace, device: torch.device) -> None:
        self.instance, self.stage, self.task, self.place, self.device = instance, stage, task, place, device
        examples = stage.training_set(instance)
        if len(examples) == 0:
            raise ValueError(f"{instance.name}: the training set is empty; check the splits and shares of its inputs")
        self.micro_batch_size = agreed_size(instance, stage, world_size=place.world_size)
        self.batches = RankBatches(
            examples,
            stage,
            rank=place.rank,
            world_size=place.world_size,
            device=device,
            folder=instance.path,
            micro_batch_size=self.micro_batch_size,
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
            config=deepspeed_config(stage, world_size=place.world_size, num_gradients=num_gradients(task)),
            dist_init_required=False,
        )
        self.folder = instance.path / "checkpoints"
        self.average = make_average(task.network, stage, rank=place.rank)
        self.state = checkpoints.restore(self.engine, self.folder, self.average)
        self._begin_part()
        self.faults = FaultLog.of(instance.path, rank=place.rank)
        self.hand_over = HandOver(instance.path, rank=place.rank, notice=place.notice)
        self.curve = CurveMeter(instance, place, step=self.state.step, num_steps=self.epoch_ends[-1])
        self.last_progress, self.asked, self.warm = 0.0, False, False

    def _begin_part(self) -> None:
        """Note that these ranks compute the following steps, and what that changes besides rounding."""
        size, world_size = self.micro_batch_size, self.place.world_size
        self.state.begin_part(world_size)
        self.state.micro_batch = size if size < largest_micro_batch(self.stage, world_size=world_size) else 0
        self.state.notes = with_note(self.state.notes, self.instance, self.stage, size=size, world_size=world_size)
        own = [one for one in self.task.modules() if isinstance(one, torch.nn.BatchNorm2d)]
        trained = any(isinstance(one.weight, torch.nn.Parameter) for one in own)
        if len(self.state.parts) > 1 and trained and not getattr(self.task, "synchronise_norms", False):
            note = "norms are not synchronised: their statistics are of the examples of a rank, of which there are now "
            note += "more or fewer; norm = 'synchronised' does not depend on the number of ranks"
            self.state.notes = [*dict.fromkeys([*self.state.notes, note])]

    def _synchronise_norms(self) -> list[SynchronisedBatchNorm]:
        """Synchronise norms if the task asks for it. Returns the layers that need `present` to be set."""
        if self.place.world_size == 1 or not getattr(self.task, "synchronise_norms", False):
            return []
        if self.device.type == "cuda" and self.batches.are_full:
            synchronise_norms(self.task.network, layer=TorchSynchronisedBatchNorm)
            return []
        return synchronise_norms(self.task.network, layer=SynchronisedBatchNorm)

    def run(self) -> None:
        if self.place.rank == 0:
            if self.state.step or self.state.notes:
                self._write_progress("; ".join([f"resumed from step {self.state.step}", *self.state.notes]))
            self.stage.begin(self.instance)
        self.engine.train()
        steps = self.batches.after(self.state.step)
        for epoch, end in enumerate(self.epoch_ends):
            # The steps of an epoch may be done, but not its validation.
            if self.state.step < end or len(self.state.history) <= epoch:
                self._run_epoch(epoch, end, steps)
        self._finish()

    def _run_epoch(self, epoch: int, end: int, remaining_steps: Iterator[list[MicroBatch]]) -> None:
        state, begun, first = self.state, time.monotonic(), self.state.step
        while state.step < end:
            note(step=str(state.step + 1), sample="")
            terms = self._fitting_step(remaining_steps, epoch)
            state.count_step()
            if not self.warm and state.step < end:  # the first step of a process waits for its loaders
                self.warm, begun, first = True, time.monotonic(), state.step
            self.asked = terms.pop("asked") > 0
            state.faults += round(terms.pop("faults"))
            self.curve.add(state.step, terms, images=self.batches.images_per_step(epoch), engine=self.engine)
            if state.faults > (allowed := self.batches.allowed_faults(epoch)):
                stop_for_faults(self.faults, name=self.instance.name, count=state.faults, allowed=allowed, epoch=epoch)
            if self.average is not None:
                self.average.update(self.task.network, step=state.step)
            state.sums = {name: state.sums.get(name, 0.0) + value for name, value in terms.items()}
            self._report(epoch, terms["loss"])
            every = self.stage.checkpoint_every
            if state.step < end and (self.asked or (every and state.step % every == 0)):
                self._save()
            if self.asked and state.step < end:
                raise self.hand_over.done(state.step)
        steps = self.batches.steps[epoch]
        images_per_second = self.batches.num_draws[epoch] / steps * (end - first) / max(time.monotonic() - begun, 1e-9)
        validates = self.stage.validate_every > 0 and (epoch + 1) % self.stage.validate_every == 0
        if validates and state.step > first:
            self._save()  # a validation may take long, and needs memory
            if self.asked:
                raise self.hand_over.done(state.step)
        self.task.end_epoch()
        means = {name: total / steps for name, total in state.sums.items()}
        row = {"epoch": epoch + 1, "step": state.step, **means, "images_per_second": images_per_second}
        row |= {"unreadable": state.faults} if state.faults else {}
        if validates:
            row.update(metrics := self._validate())
            self.curve.add_validation(state.step, metrics)
        state.history.append(row)
        state.sums, state.faults = {}, 0
        self._save()
        if self.asked and state.step < self.epoch_ends[-1]:
            raise self.hand_over.done(state.step)

    def _fitting_step(self, remaining_steps: Iterator[list[MicroBatch]], epoch: int) -> dict[str, float]:
        """As `_step`, of the next examples. Raises `SmallerBatchError` if they do not fit into the GPU's memory."""
        try:
            return self._step(self.curve.awaited(remaining_steps), epoch)
        except Exception as error:
            if not is_out_of_gpu_memory(error):
                raise
            smaller = smaller_micro_batches(self.instance, error, size=self.micro_batch_size)
        free_gpu_memory()  # outside the handler, whose traceback holds the tensors of the attempt
        # Nothing is saved: the attempt may have changed running statistics, and several ranks could not save together.
        raise smaller

    def _step(self, micro_batches: list[MicroBatch], epoch: int) -> dict[str, float]:
        """One optimisation step; returns sums over ranks and micro-batches: loss, terms, faults, asked to hand over."""
        note(sample=", ".join(_keys(micro_batches)[:_NUM_NAMED_KEYS]))
        faults = [fault for each in micro_batches if each.present for fault in each.faults]
        self.faults.add(faults, epoch=epoch, step=self.state.step)
        self.task.begin_step(self.state.step, num_steps=self.epoch_ends[-1])
        prepared = [replace(each, batch=self._prepare(each, number)) for number, each in enumerate(micro_batches)]
        # A single micro-batch returns its counts with the loss; with several, the sum is needed before the first runs.
        counts = self._count(prepared) if len(prepared) > 1 else None
        values, names, tally = torch.zeros(()), list[str](), StepTally()
        for number, micro_batch in enumerate(prepared):
            output = self._forward(micro_batch, number)
            tally.add(output, present=micro_batch.present)
            names, share = list(output.terms), float(micro_batch.present)
            by_name = counts or self._add_over_ranks({n: term.count * share for n, term in output.terms.items()})
            loss = combine(output.terms, by_name, output.weights, output.eps) * share
            # A short batch may have fewer micro-batches than DeepSpeed expects.
            self.engine.set_gradient_accumulation_boundary(number == len(prepared) - 1)
            # DeepSpeed averages over ranks and micro-batches, but the terms are already divided by the global counts.
            self.engine.backward(loss * self.place.world_size * self.stage.gradient_accumulation_steps)
            self.curve.see_gradient(self.task, step=self.state.step + 1, last=number == len(prepared) - 1)
            self.engine.step()
            terms = [combine({n: output.terms[n]}, by_name, {n: 1.0}, output.eps) * share for n in names]
            values = values.to(loss.device) + torch.stack([loss, *terms]).detach()
        values = torch.cat([values, values.new_tensor([len(faults), self.hand_over.is_asked()])])
        if self.place.world_size > 1:
            dist.all_reduce(values)
        if not torch.isfinite(values[0]):
            self._stop(float(values[0]), prepared, epoch)
        self.task.end_step(self.state.step, tally=tally.over_ranks(self.place.world_size))
        return dict(zip(["loss", *names, "faults", "asked"], values.tolist(), strict=True))

    def _prepare(self, micro_batch: MicroBatch, number: int) -> Batch:
        self._seed(2 * number)
        return self.task.prepare(micro_batch.batch)

    def _forward(self, micro_batch: MicroBatch, number: int) -> TaskOutput:
        self._seed(2 * number + 1)
        for norm in self.norms:
            norm.present = micro_batch.present
        output: TaskOutput = self.engine(micro_batch.batch)
        return output

    def _seed(self, use: int) -> None:
        """Make random draws inside the network depend only on the step and the rank, not on earlier draws."""
        words = np.random.SeedSequence([self.instance.seed, self.state.step, self.place.rank, use])
        torch.manual_seed(int(words.generate_state(1, np.uint64)[0] >> 1))

    def _count(self, micro_batches: list[MicroBatch]) -> dict[str, torch.Tensor]:
        """Counts of the whole batch, from the labels of all micro-batches and ranks."""
        counted = [(self.task.counts(each.batch), float(each.present)) for each in micro_batches]
        return self._add_over_ranks({name: sum(c[name] * share for c, share in counted) for name in counted[0][0]})

    def _add_over_ranks(self, counts: dict[str, Any]) -> dict[str, torch.Tensor]:
        summed = torch.stack([count.detach().float() for count in counts.values()])
        if self.place.world_size > 1:
            dist.all_reduce(summed)
        return dict(zip(counts, summed, strict=True))

    def _stop(self, loss: float, micro_batches: list[MicroBatch], epoch: int) -> None:
        """Called by all ranks together, since the loss is the same on all."""
        keys: list[list[str]] = [[] for _ in range(self.place.world_size)]
        dist.all_gather_object(keys, _keys(micro_batches))
        names, path = [key for of_rank in keys for key in of_rank], self.instance.path / "diverged.txt"
        if self.place.rank == 0:
            write_bytes(path, "\n".join([f"loss {loss} at step {self.state.step}", *names, ""]).encode())
        examples = ", ".join(names[:_NUM_NAMED_KEYS]) or "unnamed examples"
        raise TrainingDivergedError(
            f"the loss is {loss} at step {self.state.step} (epoch {epoch + 1}, batch of {examples}; all keys are "
            f"in {path}); {self._last_checkpoint()}; try a lower learning_rate"
        )

    def _last_checkpoint(self) -> str:
        step = checkpoints.last_step(self.folder)
        return "there is no checkpoint yet" if step is None else f"the checkpoint of step {step} is in {self.folder}"

    def _require_finite(self) -> None:
        """Check the weights before they are saved: a non-finite gradient shows in the loss only one step later."""
        bad = torch.zeros((), device=self.device)
        for parameter in self.task.parameters():
            own = getattr(parameter, "ds_tensor", parameter)  # ZeRO 3: this rank's partition of it
            bad += (~torch.isfinite(own)).any()
        if self.place.world_size > 1:
            dist.all_reduce(bad)
        if bad > 0:
            raise TrainingDivergedError(
                f"weights are not finite after step {self.state.step}, although the loss was finite; "
                f"{self._last_checkpoint()}; try a lower learning_rate, or gradient_clipping"
            )

    def _report(self, epoch: int, loss: float) -> None:
        now = time.monotonic()
        if self.place.rank == 0 and now - self.last_progress > PROGRESS_INTERVAL:
            self.last_progress = now
            self._write_progress(f"epoch {epoch + 1} of {self.stage.num_epochs}, loss {loss:.4f}")

    def _write_progress(self, state: str) -> None:
        write_progress(self.instance.path, step=self.state.step, num_steps=self.epoch_ends[-1], state=state)

    def _save(self) -> None:
        note(sample="")
        self._require_finite()
        self._share_buffers()
        checkpoints.save(self.engine, self.folder, self.state, self.average)

    def _share_buffers(self) -> None:
        """Copy rank 0's buffers to all ranks: DeepSpeed keeps parameters equal, but not running statistics."""
        if self.place.world_size > 1:
            for buffer in self.task.buffers():
                dist.broadcast(buffer, src=0)

    def _validate(self) -> dict[str, float]:
        """Metrics of a validation, on rank 0 only; the weights are saved if they are the best so far."""
        metrics: dict[str, float] = {}
        note(sample="")
        self._require_finite()
        self._share_buffers()
        network = self._whole_network()
        if network is not None:
            network.eval()
            with torch.no_grad():
                found = self.stage.validate(network, self.instance)
            self.task.train()
            metrics = found.outcome.metrics
            if math.isnan(found.score):
                raise ValueError(
                    f"{self.instance.name}: the validation score is not a number; "
                    "check that the validation images have labels"
                )
            if self.state.best_score is None or found.score > self.state.best_score:
                self.state.best_score, self.state.best_step = found.score, self.state.step
                write_bytes(
                    checkpoints.best_path(self.folder, self.state),
                    checkpoints.weights_of(network, weights_header(self.instance)),
                )
        dist.barrier()
        return metrics

    def _whole_network(self) -> torch.nn.Module | None:
        return whole_network(self.task, self.instance, average=self.average, device=self.device)

    def _finish(self) -> None:
        note(sample="")
        self._require_finite()
        network = self._whole_network()
        if network is not None:
            network.eval()
            with torch.no_grad():
                write_results(network, self.instance, state=self.state, folder=self.folder)
        dist.barrier()
