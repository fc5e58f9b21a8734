"""Optimisers and schedules of a training, torch's own, from its settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from wsss.contract.fit import Fit
from wsss.tasks.task import Task


def make_optimizer(task: Task, stage: Fit) -> torch.optim.Optimizer:
    """Groups: given or new parameters, biases or not, decayed or not (norms and biases are not)."""
    new = {id(parameter) for parameter in task.new_parameters()}
    groups: dict[tuple[bool, bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            # Biases stand apart only where their rate does: every group costs DeepSpeed a buffer.
            is_bias = stage.bias_lr_multiplier != 1 and name.endswith("bias")
            groups.setdefault((id(parameter) in new, is_bias, parameter.ndim > 1), []).append(parameter)
    parts = [
        {
            "params": parameters,
            "lr": stage.learning_rate
            * (stage.head_lr_multiplier if is_new else 1.0)
            * (stage.bias_lr_multiplier if is_bias else 1.0),
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


def lr_multiplier(stage: Fit, step: int, *, epoch_ends: Sequence[int]) -> float:
    """What multiplies the rates of all groups at a step; `epoch_ends`: steps done at the end of every epoch."""
    warm = min(1.0, (step + 1) / stage.warmup_steps) if stage.warmup_steps else 1.0
    if stage.schedule == "step":
        finished_epochs = sum(end <= step for end in epoch_ends)
        return warm * stage.step_factor ** (finished_epochs // stage.step_epochs)
    return warm * max(0.0, 1.0 - step / epoch_ends[-1]) ** stage.poly_power
