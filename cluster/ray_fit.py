"""Training ranks under Ray Train.

Ray Train schedules the ranks, creates their process group and restarts the whole group if one rank dies. The engine
then resumes from its own checkpoint in the instance's folder. Ray Train's own folder contains only its internal state.
"""

from __future__ import annotations

import shutil
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from cluster import checkpoints
from cluster.crash_files import crash_files
from cluster.engine import run_rank
from cluster.fit_files import RankError, read_outcome
from cluster.fit_reports import FitReports
from cluster.rank_demand import RankDemand
from cluster.rank_failures import rank_failure
from cluster.rank_process import COLLECTIVE_SECONDS, RankPlace
from cluster.rank_watch import RankWatch
from cluster.ray_backend import NodeTorchConfig, started_ranks
from cluster.ray_session import thread_environment
from cluster.same_code import own_identity
from shards.file_system_errors import writing
from shards.files import remove_leftovers
from shards.wording import counted
from wsss.contract.failure import OnRestart, WorkFailedError
from wsss.contract.fit import Fit
from wsss.contract.runtime import Progress
from wsss.contract.stage import Instance, Outcome

if TYPE_CHECKING:
    from wsss.contract.runtime import RuntimeSettings

FOLDER = "ray_train"


def fit_with_ray_train(
    instance: Instance, stage: Fit, settings: RuntimeSettings, progress: Progress, *, here: bool, on_restart: OnRestart
) -> Outcome:
    """Train with `stage.world_size` Ray Train workers; `here`: all of them run on this machine.

    Raises `RankError` with the failure of the rank that caused it. A full disk and the like are not retried.
    """
    folder = instance.path.absolute() / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder):
        folder.mkdir(parents=True)
    watch = RankWatch(instance.path.absolute(), folder, instance=instance.name, retries=settings.rank_retries)
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={"instance": instance, "threads": settings.threads, "gpus": settings.rank_gpus},
        torch_config=NodeTorchConfig(
            backend="nccl" if settings.rank_gpus else "gloo",
            timeout_s=COLLECTIVE_SECONDS,
            driver=own_identity(),
            folder=str(folder),
            instance=instance.name,
        ),
        scaling_config=_scaling(stage, settings, here),
        run_config=RunConfig(
            # With a name that was used before, Ray Train would silently resume that run's state.
            name=f"attempt-{uuid.uuid4().hex[:12]}",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=settings.rank_retries),
            worker_runtime_env=thread_environment(settings.threads),
            logging_config=LoggingConfig(log_level="ERROR"),
            callbacks=[watch],
        ),
    )
    reports = FitReports(
        instance.path,
        folder,
        progress=progress,
        on_restart=on_restart,
        checkpoint_step=lambda: checkpoints.last_step(instance.path / "checkpoints"),
        awaited=lambda: _awaited(folder, stage, settings, here),
    )
    with reports.watching(), _own_interrupt_handler():
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise RankError(watch.failure_in(error)) from error
        finally:
            remove_leftovers(instance.path)
    outcome = read_outcome(instance.path)
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _scaling(stage: Fit, settings: RuntimeSettings, here: bool) -> ScalingConfig:
    return ScalingConfig(
        num_workers=stage.world_size,
        use_gpu=bool(settings.rank_gpus),
        resources_per_worker=_resources(stage, settings, here),
        placement_strategy=settings.placement,
    )


def _resources(stage: Fit, settings: RuntimeSettings, here: bool) -> dict[str, float]:
    # On one machine with fewer CPUs than ranks, each rank reserves a fraction: Ray would wait forever for more.
    cpus_per_rank = ray.cluster_resources().get("CPU", 0.0) / stage.world_size
    resources = {"CPU": min(1.0, cpus_per_rank) if here else 1.0}
    if settings.rank_gpus:
        resources["GPU"] = float(settings.rank_gpus)
    return resources


def _awaited(folder: Path, stage: Fit, settings: RuntimeSettings, here: bool) -> str:
    """What is waited for before the first step."""
    if ranks := started_ranks(folder):
        hosts = ", ".join(sorted({rank.host for rank in ranks}))
        return f"{counted(len(ranks), 'rank')} loading on {hosts}"
    return RankDemand(stage.world_size, _resources(stage, settings, here), settings.placement).awaited()


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
            run_rank(instance, RankPlace(rank, context.get_world_size(), local_rank, threads, gpus, address=None))
            return
        except Exception as error:
            failure = rank_failure(error, rank=rank)
    raise WorkFailedError(failure)


@contextmanager
def _own_interrupt_handler() -> Iterator[None]:
    """Restore the handler of Ctrl-C after the block: Ray Train does not remove its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
