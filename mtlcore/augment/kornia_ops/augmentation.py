"""Any operations of kornia, in the order of a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from attrs import Attribute, field, frozen
from torch import Tensor

from ...config.values import value_as_read
from ...config.variants import Variant
from ...contracts import Augmentation, View
from ...rng import Rng
from .canvas import Canvas, repainted
from .catalog import KorniaOp
from .drawn import draw
from .mixing import mixed, refuse_wrong_mix

EXAMPLE = (
    {"op": "RandomResizedCrop", "scale": (0.5, 1.0)},
    {"op": "RandomHorizontalFlip"},
    {"op": "ColorJiggle", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "p": 0.8},
)
"""A list that `mtl plugins show` prints."""


def _as_ops(given: object) -> tuple[KorniaOp, ...]:
    """Convert tables to operations. Raises MtlError with one line for each problem."""
    return value_as_read(given, tuple[KorniaOp, ...], "ops")


def _listed(
    _: object, attribute: Attribute[tuple[KorniaOp, ...]], value: tuple[KorniaOp, ...]
) -> None:
    """At least one operation; at most one that mixes samples, the last before the pretexts."""
    if not value:
        raise ValueError(
            f"{attribute.name} = []: expected a list of operations, such as "
            '{ op = "RandomHorizontalFlip" }'
        )
    before_pretexts = [op for op in value if not op.in_finish]
    refuse_wrong_mix([op.variant for op in before_pretexts], [op.mixes for op in before_pretexts])


@frozen
class Kornia(Augmentation):
    """Operations of kornia in order, each a table with `op` and the fields of kornia.

    `mtl plugins show kornia:ColorJiggle` shows the fields of one of them. Operations that leave
    pixels in place have one more, `after_pretext`: they then run just before the encoder.

    Parameters are drawn for the whole micro-batch, from the generator of the step. Neighbors that
    move pixels by affine matrices are one warp, together with the scaling to `input.size`.

    ops: the operations.
    """

    name = "kornia"
    cites = "Riba et al., Kornia: an Open Source Differentiable Computer Vision Library, WACV 2020"
    ops: tuple[KorniaOp, ...] = field(
        converter=_as_ops, validator=_listed, metadata={"example": EXAMPLE}
    )

    @classmethod
    def members(cls) -> Mapping[str, type[Variant]]:
        """Return name -> class of each operation, for `mtl plugins show kornia:NAME`."""
        return KorniaOp.variants()

    @property
    def lacks(self) -> Mapping[str, str]:  # type: ignore[override]  # it depends on the fields
        """Capabilities that its operations do not have."""
        bent = [op.variant for op in self.ops if op.moves == "dense only"]
        bent += [op.variant for op in self.ops if op.variant == "RandomPerspective"]
        missing: dict[str, str] = {}
        if bent:
            missing["affine"] = f"{', '.join(bent)}: no affine matrix describes the movement"
        return missing

    @property
    def mixes(self) -> bool:  # type: ignore[override]  # it depends on the fields
        """Whether an operation mixes samples."""
        return any(op.mixes for op in self.ops)

    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        canvas = Canvas(images, size)
        with torch.no_grad():
            for op in self._ops(after_pretext=False):
                for drawn in draw(op, len(images), canvas.frame_of(op), size, rng.generator):
                    if op.mixes:
                        return mixed(canvas.view(), drawn)
                    canvas.apply(drawn)
            return canvas.view()

    def finish(self, images: Tensor, rng: Rng) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        with torch.no_grad():
            for op in self._ops(after_pretext=True):
                for drawn in draw(op, len(images), size, size, rng.generator):
                    images = repainted(drawn, images)
        return images

    def _ops(self, after_pretext: bool) -> Iterable[KorniaOp]:
        return (op for op in self.ops if op.in_finish == after_pretext)
