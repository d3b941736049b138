"""Segmentation: one of C named classes for each pixel.

The loss is the cross-entropy, and a part of Dice loss if `dice` is above 0: Milletari et al.,
"V-Net", 3DV 2016, arXiv:1606.04797.

Shapes: B samples, C classes, (H, W) pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor

from ...contracts import AlignedTask, Answer, BuildContext, Head
from ...geometry import Geometry
from ...rng import Rng
from ..classification import CONFIDENT_LOGIT, check_class_weights
from .decoder import STRIDE, WIDTH, decoder_of, require_own_decoder
from .draw_maps import blended, class_colors
from .head import DenseHead
from .losses import Normalize, mean_over_batch, mean_over_valid

if TYPE_CHECKING:
    from torchmetrics import Metric

MOST_CLASSES = 255
SHOWN_CLASSES = 5  # in a message
SMOOTHING = 1.0  # pixels, of the Dice loss: it is then defined for classes of few pixels


@frozen
class Segmentation(AlignedTask):
    """One of several named classes for each pixel.

    reads: the map of class numbers (default: the task's label).
    classes: names of the classes. Number 0 in the map is the first one.
    ignore_index: the number of pixels without a class. They have no loss, and no metric counts
    them. Pixels that an augmentation shows outside of the image get it.
    class_weights: weights of the pixels of each class, in the order of `classes`.
    dice: weight of the Dice loss beside the cross-entropy, from 0 to 100. It is the mean over the
    classes that an image shows.
    normalize: "sample": the loss of a sample is the mean over its valid pixels. "batch": the loss
    is the mean over all valid pixels of the batch, so images with few of them count less (as in
    LibMTL).
    decoder: label of a task above this one whose decoder it shares (default: its own).
    width: channels of its own decoder.
    stride: its own decoder leaves out maps finer than 1 / stride of the image.
    """

    classes: tuple[str, ...] = field(metadata={"example": ["road", "car"]})
    reads: str = ""
    ignore_index: int = field(default=255, validator=and_(ge(-1), le(65535)))
    class_weights: tuple[float, ...] = field(default=(), validator=check_class_weights)
    dice: float = field(default=0.0, validator=and_(ge(0.0), le(100.0)))
    normalize: Normalize = "sample"
    decoder: str = ""
    width: int = field(default=WIDTH, validator=and_(ge(1), le(2048)))
    stride: int = field(default=STRIDE, validator=and_(ge(1), le(64)))

    def __attrs_post_init__(self) -> None:
        require_own_decoder(self.decoder, self.width, self.stride)
        if not 2 <= len(self.classes) <= MOST_CLASSES:
            raise ValueError(
                f"classes has {len(self.classes)} names; expected 2 to {MOST_CLASSES}, in the "
                "order of the numbers in the maps"
            )
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes has a name twice: {self.classes}")
        if self.class_weights and len(self.classes) != len(self.class_weights):
            raise ValueError(
                f"class_weights has {len(self.class_weights)} numbers for "
                f"{len(self.classes)} classes"
            )

    def fault(self, label: np.ndarray, size: tuple[int, int]) -> str | None:
        if label.ndim != 2 or label.dtype.kind not in "iub":
            return (
                f"a map {label.shape} {label.dtype}; segmentation reads class numbers (H, W), "
                "integers"
            )
        c = len(self.classes)
        wrong = ((label < 0) | (label >= c)) & (label != self.ignore_index)
        if not wrong.any():
            return None
        numbers = np.unique(label[wrong])
        shown = ", ".join(map(str, numbers[:SHOWN_CLASSES].tolist()))
        more = ", ..." if len(numbers) > SHOWN_CLASSES else ""
        return (
            f"class numbers {shown}{more} at {int(wrong.sum())} pixels; expected 0 to {c - 1} "
            f"({c} classes) or ignore_index = {self.ignore_index}"
        )

    def examples(self, n: int, size: tuple[int, int], rng: Rng) -> Tensor:
        """Draw n maps (n, h, w) for the conformance kit: blocks of classes, some ignored."""
        blocks = rng.randint(len(self.classes), n * 16).view(n, 1, 4, 4)
        blocks[:, :, 0, 0] = self.ignore_index
        return F.interpolate(blocks.float(), size)[:, 0].long()

    def move(self, target: Tensor, geometry: Geometry) -> Tensor:
        """Move the pixels. Places outside of the old image get `ignore_index`."""
        if not geometry.empty:
            return geometry.warp(target)
        # Such places become 0, which is a class. So `ignore_index` is 0 while the pixels move.
        shifted = target.int() - self.ignore_index
        moved = geometry.warp(shifted) + self.ignore_index
        return moved.to(target.dtype) if _holds(target.dtype, self.ignore_index) else moved

    def build(self, context: BuildContext) -> Head:
        kind = BatchSegmentationHead if self.normalize == "batch" else SegmentationHead
        return kind(context, self)

    def decode(self, output: Tensor) -> Tensor:
        """Convert logits to probabilities, (B, C, H, W)."""
        return output.float().softmax(1)

    def as_answer(self, target: Tensor) -> Tensor:
        """Convert class numbers (B, H, W) to one-hot (B, C, H, W); even where there is none."""
        valid = is_class(target, len(self.classes), self.ignore_index)
        one_hot = F.one_hot(torch.where(valid, target, 0).long(), len(self.classes)).float()
        even = torch.full_like(one_hot, 1 / len(self.classes))
        return torch.where(valid[..., None], one_hot, even).movedim(-1, 1)

    def answer(self, decoded: Tensor) -> list[Answer]:
        """Return the map of the most likely classes, and the share of the pixels of each."""
        return super().answer(decoded.argmax(1))

    def metrics(self) -> dict[str, Metric]:
        """Return mIoU, pixel accuracy, mean class accuracy and the confusion matrix of pixels."""
        from .segmentation_metrics import segmentation_metrics

        return segmentation_metrics(len(self.classes), self.ignore_index)

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """Color an image (3, H, W) by class. decoded: (C, H, W) probabilities."""
        colors = class_colors(len(self.classes)).to(image)
        known = decoded.amax(0) - decoded.amin(0) > 1e-6  # evenly likely: no class
        return blended(image, colors[decoded.argmax(0)].movedim(-1, 0), known)


class SegmentationHead(DenseHead):
    """The decoder and ONE 1 x 1 convolution, enlarged: features -> logits (B, C, H, W)."""

    class_weights: Tensor | None

    def __init__(self, context: BuildContext, task: Segmentation) -> None:
        decoder = decoder_of(context, task.width, task.stride, task.decoder)
        super().__init__(decoder, len(task.classes))
        self.classes = len(task.classes)
        self.ignore_index = task.ignore_index
        self.dice = task.dice
        weights = torch.tensor(task.class_weights) if task.class_weights else None
        # Not in checkpoints: the saved configuration holds the weights.
        self.register_buffer("class_weights", weights, persistent=False)

    def pixel_losses(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted cross-entropy of each pixel, and which pixels have a class."""
        valid = is_class(target, self.classes, self.ignore_index)
        numbers = torch.where(valid, target, 0).long()
        loss = F.cross_entropy(output, numbers, reduction="none")
        if self.class_weights is not None:
            loss = loss * self.class_weights[numbers]
        return loss, valid

    def loss(self, output: Tensor, target: Tensor, share: Tensor | None = None) -> Tensor:
        """Return (B,), the loss of each sample; () of a coupled head. Logits (B, C, H, W)."""
        loss = super().loss(output, target, share)
        if not self.dice:
            return loss
        dice = self.dice_losses(output, target)
        if share is None:
            return loss + self.dice * dice
        one = torch.ones_like(dice, dtype=torch.bool)
        return loss + self.dice * mean_over_batch(dice[:, None], one[:, None], share)

    def dice_losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return (B,): 1 - Dice, the mean over the classes that each image shows; 0 without any."""
        valid = is_class(target, self.classes, self.ignore_index)
        numbers = torch.where(valid, target, 0).long()
        truth = F.one_hot(numbers, self.classes).movedim(-1, 1) * valid[:, None]
        likely = output.softmax(1) * valid[:, None]
        overlap = (likely * truth).sum((2, 3))
        size = truth.sum((2, 3))
        total = likely.sum((2, 3)) + size
        loss = 1 - (2 * overlap + SMOOTHING) / (total + SMOOTHING)
        return mean_over_valid(loss, size > 0)

    def ideal(self, target: Tensor) -> Tensor:
        """Return logits (B, C, H, W) with nearly all probability on the class of each pixel."""
        valid = is_class(target, self.classes, self.ignore_index)
        one_hot = F.one_hot(torch.where(valid, target, 0).long(), self.classes)
        logits = CONFIDENT_LOGIT * one_hot.float() * valid[..., None]
        return logits.movedim(-1, 1).contiguous()


class BatchSegmentationHead(SegmentationHead):
    """The same with the mean over all valid pixels of the batch."""

    coupled = True


def _holds(dtype: torch.dtype, number: int) -> bool:
    """Return whether integers of a dtype can be this number: 255 would be True, a class."""
    if dtype == torch.bool:
        return number in (0, 1)
    range_ = torch.iinfo(dtype)
    return range_.min <= number <= range_.max


def is_class(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Return which pixels of (B, H, W) have a class, bool."""
    return (target >= 0) & (target < classes) & (target != ignore_index)
