"""Dense regression: one number for each pixel, such as a depth or a distance.

Shapes: B samples, (H, W) pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, gt, le
from torch import Tensor

from ...contracts import AlignedTask, BuildContext, Head
from ...geometry import Geometry
from ...rng import Rng
from .decoder import STRIDE, WIDTH, decoder_of, require_own_decoder
from .draw_maps import blended, heat
from .head import DenseHead
from .losses import Normalize

if TYPE_CHECKING:
    from torchmetrics import Metric

_LOSSES = {"l1": F.l1_loss, "huber": F.smooth_l1_loss}


@frozen
class DenseRegression(AlignedTask):
    """One number for each pixel. It does not change when the image turns or is mirrored.

    reads: the map of numbers (default: the task's label). Pixels of NaN are missing.
    positive: True if only numbers above 0 are labels, as in maps of depth. False: 0 and negative
    numbers are labels, too.
    scale: a typical number, above 0. The loss is computed on numbers divided by it, so it does not
    depend on their unit.
    loss: "l1", or "huber" (squared up to one `scale`, then linear).
    normalize: "sample": the loss of a sample is the mean over its valid pixels. "batch": the loss
    is the mean over all valid pixels of the batch (as in LibMTL).
    decoder: label of a task above this one whose decoder it shares (default: its own).
    width: channels of its own decoder.
    stride: its own decoder leaves out maps finer than 1 / stride of the image.
    """

    reads: str = ""
    positive: bool = True
    scale: float = field(default=1.0, validator=and_(gt(0.0), le(1e9)))
    loss: Literal["l1", "huber"] = "l1"
    normalize: Normalize = "sample"
    decoder: str = ""
    width: int = field(default=WIDTH, validator=and_(ge(1), le(2048)))
    stride: int = field(default=STRIDE, validator=and_(ge(1), le(64)))

    def __attrs_post_init__(self) -> None:
        require_own_decoder(self.decoder, self.width, self.stride)

    def fault(self, label: np.ndarray, size: tuple[int, int]) -> str | None:
        channels = label.shape[2] if label.ndim == 3 else 1
        if channels != 1 or label.dtype.kind != "f":
            return f"a map {label.shape} {label.dtype}; dense_regression reads floats (H, W)"
        return None

    def examples(self, n: int, size: tuple[int, int], rng: Rng) -> Tensor:
        """Draw n maps (n, 1, h, w) for the conformance kit: blocks of numbers, some missing."""
        blocks = self.scale * (0.2 + rng.rand(n, 1, 4, 4))
        blocks[:, :, 0, 0] = 0
        return F.interpolate(blocks, size)

    def move(self, target: Tensor, geometry: Geometry) -> Tensor:
        """Move the pixels, by nearest neighbor: no number between two objects is right.

        Places outside of the old image are missing.
        """
        moved = geometry.warp(target)
        if self.positive or not geometry.empty:
            return moved
        inside = geometry.warp(torch.ones_like(target))
        return torch.where(inside > 0, moved, torch.nan)

    def build(self, context: BuildContext) -> Head:
        kind = BatchDenseRegressionHead if self.normalize == "batch" else DenseRegressionHead
        return kind(context, self)

    def decode(self, output: Tensor) -> Tensor:
        """Convert scaled numbers (B, 1, H, W) to the unit of the map."""
        return output.float() * self.scale

    def as_answer(self, target: Tensor) -> Tensor:
        """Return the numbers (B, 1, H, W), 0 where they are missing."""
        return torch.where(is_known(target, self.positive), target, 0)

    def metrics(self) -> dict[str, Metric]:
        """Return the absolute and the relative error, means over all valid pixels."""
        from .map_metrics import AbsoluteError, RelativeError

        return {
            "abs_error": AbsoluteError(self.positive),
            "rel_error": RelativeError(self.positive),
        }

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """Color an image (3, H, W) by number, from 0 (blue) to 2 x scale (red). decoded: (1, H, W).

        Numbers above 2 x scale have the last color.
        """
        values = decoded[0].float()
        known = values > 0 if self.positive else values.isfinite()
        shown = (values / (2 * self.scale)).clamp(0, 1).nan_to_num()
        return blended(image, heat(shown), known)


class DenseRegressionHead(DenseHead):
    """The decoder and ONE 1 x 1 convolution, enlarged: features -> scaled numbers (B, 1, H, W)."""

    def __init__(self, context: BuildContext, task: DenseRegression) -> None:
        decoder = decoder_of(context, task.width, task.stride, task.decoder)
        super().__init__(decoder, 1)
        self.kind = task.loss
        self.positive = task.positive
        self.scale = task.scale

    def pixel_losses(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each scaled number, and which pixels have one, both (B, 1, H, W)."""
        valid = is_known(target, self.positive)
        known = torch.where(valid, target / self.scale, 0)
        return _LOSSES[self.kind](output.float(), known, reduction="none"), valid

    def ideal(self, target: Tensor) -> Tensor:
        """Return the scaled numbers, 0 where they are missing."""
        return torch.where(is_known(target, self.positive), target / self.scale, 0)


class BatchDenseRegressionHead(DenseRegressionHead):
    """The same with the mean over all valid pixels of the batch."""

    coupled = True


def is_known(target: Tensor, positive: bool) -> Tensor:
    """Return which numbers of a map are labels, bool. NaN is none."""
    return (target > 0) & target.isfinite() if positive else target.isfinite()
