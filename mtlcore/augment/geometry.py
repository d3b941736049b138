"""Operations that move pixels: mirror, rotation, central crop and resize, in ONE interpolation.

The paper's scripts rotate, crop and resize one after the other. That means three interpolations,
each of which blurs a little, and black corners. One warp by the product of the matrices is the same
movement.

Our choices, where the paper gives no details: the rotation is about the center of the image, and
the crop is central. Outside of the image, its mirror image is read: black corners would reveal the
angle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts import View
from ..geometry import Geometry, similarity

Range = tuple[float, float]


def scale_to(limits: Range, unit: Tensor) -> Tensor:
    """Scale uniform draws in [0, 1) to uniform draws in [low, high)."""
    low, high = limits
    return unit * (high - low) + low


def warped_view(
    images: Tensor,
    size: tuple[int, int],
    angle_rad: Tensor,
    crop: Tensor,
    flip: Tensor,
) -> View:
    """Return a view of raw images with one interpolation.

    images: (B, 3, H0, W0) uint8. The view's images are (B, 3, *size), float in [0, 255].
    size: (h, w) of the view.
    angle_rad: (B,), counter-clockwise.
    crop: (B,) in (0, 1], the share of the height and of the width that is visible.
    flip: (B,) bool, whether the image is mirrored left to right.
    """
    matrix = similarity(angle_rad, crop, flip, _size(images), size)
    geometry = Geometry.affine(matrix, size)
    return View(geometry.warp(images.float(), "bilinear"), geometry)


def unchanged_view(images: Tensor) -> View:
    """Return a view of the same pixels without interpolation.

    images: (B, 3, H, W) uint8. The view's images are float in [0, 255].
    """
    identity = torch.eye(3, device=images.device).expand(images.shape[0], 3, 3)
    return View(images.float(), Geometry.affine(identity, _size(images)))


def _size(images: Tensor) -> tuple[int, int]:
    return (images.shape[-2], images.shape[-1])
