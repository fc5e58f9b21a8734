"""A moving average of a network's weights, which is validated and saved instead of the weights themselves."""

from __future__ import annotations

import torch
from safetensors.torch import load
from safetensors.torch import save as to_safetensors

from wsss.contract.fit import Fit

_WARM_UP = 10


class MovingAverage:
    """a <- d a + (1 - d) w after every step, d = min(decay, (1 + n) / (10 + n)) after step n, counted from 1.

    The decay is small in the first steps, so that the random initialisation of a head has little influence. Running
    statistics of norms are averaged like weights; integer buffers are copied.

    Source: Polyak and Juditsky, SIAM J. Control Optim. 1992, for averaging; exponential, with the ramp of the decay, as
    in TensorFlow's moving averages.  Differs: running statistics are averaged too.
    """

    def __init__(self, network: torch.nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: torch.nn.Module, *, step: int) -> None:
        """Update the average with the weights after step `step`."""
        share = 1.0 - min(self.decay, (1 + step) / (_WARM_UP + step))
        for name, value in network.state_dict().items():
            average = self.state[name]
            if average.is_floating_point():
                average.lerp_(value.to(average.dtype), share)
            else:
                average.copy_(value)

    def to_bytes(self) -> bytes:
        """The average as the bytes of a .safetensors file."""
        return to_safetensors({name: value.cpu().contiguous().clone() for name, value in self.state.items()})

    def from_bytes(self, stored: bytes) -> None:
        """Restore an average from the output of `to_bytes`."""
        for name, value in load(stored).items():
            self.state[name].copy_(value)


def make_average(network: torch.nn.Module, stage: Fit, *, rank: int) -> MovingAverage | None:
    """The average that `stage` asks for, or None.

    Only rank 0 has one: it validates and writes, and below ZeRO 3 every rank has the same whole parameters.
    """
    return MovingAverage(network, decay=stage.ema_decay) if stage.ema_decay and rank == 0 else None
