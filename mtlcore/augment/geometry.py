"""Where pixels go: mirror, turn, central crop and resize as ONE matrix and one interpolation an image.

The paper's scripts turn, crop and resize one after the other: three interpolations, each a little blur, and black
corners. One warp by the product matrix is the same movement. Ours, since the paper is silent: the turn is about the
image's center, the crop is central, and outside of the image its mirror image is read (no black corners that would
betray the angle).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts import View
from ..geometry import Geometry, similarity

Range = tuple[float, float]


def between(limits: Range, unit: Tensor) -> Tensor:
    """Uniform draws in [0, 1) -> uniform draws between these limits."""
    low, high = limits
    return unit * (high - low) + low


def show(
    images: Tensor, size: tuple[int, int], angle_rad: Tensor, crop: Tensor, flip: Tensor
) -> View:
    """Raw uint8 (B, 3, H0, W0) -> a view of `size` (h, w), float in [0, 255], by one interpolation.

    angle_rad: (B,), counter-clockwise. crop: (B,) in (0, 1], the share of each side that is shown. flip: (B,) bool.
    """
    geometry = Geometry.affine(similarity(angle_rad, crop, flip, _size(images), size), size)
    return View(geometry.warp(images.float(), "bilinear"), geometry)


def whole(images: Tensor) -> View:
    """Raw uint8 (B, 3, H, W) -> the same image, untouched: float in [0, 255], no interpolation."""
    still = torch.eye(3, device=images.device).expand(len(images), 3, 3)
    return View(images.float(), Geometry.affine(still, _size(images)))


def _size(images: Tensor) -> tuple[int, int]:
    return (images.shape[-2], images.shape[-1])
