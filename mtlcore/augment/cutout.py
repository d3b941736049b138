"""Cutout: hide a square of each image.

DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017,
arXiv:1708.04552. In the hybrid method, cutout follows the transform of the pretext, so that no tile
is shuffled together with its hole.

Our choices: the square is completely inside the image, so its area is constant; it is mid gray
(black in the scripts of the hybrid method); every position is equally likely.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..rng import Rng

GRAY = 0.5


def cutout(
    images: Tensor,
    share: float,
    rng: Rng,
) -> Tensor:
    """Return a copy of images (B, 3, H, W) in [0, 1] with one gray rectangle in each.

    share: height and width of the rectangle, as a share of the image's.
    """
    vertical, horizontal = rng.rand(2, len(images))
    rows = _hidden(images.shape[-2], share, vertical)
    columns = _hidden(images.shape[-1], share, horizontal)
    rectangle = rows[:, :, None] & columns[:, None, :]  # (B, H, W)
    return images.masked_fill(rectangle[:, None], GRAY)


def _hidden(
    size: int,
    share: float,
    position: Tensor,
) -> Tensor:
    """Return which of `size` rows (or columns) are hidden, (B, size) bool.

    position: (B,) uniform draws in [0, 1).
    """
    length = round(share * size)
    first = (position * (size - length + 1)).floor()[:, None]
    index = torch.arange(size, device=position.device)
    return (index >= first) & (index < first + length)
