"""What a training leaves: its network with whole parameters, written to the instance's folder."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load

from cluster.training import checkpoints
from cluster.training.ema import MovingAverage
from cluster.training.fit_files import write_outcome
from cluster.training.gathered_state import whole_network_state
from shards.files import write_bytes
from wsss.contract.fit import Fit, spare_path, weights_path
from wsss.contract.stage import Instance
from wsss.contract.weights_metadata import weights_header
from wsss.tasks.task import Task


def whole_network(
    task: Task, instance: Instance, *, average: MovingAverage | None, device: torch.device
) -> torch.nn.Module | None:
    """The network with whole parameters on rank 0, None on the other ranks. All ranks must call it together.

    A moving average is loaded into a separate network, so that the trained one is not changed. So are gathered
    ZeRO 3 weights, because the trained network's hooks would wait for the other ranks at every layer.
    """
    stage, is_first = instance.stage, dist.get_rank() == 0
    assert isinstance(stage, Fit)
    if stage.zero_stage < 3 and average is None:
        return task.network if is_first else None
    state = average.state if average is not None else whole_network_state(task, task.network)
    if not is_first:
        return None
    network = stage.model(instance, pretrained=False)
    network.load_state_dict(state)
    return network.to(device)


def write_results(
    network: torch.nn.Module, instance: Instance, *, state: checkpoints.TrainingState, folder: Path
) -> None:
    """Write the training's results: the weights (last and best, if it validates) and the outcome.

    Weight files say what they hold, so that the network can be used without its run. `folder`: that of the checkpoints.
    """
    stage, header = instance.stage, weights_header(instance)
    assert isinstance(stage, Fit)
    if stage.validate_every:
        last, best = checkpoints.weights_of(network, header), checkpoints.best_path(folder, state).read_bytes()
        if stage.keep == "best":
            network.load_state_dict(load(best))
        write_bytes(spare_path(instance), best if stage.keep == "last" else last)
    outcome = stage.finish(network, instance)
    write_bytes(weights_path(instance), checkpoints.weights_of(network, header))
    write_outcome(instance.path, checkpoints.with_history(outcome, state))
