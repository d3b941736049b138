"""What pixels say: contrast, brightness, noise, blur. Pixels stay in place.

Contrast and brightness are `kornia.enhance.adjust_contrast` and `adjust_brightness` (multiply and clip; add and clip),
and the tests hold them to those; they are written in place here because each kornia call allocates the batch twice,
which at 224 px costs ten times the arithmetic. All parameters are (B,), one an image. Functions that end in `_`
overwrite the images they are given.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..rng import Rng


def contrast_(images: Tensor, factor: Tensor, white: float = 1.0) -> Tensor:
    """(B, 3, H, W) in [0, white] -> times `factor`, clipped to [0, 1]; the division by `white` costs nothing."""
    return images.mul_(_each(factor / white)).clamp_(max=1.0)


def brightness_(images: Tensor, shift: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> plus `shift`, clipped to [0, 1]."""
    return images.add_(_each(shift)).clamp_(0.0, 1.0)


def noise_(images: Tensor, std: Tensor, rng: Rng) -> Tensor:
    """Plus Gaussian noise of each image's own `std`, independent in every pixel and channel; not clipped."""
    return images.addcmul_(rng.randn(*images.shape), _each(std))


def blur(images: Tensor, chosen: Tensor, sigma_px: float) -> Tensor:
    """The `chosen` (B,) bool images blurred by a 3 x 3 Gaussian, the others as they are (a 1 x 1 kernel).

    One convolution. Its kernels are made here: kornia's `gaussian_blur2d` reads a batch of sigmas back to the host.
    """
    from kornia.filters import filter2d  # late: 0.7 s

    offset_px = torch.arange(-1.0, 2.0, device=images.device)
    taps = torch.exp(offset_px.square() / (-2 * sigma_px**2))
    each = torch.where(chosen[:, None], taps / taps.sum(), (offset_px == 0).float())  # (B, 3)
    return filter2d(images, each[:, :, None] * each[:, None, :])


def _each(parameter: Tensor) -> Tensor:
    return parameter[:, None, None, None]
