"""The head of masked image modeling if the encoder reads the visible patches alone.

After He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377: a light
transformer sees the encoded patches in their places, and one learned token in each hidden place.

Differences from the paper: two blocks instead of eight, half as wide as the encoder; a learned
position embedding; no class token; L1 on the raw pixels instead of a squared error on standardized
patches.

Shapes: B images, N cells of the map, n of them visible, W width of the decoder.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from mtl_pretexts._shared import GRAY, HiddenPixelsHead, blocks_of, resize_to
from mtlcore import EncoderInfo, Features

DEPTH, HEADS = 2, 4


class MaeHead(HiddenPixelsHead):
    """A light transformer that predicts the hidden patches."""

    def __init__(self, info: EncoderInfo) -> None:
        super().__init__()
        self.size = info.map_sizes[-1]
        self.block = blocks_of(info.image_size, self.size)
        width = HEADS * -(-info.channels[-1] // (2 * HEADS))
        self.embed = nn.Linear(info.channels[-1], width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, self.size[0] * self.size[1], width))
        for token in (self.mask_token, self.pos_embed):
            nn.init.trunc_normal_(token, std=0.02)
        # Not nn.TransformerEncoder: it copies one block, so that all would start equal.
        self.blocks = nn.Sequential(*(_block(width) for _ in range(DEPTH)), nn.LayerNorm(width))
        self.decode = nn.Linear(width, 3 * self.block**2)
        # Predictions start near the gray to which they are added.
        nn.init.trunc_normal_(self.decode.weight, std=0.02)
        nn.init.zeros_(self.decode.bias)

    def forward(self, features: Features) -> Tensor:
        assert features.images is not None
        assert features.cells is not None
        seen = self.embed(features.shared)
        tokens = self.mask_token.to(seen.dtype).expand(len(seen), self.pos_embed.shape[1], -1)
        visible = features.cells[..., None].expand(-1, -1, seen.shape[-1])
        tokens = self.blocks(tokens.scatter(1, visible, seen) + self.pos_embed)
        blocks = rearrange(
            self.decode(tokens),
            "b (h w) (c p q) -> b c (h p) (w q)",
            h=self.size[0],
            p=self.block,
            q=self.block,
        )
        height, width = features.images.shape[-2:]
        return GRAY + resize_to(blocks, (height, width))


def _block(width: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width,
        HEADS,
        4 * width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
