"""What is kept when training is over: the encoder and the supervised heads, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts import Encoder, EncoderInfo, Features, Head
from ..errors import MtlError


class SharedEncoder(nn.Module):
    """(B, 3, H, W) in [0, 1] -> Features. Owns the normalization, so that heads, EMA copies and exports agree on it."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(encoder.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(encoder.std).view(3, 1, 1), persistent=False)
        self.net = encoder.build(size)
        self.info = self._measure(size)

    def forward(self, images: Tensor) -> Features:
        features: Features = self.net((images - self.mean) / self.std)
        return features._replace(images=images)

    @torch.no_grad()
    def _measure(self, size: int) -> EncoderInfo:
        training = self.training
        features = self.eval().net(torch.zeros(1, 3, size, size))
        self.train(training)
        if not isinstance(features, Features) or features.pooled.ndim != 2:
            raise MtlError(
                f"the encoder {type(self.net).__name__} must return mtlcore.Features with pooled (B, D)"
            )
        maps = features.maps
        sizes = tuple((int(m.shape[-2]), int(m.shape[-1])) for m in maps)
        return EncoderInfo(features.pooled.shape[1], tuple(m.shape[1] for m in maps), sizes, size)


class Inference(nn.Module):
    """Images in [0, 1] -> one output a task. The same parameter names as in training, so weights load by name."""

    def __init__(self, encoder: SharedEncoder, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> dict[str, Any]:
        features = self.encoder(images)
        return {label: head(features) for label, head in self.heads.items()}
