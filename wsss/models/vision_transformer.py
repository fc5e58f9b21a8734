"""Plain vision transformers of timm (ViT, DeiT) as encoders: their patch tokens as feature maps.

Shape letters: B batch, D channels, H W pixels, h w patches, N tokens = h w patch tokens after P others.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import checkpoint_seq, is_model_in_modules
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from wsss.models.base_encoder import Encoder

PATCH_SIDE = 16
"""Side of a patch in pixels, and so the output stride."""
_FAMILIES = ("vision_transformer", "deit")
"""timm's modules of these networks."""
_NUM_PARTS = 4


class TransformerEncoder(Encoder):
    """image [B,3,H,W] -> patch tokens as a map [B,D,h,w], h = ceil(H / 16), w = ceil(W / 16); by `build_encoder`.

        z_0 = (t, E x + e(h, w)),  z_l = block_l(z_(l-1)),  map = (norm(z_L) without its first P tokens)

    with patches x, their embedding E, position embeddings e that timm resamples to the grid (bicubic), and P other
    tokens t (class, distillation, registers), which take part in the attention and are then left out. The image is
    extended by zeros to multiples of 16 pixels, at the bottom and on the right.

    The maps of `pyramid` are at the ends of the four quarters of the blocks, all on the grid of patches; the last one
    is that of `forward`. Their patch tokens are the ones that the following blocks read, so gradients reach them.

    Source: Dosovitskiy et al., ICLR 2021 (ViT), section 3.1; Touvron et al., ICML 2021 (DeiT), section 4.
    Differs: images of any size; predictions are made from the patch tokens, not from the class token, so that class
    activation maps hold exactly; weight decay applies to the position embeddings and the other tokens as well.
    """

    tiles_image = True
    layers_give_maps = False

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        depth = len(self.network.blocks)
        self._level_indices = [depth * part // _NUM_PARTS - 1 for part in range(1, _NUM_PARTS + 1)]
        self.pyramid_channels = (self.num_features,) * _NUM_PARTS
        self.pyramid_strides = (PATCH_SIDE,) * _NUM_PARTS

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        """Return the map [B,D,h,w] of the patch tokens after the last block and norm. Raises as `_grid` does."""
        grid_hw = _grid(image_B3HW)
        return self._as_map(self.network.forward_features(image_B3HW), grid_hw)

    def pyramid(self, image_B3HW: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps [B,D,h,w] at the ends of the four quarters of the blocks."""
        return self.last_and_pyramid(image_B3HW)[1]

    def last_and_pyramid(self, image_B3HW: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the results of `forward` and `pyramid`, from one pass."""
        grid_hw, network, start = _grid(image_B3HW), self.network, 0
        maps: list[torch.Tensor] = []
        tokens_BND = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(image_B3HW))))
        for index in self._level_indices[:-1]:
            tokens_BND = self._run(start, index + 1, tokens_BND)
            maps.append(self._as_map(tokens_BND, grid_hw))
            others_BPD = tokens_BND[:, : network.num_prefix_tokens]
            tokens_BND = torch.cat([others_BPD, maps[-1].flatten(2).transpose(1, 2)], dim=1)
            start = index + 1
        tokens_BND = network.norm(self._run(start, len(network.blocks), tokens_BND))
        last_BDhw = self._as_map(tokens_BND, grid_hw)
        return last_BDhw, [*maps, last_BDhw]

    @property
    def ends_beyond_pyramid(self) -> bool:
        """False: the last map of `pyramid` is that of `forward`."""
        return False

    def freeze_stages(self, *, up_to_stride: int) -> None:
        """Accept 1, which freezes nothing. Raises: ValueError for other strides: all maps have the same one."""
        if up_to_stride != 1:
            raise ValueError(
                f"frozen_stride = {up_to_stride}: a vision transformer has maps of stride {PATCH_SIDE} only, and no "
                "earlier stage that could be frozen; set frozen_stride = 1"
            )

    def _run(self, start: int, end: int, tokens_BND: torch.Tensor) -> torch.Tensor:
        blocks = self.network.blocks[start:end]
        passed: torch.Tensor
        passed = checkpoint_seq(blocks, tokens_BND) if self.network.grad_checkpointing else blocks(tokens_BND)
        return passed

    def _as_map(self, tokens_BND: torch.Tensor, grid_hw: tuple[int, int]) -> torch.Tensor:
        patches_BND = tokens_BND[:, self.network.num_prefix_tokens :]
        return patches_BND.transpose(1, 2).unflatten(2, grid_hw).contiguous()


def _grid(image_B3HW: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of patches. Raises: ValueError for an image with a side shorter than a patch."""
    height, width = image_B3HW.shape[-2:]
    if min(height, width) < PATCH_SIDE:
        raise ValueError(
            f"an image of {height} x {width} pixels is smaller than a patch of the vision transformer, {PATCH_SIDE} x "
            f"{PATCH_SIDE}; use larger images, or larger values of crop_size, scales or long_side"
        )
    return -(-height // PATCH_SIDE), -(-width // PATCH_SIDE)


def is_vision_transformer(name: str) -> bool:
    """Whether timm has a network of this name, with or without the tag of its weights, among its ViTs and DeiTs."""
    return is_model_in_modules(name, _FAMILIES)


def require_plain(network: Any, *, name: str) -> None:
    """Raise ValueError, with the reason, for a network that is not as `TransformerEncoder` reads it."""
    if reason := _why_not_plain(network):
        raise ValueError(
            f"encoder {name!r} {reason}; choose a plain vision transformer with patches of {PATCH_SIDE} pixels, such "
            "as vit_small_patch16_224 or deit_small_patch16_224"
        )


def _why_not_plain(network: Any) -> str:
    if type(network) not in (VisionTransformer, VisionTransformerDistilled):
        return f"is a {type(network).__name__}"
    sides = tuple(network.patch_embed.patch_size)
    if sides != (PATCH_SIDE, PATCH_SIDE):
        return f"has patches of {sides[0]} x {sides[1]} pixels"
    if network.attn_pool is not None:
        return "pools its tokens by attention, so its map is not what its classifier reads"
    if isinstance(network.norm, nn.Identity):
        return "has its last norm after the pooling, so its patch tokens are not normalised"
    if len(network.blocks) < _NUM_PARTS:
        return f"has fewer than {_NUM_PARTS} blocks"
    return ""
