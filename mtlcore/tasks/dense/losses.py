"""The loss of a map: of each pixel, then over the valid pixels of a sample or of the batch.

Shapes: B samples, (H, W) pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from ...contracts import Head
from ...networks import sum_over_ranks, world_size

Normalize = Literal["sample", "batch"]


def mean_over_valid(values: Tensor, valid: Tensor) -> Tensor:
    """Return (B,): the mean of values (B, ...) where valid (B, ...) bool; 0 without any."""
    kept = torch.where(valid, values, 0).flatten(1)
    return kept.sum(1) / valid.flatten(1).sum(1).clamp_min(1)


def mean_over_batch(values: Tensor, valid: Tensor, share: Tensor) -> Tensor:
    """Return (): the mean over all valid pixels of the batch, of all ranks; 0 without any.

    share: (B,), the weight of each sample's pixels.
    """
    kept = torch.where(valid, values, 0).flatten(1).sum(1)
    number = valid.flatten(1).sum(1)
    # `where` and not a product: the loss of a sample without a label may be infinite.
    total = (torch.where(share > 0, kept, 0) * share).sum()
    pixels = sum_over_ranks((number * share).sum().detach().clone())
    # The gradients of the ranks are averaged.
    return total * world_size() / pixels.clamp_min(1)


class DenseHead(Head):
    """A head with a loss for each pixel.

    With `coupled = True` (a subclass), the loss is the mean over the valid pixels of the batch.
    """

    decoder: nn.Module

    @abstractmethod
    def pixel_losses(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each pixel (B, H, W), and which pixels are valid, bool."""

    def loss(self, output: Tensor, target: Tensor, share: Tensor | None = None) -> Tensor:
        """Return (B,), the mean over each sample's valid pixels; () of a coupled head."""
        values, valid = self.pixel_losses(output, target)
        if share is None:
            return mean_over_valid(values, valid)
        return mean_over_batch(values, valid, share)
