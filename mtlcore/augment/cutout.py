"""Cutout: a square of each image is hidden. DeVries and Taylor, "Improved Regularization of Convolutional Neural
Networks with Cutout", 2017; in the hybrid method it comes after the pretext transform, so that no tile is shuffled with
its hole.

Ours, since the paper is silent: the square lies wholly inside the image (so its area is always the same), it is mid
gray, and all its places are equally likely.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..rng import Rng

GRAY = 0.5


def cutout(images: Tensor, share: float, rng: Rng) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> a copy with one gray rectangle an image, `share` of each side long, anywhere."""
    rows, columns = (
        _hidden(images, axis, share, place)
        for axis, place in zip((-2, -1), rng.rand(2, len(images)))
    )
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], GRAY)


def _hidden(images: Tensor, axis: int, share: float, place: Tensor) -> Tensor:
    """(B, side) bool: which rows, or columns, are hidden. place: (B,) in [0, 1)."""
    side = images.shape[axis]
    long = round(share * side)
    first = (place * (side - long + 1)).floor()[:, None]
    at = torch.arange(side, device=images.device)
    return (at >= first) & (at < first + long)
