"""The loss of a map: of each pixel, then over the valid pixels of a sample or of the batch.

Shapes: B samples, (H, W) pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

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
