"""Training ranks under Ray Train.

Ray Train schedules the ranks, creates their process group and restarts the whole group if one rank dies. The engine
then resumes from its own checkpoint in the instance's folder. Ray Train's own folder contains only its internal state.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from cluster.failures.crash_files import crash_files
from cluster.failures.rank_failures import rank_failure
from cluster.ranks.drain_notice import drain_notice
from cluster.ranks.fit_reports import FitReports
from cluster.ranks.rank_demand import RankDemand, placement_groups
from cluster.ranks.rank_watch import RankWatch, StartWatch
from cluster.ranks.ray_backend import NodeTorchConfig, started_ranks
from cluster.session.ray_session import thread_environment
from cluster.session.same_code import own_identity
from cluster.session.shared_folder import SharedFolder
from cluster.training import checkpoints, hand_over
from cluster.training.engine import run_rank
from cluster.training.fit_files import RankError, read_outcome
from cluster.training.rank_process import COLLECTIVE_SECONDS, RankPlace
from shards.file_system_errors import writing
from shards.files import remove_leftovers
from shards.wording import counted
from wsss.contract.failure import Failure, OnRestart, WorkFailedError
from wsss.contract.fit import Fit, largest_micro_batch
from wsss.contract.resources import Resources
from wsss.contract.runtime import Progress
from wsss.contract.stage import Instance, Outcome
from wsss.contract.stopping import asked_first, is_stopping, raise_if_stopped

if TYPE_CHECKING:
    from wsss.contract.runtime import RuntimeSettings

FOLDER = "ray_train"


def fit_with_ray_train(
    instance: Instance,
    stage: Fit,
    settings: RuntimeSettings,
    progress: Progress,
    *,
    here: bool,
    on_restart: OnRestart,
    shared: SharedFolder | None = None,
) -> Outcome:
    """Train with `stage.world_size` Ray Train workers; `here`: all on this machine; `shared`: what each must see.

    If a node is about to be taken away, the ranks save a checkpoint and end, and are started again elsewhere. After
    SIGTERM they do the same and are not started again.
    Raises `RankError` with the failure of the rank that caused it. A full disk and the like are not retried.
    """
    folder, resources = instance.path.absolute() / FOLDER, settings.resources_of(instance)
    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder):
        folder.mkdir(parents=True)
    others = frozenset(placement_groups())
    reports = FitReports(
        instance.path,
        folder,
        progress=progress,
        on_restart=on_restart,
        checkpoint_step=lambda: checkpoints.last_step(instance.path / "checkpoints"),
        awaited=lambda: _awaited(folder, stage, resources, here, placement=settings.placement, others=others),
    )

    def ask() -> bool:
        if not started_ranks(folder):
            return False  # there is nothing to save yet
        return hand_over.ask(instance.path, "the driver was asked to stop (SIGTERM)")

    asked = asked_first(ask, seconds=settings.stop_seconds)
    with reports.watching(), asked:
        while True:
            hand_over.withdraw(instance.path)
            _train_once(instance, stage, settings, folder, here=here, restarts=reports.restarts, shared=shared)
            handed = hand_over.handed_over(instance.path)
            if handed is None or is_stopping():
                break
            reports.handed_over(handed)
    if handed is not None:
        raise_if_stopped()
    outcome = read_outcome(instance.path)
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to Python. Ray Train's own handler waits for its controller, which may be waiting for a node, and
    is not removed afterwards."""

    def _register_sigint_handler(self, controller: object) -> None:
        """Does nothing: KeyboardInterrupt ends the call of `fit`, and the controller ends with its last reference."""


def _train_once(
    instance: Instance,
    stage: Fit,
    settings: RuntimeSettings,
    folder: Path,
    *,
    here: bool,
    restarts: list[Failure],
    shared: SharedFolder | None,
) -> None:
    """Train until the end or until the training is handed over; `restarts`: those before this call."""
    path, retries, resources = instance.path.absolute(), settings.rank_retries, settings.resources_of(instance)
    halvings = largest_micro_batch(stage, world_size=stage.world_size).bit_length()
    watch = RankWatch(path, folder, instance=instance.name, retries=retries, restarts=restarts)
    trainer = _Trainer(
        _train_rank,
        train_loop_config={"instance": instance, "threads": settings.threads, "gpus": resources.rank_gpus},
        torch_config=NodeTorchConfig(
            backend="nccl" if resources.rank_gpus else "gloo",
            timeout_s=COLLECTIVE_SECONDS,
            driver=own_identity(),
            folder=str(folder),
            instance=instance.name,
            shared=shared,
        ),
        scaling_config=_scaling(stage, resources, here, placement=settings.placement),
        run_config=RunConfig(
            # With a name that was used before, Ray Train would silently resume that run's state.
            name=f"attempt-{uuid.uuid4().hex[:12]}",
            storage_path=str(folder),
            # Preemptions have no limit of Ray's: RankWatch ends a training that makes no progress between them.
            # Nor do starts with halved micro-batches count, of which there are at most `halvings`.
            failure_config=FailureConfig(max_failures=retries + halvings, max_preemption_failures=-1),
            worker_runtime_env=thread_environment(settings.threads),
            logging_config=LoggingConfig(log_level="ERROR"),
            callbacks=[watch, StartWatch(folder, instance=instance.name, retries=retries, number=len(restarts))],
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise RankError(watch.failure_in(error)) from error
    finally:
        remove_leftovers(instance.path)


def _scaling(stage: Fit, given: Resources, here: bool, *, placement: str) -> ScalingConfig:
    return ScalingConfig(
        num_workers=stage.world_size,
        use_gpu=bool(given.rank_gpus),
        resources_per_worker=_needs(stage, given, here),
        placement_strategy=placement,
    )


def _needs(stage: Fit, given: Resources, here: bool) -> dict[str, float]:
    # On one machine with fewer CPUs than ranks, each rank reserves a fraction: Ray would wait forever for more.
    cpus_per_rank = ray.cluster_resources().get("CPU", 0.0) / stage.world_size
    needs = {"CPU": min(given.rank_cpus, cpus_per_rank) if here else given.rank_cpus}
    if given.rank_gpus:
        needs["GPU"] = float(given.rank_gpus)
    return needs


def _awaited(folder: Path, stage: Fit, given: Resources, here: bool, *, placement: str, others: Collection[str]) -> str:
    """What is waited for before the first step. `others`: placement groups that were there before."""
    if ranks := started_ranks(folder):
        hosts = ", ".join(sorted({rank.host for rank in ranks}))
        return f"{counted(len(ranks), 'rank')} loading on {hosts}"
    return RankDemand(stage.world_size, _needs(stage, given, here), placement).awaited(others=others)


def _train_rank(config: dict[str, object]) -> None:
    """One rank, in a Ray Train worker."""
    instance, threads, gpus = config["instance"], config["threads"], config["gpus"]
    assert isinstance(instance, Instance) and isinstance(threads, int) and isinstance(gpus, int)
    context = get_context()
    rank = context.get_world_rank()
    # If the ranks of a node see all of its GPUs, Ray knows which GPU belongs to this rank.
    local_rank = get_device().index if gpus else context.get_local_rank()
    with crash_files(instance.path.absolute(), own_process=True):
        try:
            size = context.get_world_size()
            run_rank(instance, RankPlace(rank, size, local_rank, threads, gpus, address=None, notice=drain_notice))
            return
        except hand_over.HandedOverError:
            return
        except Exception as error:
            failure = rank_failure(error, rank=rank)
    raise WorkFailedError(failure)
