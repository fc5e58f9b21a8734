"""Training settings -> DeepSpeed's JSON configuration; pure."""

from __future__ import annotations

from typing import Any

from wsss.contract.fit import Fit, largest_micro_batch

_LARGEST_BUCKET = 500_000_000
"""DeepSpeed's default, in elements."""


def deepspeed_config(stage: Fit, *, world_size: int, num_gradients: int) -> dict[str, Any]:
    """The configuration of one training. Optimiser and schedule are torch objects, passed to DeepSpeed separately.

    DeepSpeed only counts samples with the sizes of batches, which may differ between ranks. ZeRO allocates its bucket
    of gradients on the GPU at the start, 2 GB by default: here it holds `num_gradients` elements, which is all of them.
    """
    return {
        "train_micro_batch_size_per_gpu": largest_micro_batch(stage, world_size=world_size),
        "gradient_accumulation_steps": stage.gradient_accumulation_steps,
        "gradient_clipping": stage.gradient_clipping,
        "zero_optimization": {
            "stage": stage.zero_stage,
            "reduce_bucket_size": max(1, min(_LARGEST_BUCKET, num_gradients)),
        },
        "zero_allow_untested_optimizer": True,
        # `bf16.enabled` would cast the weights and fail on BatchNorm; autocast keeps the weights in fp32.
        "torch_autocast": {"enabled": stage.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
