"""Training settings -> DeepSpeed's JSON configuration; pure."""

from __future__ import annotations

from typing import Any

from wsss.contract.fit import Fit, largest_micro_batch


def deepspeed_config(stage: Fit, *, world_size: int) -> dict[str, Any]:
    """The configuration of one training. Optimiser and schedule are torch objects, passed to DeepSpeed separately.

    DeepSpeed only counts samples with the sizes of batches, which may differ between ranks.
    """
    return {
        "train_micro_batch_size_per_gpu": largest_micro_batch(stage, world_size=world_size),
        "gradient_accumulation_steps": stage.gradient_accumulation_steps,
        "gradient_clipping": stage.gradient_clipping,
        "zero_optimization": {"stage": stage.zero_stage},
        "zero_allow_untested_optimizer": True,
        # `bf16.enabled` would cast the weights and fail on BatchNorm; autocast keeps the weights in fp32.
        "torch_autocast": {"enabled": stage.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
