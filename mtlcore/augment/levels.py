"""The levels of augmentation of Pourmirzaei et al. (arXiv:2105.06421): `none`, `weak`, `strong`, `validation`.

| level | operations |
|---|---|
| none | mirrored or not; central crop of 0.69 of the side; resize |
| weak | as none, and: contrast 0.6-1.4; turned by up to 15 degrees; the crop is 0.69-0.99 |
| strong | as weak, and: up to 20 degrees; brightness +-0.05; Gaussian noise, its std up to 0.05; Gaussian blur, |
|        | kernel 1 or 3, sigma 1.5; a cutout of 60 / 224 of the side after the pretext |
| validation | central crop of 0.8, resize |

An augmentation draws its parameters for the whole batch at once, warps each image once, and reads nothing back to the host.
Row i of the result depends on sample i of the images alone. The warp comes FIRST, whereas the table has it last: color is
pointwise and nearly commutes with interpolation, and noise and blur are then measured in the pixels that the encoder
reads, at any stored size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, gt, le, lt
from torch import Tensor

from ..contracts import Augmentation, View
from ..rng import Rng
from .color import blur, brightness_, contrast_, noise_
from .cutout import cutout
from .geometry import Range, between, show, whole

WHITE = 255.0
TIGHT, LOOSE = 0.69, 0.99  # the paper's crops, as shares of the side


def _ordered(_: Any, attribute: Attribute[Any], value: Range) -> None:
    low, high = value
    if not 0 < low <= high:
        raise ValueError(
            f"{attribute.name} = {list(value)}: expected [low, high] with 0 < low <= high"
        )


def _crop(_: Any, attribute: Attribute[Any], value: Range) -> None:
    _ordered(_, attribute, value)
    if value[1] > 1:
        raise ValueError(
            f"{attribute.name} = {list(value)}: expected shares of the side, at most 1.0"
        )


_angle = and_(ge(0.0), le(180.0))
_share = and_(ge(0.0), le(1.0))


@frozen
class NoAugment(Augmentation):
    """Mirrored or not, and a central crop.

    crop: [low, high], the share of the side that is shown. mirror: the share of the images that are mirrored; 0 where left
    and right mean something (digits, words).
    """

    name = "none"
    crop: Range = field(default=(TIGHT, TIGHT), validator=_crop)
    mirror: float = field(default=0.5, validator=_share)

    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        flip, crop = rng.rand(2, len(images))
        seen = show(
            images, size, torch.zeros_like(crop), between(self.crop, crop), flip < self.mirror
        )
        return seen.repaint(seen.images.div_(WHITE))


@frozen
class Weak(Augmentation):
    """Geometry and contrast. crop, mirror: as in `none`. turn_deg: the largest, either way. contrast: [low, high], a factor."""

    crop: Range = field(default=(TIGHT, LOOSE), validator=_crop)
    mirror: float = field(default=0.5, validator=_share)
    turn_deg: float = field(default=15.0, validator=_angle)
    contrast: Range = field(default=(0.6, 1.4), validator=_ordered)

    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        flip, crop, turn, contrast = rng.rand(4, len(images))
        return _turned(self, images, size, flip, crop, turn, contrast)


@frozen
class Strong(Augmentation):
    """As `weak`, then brightness, noise, blur; and a cutout after the pretext.

    brightness: the largest shift, either way, in units of white. noise: the largest std. blur_sigma_px: of the 3 x 3
    Gaussian that half of the images get. cutout: the hidden square's side, as a share of the image's; 0: none.
    """

    crop: Range = field(default=(TIGHT, LOOSE), validator=_crop)
    mirror: float = field(default=0.5, validator=_share)
    turn_deg: float = field(default=20.0, validator=_angle)
    contrast: Range = field(default=(0.6, 1.4), validator=_ordered)
    brightness: float = field(default=0.05, validator=ge(0.0))
    noise: float = field(default=0.05, validator=ge(0.0))
    blur_sigma_px: float = field(default=1.5, validator=gt(0.0))
    cutout: float = field(default=60 / 224, validator=and_(ge(0.0), lt(1.0)))

    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        flip, crop, turn, contrast, shift, std, blurred = rng.rand(7, len(images))
        seen = _turned(self, images, size, flip, crop, turn, contrast)
        bright = brightness_(seen.images, between((-self.brightness, self.brightness), shift))
        noisy = noise_(bright, std * self.noise, rng)
        return seen.repaint(blur(noisy, blurred < 0.5, self.blur_sigma_px).clamp_(0.0, 1.0))

    def finish(self, images: Tensor, rng: Rng) -> Tensor:
        return cutout(images, self.cutout, rng) if self.cutout else images


@frozen
class Validation(Augmentation):
    """A central crop, nothing random. crop: the share of the side that is shown; 1.0: the whole image."""

    lacks: ClassVar[Mapping[str, str]] = {
        "random": "evaluation looks at each image in the same way each time"
    }
    crop: float = field(default=0.8, validator=and_(gt(0.0), le(1.0)))

    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        if self.crop == 1 and images.shape[-2:] == size:
            seen = whole(images)
        else:
            still = torch.zeros(len(images), device=images.device)
            seen = show(images, size, still, torch.full_like(still, self.crop), still > 0)
        return seen.repaint(seen.images.div_(WHITE))


def _turned(
    augmentation: Weak | Strong,
    images: Tensor,
    size: tuple[int, int],
    flip: Tensor,
    crop: Tensor,
    turn: Tensor,
    contrast: Tensor,
) -> View:
    """What `weak` and `strong` share. The last four are uniform draws in [0, 1), (B,)."""
    most = math.radians(augmentation.turn_deg)
    seen = show(
        images,
        size,
        between((-most, most), turn),
        between(augmentation.crop, crop),
        flip < augmentation.mirror,
    )
    return seen.repaint(contrast_(seen.images, between(augmentation.contrast, contrast), WHITE))
