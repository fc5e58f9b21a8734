"""A teacher: a copy of a network that follows it as an exponential moving average.

Shape letters: B batch, C classes, H W pixels.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """a <- d a + (1 - d) w after every step, d = min(decay, n / (n + 1)) after step n, counted from 0.

    So it equals the network after step 0, is the mean of the network's weights until n / (n + 1) reaches the decay, and
    an exponential average from then on. Running statistics of norms are averaged like weights, integers are copied. It
    has no gradient, and is in evaluation mode whatever the mode of the modules around it. Its weights and statistics
    are parameters and buffers, hence part of a checkpoint.

    Source: Tarvainen and Valpola, NeurIPS 2017 (Mean Teacher); the ramp of the decay is that of the public code of
    UniMatch V2 (Yang et al., TPAMI 2025).  Differs: as there.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        super().__init__()
        # Contiguous, because DeepSpeed views weights as bytes, which does not work in channels-last layout.
        self.network = deepcopy(network).to(memory_format=torch.contiguous_format).requires_grad_(False).eval()
        self._decay = decay

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Logits f32[B, C, H, W]."""
        logits_BCHW: Tensor = self.network(image_B3HW).float()
        return logits_BCHW

    @torch.no_grad()
    def follow(self, network: nn.Module, *, step: int) -> None:
        """Average in the weights of `network` after step `step`."""
        share = 1.0 - min(self._decay, step / (step + 1))
        state = network.state_dict()
        for name, average in self.network.state_dict().items():
            if average.is_floating_point():
                average.lerp_(state[name].to(average.dtype), share)
            else:
                average.copy_(state[name])
