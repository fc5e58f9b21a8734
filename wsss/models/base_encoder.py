"""A timm network as an encoder: its last feature map, and the map of every stage.

Shape letters: B batch, D channels, H W pixels, h w strided pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_PROBE_SIDE = 64


class Encoder(nn.Module):
    """A timm network that returns feature maps; made by `build_encoder`."""

    tiles_image = False
    """True: the cells of the map tile the image, as patches do. False: as usual for convolutions, the map may also be
    read as points from corner to corner."""
    layers_give_maps = True
    """False: the layers inside give tokens, so only the last map has rows and columns."""
    network: Any
    num_features: int
    pyramid_channels: tuple[int, ...]
    pyramid_strides: tuple[int, ...]

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        levels = [level for level in self.network.feature_info if level["reduction"] > 1][-5:]
        self._level_indices = [self.network.feature_info.index(level) for level in levels]
        self.num_features = self.network.num_features
        self.pyramid_channels = tuple(level["num_chs"] for level in levels)
        self.pyramid_strides = tuple(level["reduction"] for level in levels)

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        """Return the last feature map [B,D,h,w], D = `num_features`, after any layers that follow the last stage."""
        features: torch.Tensor = self.network.forward_features(image_B3HW)
        return features

    def new_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that are in no weight file: those of the convolutions that a variant adds."""
        for name in getattr(self.network, "new_layers", ()):
            yield from self.network.get_submodule(name).parameters()

    def checkpoint_activations(self) -> None:
        """Activation checkpointing: recompute blocks in the backward pass instead of storing their activations.

        Raises: ValueError for a network for which timm does not support it.
        """
        try:
            self.network.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise ValueError(
                f"activation_checkpointing = True: timm does not support it for this encoder ({error}); remove it"
            ) from None

    def pyramid(self, image_B3HW: torch.Tensor) -> list[torch.Tensor]:
        """Return the map at the end of each stage, fine to coarse: `pyramid_channels` at `pyramid_strides`."""
        maps: list[torch.Tensor] = self.network.forward_intermediates(
            image_B3HW, indices=self._level_indices, intermediates_only=True
        )
        return maps

    def last_and_pyramid(self, image_B3HW: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the results of `forward` and `pyramid`, from one pass."""
        last, maps = self.network.forward_intermediates(image_B3HW, indices=self._level_indices)
        return last, maps

    @property
    def ends_beyond_pyramid(self) -> bool:
        """True if convolutions follow the last stage, so that `forward` is not the last map of `pyramid`."""
        return self.num_features != self.pyramid_channels[-1] or getattr(self.network, "ends_beyond_pyramid", False)

    def freeze_stages(self, *, up_to_stride: int) -> None:
        """Freeze the parameters that the map of this stride, and so all finer maps, depend on.

        `up_to_stride`: 1 freezes nothing. Running statistics of norms are not frozen; see `freeze_batch_norm`.
        Raises: ValueError, listing the strides of all stages, if no stage has this stride.
        """
        strides = (1, *dict.fromkeys(self.pyramid_strides))
        if up_to_stride not in strides:
            raise ValueError(f"stages end at strides {', '.join(map(str, strides))}; {up_to_stride} is not one of them")
        if up_to_stride == 1:
            return
        level = self.pyramid_strides.index(up_to_stride)
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        device = parameters[0].device
        with torch.enable_grad():
            total = self.pyramid(torch.zeros(2, 3, _PROBE_SIDE, _PROBE_SIDE, device=device))[level].sum()
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.requires_grad_(False)
