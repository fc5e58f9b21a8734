from __future__ import annotations

import pytest

from cluster.training.deepspeed_config import deepspeed_config
from tests.cluster.tiny import TinyFit


@pytest.mark.parametrize(("num_gradients", "elements"), [(0, 1), (25_000_000, 25_000_000), (10**9, 500_000_000)])
def test_the_bucket_of_gradients_is_as_large_as_the_network(num_gradients: int, elements: int) -> None:
    """ZeRO allocates it at the start: DeepSpeed's default takes 2 GB of a GPU's memory."""
    config = deepspeed_config(TinyFit(zero_stage=2), world_size=2, num_gradients=num_gradients)
    assert config["zero_optimization"] == {"stage": 2, "reduce_bucket_size": elements}
