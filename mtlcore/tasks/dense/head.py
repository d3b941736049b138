"""The head of tasks with an answer for each pixel."""

from __future__ import annotations

from abc import abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from ...contracts import Features, Head
from .decoder import width_of
from .losses import mean_over_batch, mean_over_valid


class DenseHead(Head):
    """The decoder and ONE 1 x 1 convolution, enlarged: features -> (B, channels, H, W).

    With `coupled = True` (a subclass), the loss is the mean over the valid pixels of the batch.
    """

    def __init__(self, decoder: nn.Module, channels: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.answer = nn.Conv2d(width_of(decoder), channels, 1)

    def forward(self, features: Features) -> Tensor:
        assert features.images is not None
        coarse = self.answer(self.decoder(features))
        size = features.images.shape[-2:]
        return F.interpolate(coarse, size, mode="bilinear", align_corners=False)

    @abstractmethod
    def pixel_losses(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each pixel (B, H, W), and which pixels are valid, bool."""

    def loss(self, output: Tensor, target: Tensor, share: Tensor | None = None) -> Tensor:
        """Return (B,), the mean over each sample's valid pixels; () of a coupled head."""
        values, valid = self.pixel_losses(output, target)
        if share is None:
            return mean_over_valid(values, valid)
        return mean_over_batch(values, valid, share)
