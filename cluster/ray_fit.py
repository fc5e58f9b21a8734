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
from typing import TYPE_CHECKING

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from cluster.crash_files import crash_files
from cluster.engine import run_rank
from cluster.fit_files import RankError, read_outcome, watch_progress, watch_restarts
from cluster.rank_failures import rank_failure
from cluster.rank_process import COLLECTIVE_SECONDS, RankPlace
from cluster.rank_watch import RankWatch
from cluster.ray_session import thread_environment
from shards.file_system_errors import writing
from shards.files import remove_leftovers
from wsss.contract.failure import OnRestart, WorkFailedError
from wsss.contract.fit import Fit
from wsss.contract.resources import Resources
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
    folder, resources = instance.path.absolute() / FOLDER, settings.resources_of(instance)
    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder):
        folder.mkdir(parents=True)
    watch = RankWatch(instance.path.absolute(), folder, instance=instance.name, retries=settings.rank_retries)
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={"instance": instance, "threads": settings.threads, "gpus": resources.rank_gpus},
        torch_config=TorchConfig(backend="nccl" if resources.rank_gpus else "gloo", timeout_s=COLLECTIVE_SECONDS),
        scaling_config=_scaling(stage, resources, here, placement=settings.placement),
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
    with watch_progress(instance.path, progress), watch_restarts(folder, on_restart), _own_interrupt_handler():
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise RankError(watch.failure_in(error)) from error
        finally:
            remove_leftovers(instance.path)
    outcome = read_outcome(instance.path)
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _scaling(stage: Fit, given: Resources, here: bool, *, placement: str) -> ScalingConfig:
    # On one machine with fewer CPUs than ranks, each rank reserves a fraction: Ray would wait forever for more.
    cpus_per_rank = ray.cluster_resources().get("CPU", 0.0) / stage.world_size
    resources = {"CPU": min(given.rank_cpus, cpus_per_rank) if here else given.rank_cpus}
    if given.rank_gpus:
        resources["GPU"] = float(given.rank_gpus)
    return ScalingConfig(
        num_workers=stage.world_size,
        use_gpu=bool(given.rank_gpus),
        resources_per_worker=resources,
        placement_strategy=placement,
    )


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
