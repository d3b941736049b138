"""Operations that change colors and leave pixels in place: contrast, brightness, noise, blur.

Contrast and brightness compute the same as `kornia.enhance.adjust_contrast` (multiply and clip) and
`adjust_brightness` (add and clip); the tests compare them. They work in place, because each call of
kornia allocates two copies of the batch. At 224 pixels that takes ten times as long as the
arithmetic.

Shapes: images (B, 3, H, W); every parameter (B,), one value for each image. Functions whose name
ends in `_` overwrite their images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..rng import Rng


def contrast_(
    images: Tensor,
    factor: Tensor,
    white: float = 1.0,
) -> Tensor:
    """Multiply by `factor` and clip: (B, 3, H, W) in [0, white] -> [0, 1].

    The division by `white` needs no pass of its own, since it is part of the factor.
    """
    return images.mul_(_per_image(factor / white)).clamp_(max=1.0)


def brightness_(images: Tensor, shift: Tensor) -> Tensor:
    """Add `shift` and clip: (B, 3, H, W) in [0, 1] -> [0, 1]."""
    return images.add_(_per_image(shift)).clamp_(0.0, 1.0)


def noise_(
    images: Tensor,
    std: Tensor,
    rng: Rng,
) -> Tensor:
    """Add Gaussian noise, independent in every pixel and channel. The result is not clipped.

    std: (B,), the standard deviation for each image.
    """
    return images.addcmul_(rng.randn(*images.shape), _per_image(std))


def blur(
    images: Tensor,
    chosen: Tensor,
    sigma_px: float,
) -> Tensor:
    """Blur the `chosen` images, (B,) bool, with a 3 x 3 Gaussian. The others stay unchanged.

    One convolution serves the whole batch: the kernel of the other images is the identity. The
    kernels are computed here, because kornia's `gaussian_blur2d` would copy the sigmas to the host.
    """
    # Imported late: kornia takes 0.7 s.
    from kornia.filters import filter2d

    offset_px = torch.arange(-1.0, 2.0, device=images.device)
    gaussian = torch.exp(offset_px.square() / (-2 * sigma_px**2))
    gaussian = gaussian / gaussian.sum()
    identity = (offset_px == 0).float()
    kernel = torch.where(chosen[:, None], gaussian, identity)  # (B, 3), one axis
    return filter2d(images, kernel[:, :, None] * kernel[:, None, :])


def _per_image(parameter: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), so that it broadcasts over an image."""
    return parameter[:, None, None, None]
