"""The augmentation levels of Pourmirzaei et al. (arXiv:2105.06421).

| level      | operations                                                                   |
|------------|------------------------------------------------------------------------------|
| none       | mirrored or not; central crop of 0.69 of the height and width; resize        |
| weak       | as none, and contrast 0.6-1.4; rotation up to 15 degrees; crop 0.69-0.99     |
| strong     | as weak, and rotation up to 20 degrees; brightness +-0.05; Gaussian noise    |
|            | with a std up to 0.05; Gaussian blur, kernel 1 or 3, sigma 1.5; a cutout of  |
|            | 60 / 224 of the height and width, after the pretext                          |
| validation | the whole image (in the paper, a central crop of 0.8); resize                |

An augmentation draws its parameters for the whole batch at once, warps each image once, and copies
nothing to the host. Sample i of the result depends on sample i of the images alone.

The ranges are theirs; docs/method.md lists where the operations differ from the authors' scripts.
Contrast multiplies pixel values here, so it changes brightness, too. We warp FIRST, while the table
has it last: color operations act on single pixels and nearly commute with interpolation. Noise and
blur are then measured in the pixels that the encoder reads, whatever the size of the cached images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, gt, le, lt
from torch import Tensor

from ..contracts import Augmentation, View
from ..rng import Rng
from .color import blur, brightness_, contrast_, noise_
from .cutout import cutout
from .geometry import Range, scale_to, unchanged_view, warped_view

WHITE = 255.0
TIGHT, LOOSE = 0.69, 0.99  # the paper's crops, as shares of the height and width
MOST = 100.0  # the largest factor of contrast
BLURRED = 0.5  # the share of images that `strong` blurs


def _ordered(_: object, attribute: Attribute[Range], value: Range) -> None:
    low, high = value
    if not 0 < low <= high <= MOST:
        raise ValueError(
            f"{attribute.name} = {list(value)}: expected [low, high] with 0 < low <= high <= {MOST}"
        )


def crop_shares(
    instance: object,
    attribute: Attribute[Range],
    value: Range,
) -> None:
    _ordered(instance, attribute, value)
    if value[1] > 1:
        raise ValueError(
            f"{attribute.name} = {list(value)}: expected shares of the image size, at most 1.0"
        )


_angle = and_(ge(0.0), le(180.0))
_share = and_(ge(0.0), le(1.0))


@frozen
class NoAugment(Augmentation):
    """Mirrored or not, and a central crop.

    crop: [low, high], the share of the height and width that is visible.
    mirror: the share of images that are mirrored. Set 0 if left and right have a meaning (digits,
    words).
    """

    name = "none"
    crop: Range = field(default=(TIGHT, TIGHT), validator=crop_shares)
    mirror: float = field(default=0.5, validator=_share)

    def view(
        self,
        images: Tensor,
        size: tuple[int, int],
        rng: Rng,
    ) -> View:
        flip, crop = rng.rand(2, len(images))
        no_rotation = torch.zeros_like(crop)
        view = warped_view(
            images,
            size,
            no_rotation,
            scale_to(self.crop, crop),
            flip < self.mirror,
        )
        return view.repaint(view.images.div_(WHITE))


@frozen
class Weak(Augmentation):
    """Mirror, central crop, rotation and contrast.

    crop, mirror: as in `none`.
    turn_deg: the largest rotation in degrees, in either direction.
    contrast: [low, high], a factor.
    """

    crop: Range = field(default=(TIGHT, LOOSE), validator=crop_shares)
    mirror: float = field(default=0.5, validator=_share)
    turn_deg: float = field(default=15.0, validator=_angle)
    contrast: Range = field(default=(0.6, 1.4), validator=_ordered)

    def view(
        self,
        images: Tensor,
        size: tuple[int, int],
        rng: Rng,
    ) -> View:
        flip, crop, turn, contrast = rng.rand(4, len(images))
        return _rotated_view(self, images, size, flip, crop, turn, contrast)


@frozen
class Strong(Augmentation):
    """As `weak`, then brightness, noise and blur; and a cutout after the pretext.

    crop, mirror, turn_deg, contrast: as in `weak`.
    brightness: the largest shift, in either direction; white is 1.
    noise: the largest standard deviation; white is 1.
    blur_sigma_px: sigma in pixels of the 3 x 3 Gaussian that blurs half of the images.
    cutout: the height and width of the hidden rectangle, as a share of the image's; 0 for none.
    """

    crop: Range = field(default=(TIGHT, LOOSE), validator=crop_shares)
    mirror: float = field(default=0.5, validator=_share)
    turn_deg: float = field(default=20.0, validator=_angle)
    contrast: Range = field(default=(0.6, 1.4), validator=_ordered)
    brightness: float = field(default=0.05, validator=_share)
    noise: float = field(default=0.05, validator=_share)
    blur_sigma_px: float = field(default=1.5, validator=and_(ge(0.01), le(1000.0)))
    cutout: float = field(default=60 / 224, validator=and_(ge(0.0), lt(1.0)))

    def view(
        self,
        images: Tensor,
        size: tuple[int, int],
        rng: Rng,
    ) -> View:
        flip, crop, turn, contrast, shift, std, blurred = rng.rand(7, len(images))
        view = _rotated_view(self, images, size, flip, crop, turn, contrast)
        shifts = scale_to((-self.brightness, self.brightness), shift)
        bright = brightness_(view.images, shifts)
        noisy = noise_(bright, std * self.noise, rng)
        result = blur(noisy, blurred < BLURRED, self.blur_sigma_px).clamp_(0.0, 1.0)
        return view.repaint(result)

    def finish(self, images: Tensor, rng: Rng) -> Tensor:
        return cutout(images, self.cutout, rng) if self.cutout else images


@frozen
class Validation(Augmentation):
    """A central crop without any randomness; by default the whole image.

    crop: the share of the height and width that is visible. The paper's is 0.8.
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "random": "evaluation looks at each image in the same way each time"
    }
    crop: float = field(default=1.0, validator=and_(gt(0.0), le(1.0)))

    def view(
        self,
        images: Tensor,
        size: tuple[int, int],
        rng: Rng,
    ) -> View:
        if self.crop == 1 and images.shape[-2:] == size:
            view = unchanged_view(images)
        else:
            # `len` would fix the batch size of an exported graph.
            zero = torch.zeros(images.shape[0], device=images.device)
            view = warped_view(
                images,
                size,
                zero,
                torch.full_like(zero, self.crop),
                zero > 0,
            )
        return view.repaint(view.images.div_(WHITE))


def _rotated_view(
    augmentation: Weak | Strong,
    images: Tensor,
    size: tuple[int, int],
    flip: Tensor,
    crop: Tensor,
    turn: Tensor,
    contrast: Tensor,
) -> View:
    """Apply what `weak` and `strong` have in common.

    flip, crop, turn, contrast: (B,) uniform draws in [0, 1).
    """
    largest_rad = math.radians(augmentation.turn_deg)
    view = warped_view(
        images,
        size,
        angle_rad=scale_to((-largest_rad, largest_rad), turn),
        crop=scale_to(augmentation.crop, crop),
        flip=flip < augmentation.mirror,
    )
    factor = scale_to(augmentation.contrast, contrast)
    return view.repaint(contrast_(view.images, factor, WHITE))
