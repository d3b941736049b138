"""`general`: a common recipe for images that are not faces, made of operations of kornia."""

from __future__ import annotations

import functools
from typing import Any, Literal

from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor

from ...contracts import Augmentation, View
from ...rng import Rng
from ..geometry import Range
from ..levels import crop_shares
from .augmentation import Kornia
from .catalog import KorniaOp

HIDDEN_GRAY = 0.5  # the color of the rectangle
POLICY = (
    ("auto_contrast", 0.0, 1.0),
    ("equalize", 0.0, 1.0),
    ("color", 0.1, 1.9),
    ("contrast", 0.1, 1.9),
    ("brightness", 0.6, 1.4),
    ("sharpness", 0.1, 1.9),
    ("posterize", 2.0, 8.0),
    ("rotate", -30.0, 30.0),
    ("shear_x", -0.3, 0.3),
    ("shear_y", -0.3, 0.3),
    ("translate_x", -0.3, 0.3),
    ("translate_y", -0.3, 0.3),
)
"""The operations and ranges of TrivialAugment, in kornia's names.

kornia's own ranges erase some images: 0 bits of posterize is black, and its brightness adds up to
+-0.9, where the paper's multiplies. Solarize is left out.
"""
_share = and_(ge(0.0), le(1.0))


@frozen
class General(Augmentation):
    """Crop, mirror, one operation of TrivialAugment; after the pretexts, hide a rectangle.

    It is short for these operations of `kornia`: RandomResizedCrop(scale = crop),
    RandomHorizontalFlip(p = mirror), TrivialAugment, `mix`, RandomErasing(p = erase). Evaluation
    sees the whole image, unless [augment.validation] sets a crop.

    crop: [low, high], the share of the AREA that is visible. Its place and aspect ratio are random.
    mirror: the share of images that are mirrored. Set 0 if left and right have a meaning (digits,
    words).
    policy: "trivial" for TrivialAugment: one of 12 changes of color or geometry for a micro-batch,
    of a random strength for each image. "none" for images whose colors or angles are the answer.
    mix: "mixup" blends two images, "cutmix" pastes a box of another one. Labels follow.
    erase: the share of images of which a gray rectangle is hidden.
    """

    cites = "Müller and Hutter, ICCV 2021 (TrivialAugment), arXiv:2103.10158"

    crop: Range = field(default=(0.5, 1.0), validator=crop_shares)
    mirror: float = field(default=0.5, validator=_share)
    policy: Literal["trivial", "none"] = "trivial"
    mix: Literal["none", "mixup", "cutmix"] = "none"
    erase: float = field(default=0.25, validator=_share)

    @property
    def mixes(self) -> bool:  # type: ignore[override]  # it depends on the fields
        """Whether it mixes samples."""
        return self.mix != "none"

    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        return recipe(self).view(images, size, rng)

    def finish(self, images: Tensor, rng: Rng) -> Tensor:
        return recipe(self).finish(images, rng)


@functools.lru_cache(maxsize=16)
def recipe(general: General) -> Kornia:
    """Return the list of operations that `general` is short for."""
    ops = [
        _op("RandomResizedCrop", scale=general.crop),
        _op("RandomHorizontalFlip", p=general.mirror),
    ]
    if general.policy == "trivial":
        ops.append(_op("TrivialAugment", policy=tuple((change,) for change in POLICY)))
    if general.mixes:
        ops.append(_op(general.mix))
    ops.append(_op("RandomErasing", p=general.erase, value=HIDDEN_GRAY, after_pretext=True))
    return Kornia(ops=tuple(ops))


def _op(name: str, **fields: Any) -> KorniaOp:
    """Return one operation with these fields."""
    return KorniaOp.variants()[name](**fields)
