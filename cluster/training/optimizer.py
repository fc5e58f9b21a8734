"""torch optimisers and learning-rate schedules from a training's settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from wsss.contract.fit import Fit
from wsss.contract.settings import resolved
from wsss.tasks.task import Task


def make_optimizer(task: Task, stage: Fit) -> torch.optim.Optimizer:
    """Parameter groups: pretrained or new, bias or not, with or without weight decay (norms and biases have none)."""
    new = {id(parameter) for parameter in task.new_parameters()}
    groups: dict[tuple[bool, bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            # Biases get a group only if their learning rate differs, since every group costs DeepSpeed a buffer.
            is_bias = stage.bias_lr_multiplier != 1 and name.endswith("bias")
            groups.setdefault((id(parameter) in new, is_bias, parameter.ndim > 1), []).append(parameter)
    param_groups = [
        {
            "params": parameters,
            "lr": stage.learning_rate
            * (stage.head_lr_multiplier if is_new else 1.0)
            * (stage.bias_lr_multiplier if is_bias else 1.0),
            "weight_decay": resolved(stage, "weight_decay") if has_decay else 0.0,
        }
        for (is_new, is_bias, has_decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    if not param_groups or not math.isfinite(stage.learning_rate):
        raise ValueError("the task has no parameter to train")
    if stage.optimizer == "sgd":
        return torch.optim.SGD(param_groups, lr=stage.learning_rate, momentum=stage.momentum)
    if stage.optimizer == "adam":
        return torch.optim.Adam(param_groups, lr=stage.learning_rate, betas=(stage.momentum, 0.999))
    return torch.optim.AdamW(param_groups, lr=stage.learning_rate, betas=(stage.momentum, 0.999))


def lr_multiplier(stage: Fit, step: int, *, epoch_ends: Sequence[int]) -> float:
    """Factor on the learning rates of all groups at a step; `epoch_ends`: steps done at the end of every epoch."""
    warm = min(1.0, (step + 1) / stage.warmup_steps) if stage.warmup_steps else 1.0
    if stage.schedule == "step":
        finished_epochs = sum(end <= step for end in epoch_ends)
        return warm * stage.step_factor ** (finished_epochs // stage.step_epochs)
    return warm * max(0.0, 1.0 - step / epoch_ends[-1]) ** stage.poly_power


def num_gradients(network: torch.nn.Module) -> int:
    """Elements of the gradients of all parameters that are trained."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
