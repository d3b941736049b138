"""Masked image modelling: most of the image is covered, patch by patch, and a light decoder must give back its pixels.

After Xie et al. 2022, "SimMIM: A Simple Framework for Masked Image Modeling", arXiv:2111.09886: random patches of 32 of 192
pixels (6 a side), 60 % of them covered, raw pixels as the answer, ONE linear layer on the coarse map as the decoder, L1 on covered
pixels alone.

Where we differ: SimMIM puts a learned token in the place of covered patches, inside of a vision transformer. Here PIXELS are
painted gray (0.5), so any encoder will do, and it is not told which gray is a mask; colors are answered in [0, 1] instead of
standardized ones, as departures from that gray. From `inpainting` it differs in how much is hidden, and by a decoder that reads
the coarse map alone: the finer maps carry nothing across, so all must be in the last one.

Shapes: B images (B, 3, H, W) in [0, 1], a mask (B, 1, H, W), true where an image is covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, le
from einops import rearrange
from torch import Tensor, nn

from mtlcore import (
    AugmentedBatch,
    BuildContext,
    EncoderInfo,
    Features,
    Head,
    PretextTask,
    Rng,
    View,
    hookimpl,
)

GRAY = 0.5
Question = dict[str, Tensor]


def _some_patches(task: Any, _: Attribute[float], value: float) -> None:
    patches = task.grid**2
    if not (0 < value < 1 and 0 < task.covered < patches):
        raise ValueError(
            f"ratio = {value:g} of grid = {task.grid} ({patches} patches): expected a share that covers 1 to {patches - 1} of them"
        )


@frozen
class MaskedImage(PretextTask):
    """Restore the covered patches.

    grid: patches a side, which sets the mask's size: 6 is the paper's 32 of 192 pixels. ratio: the share of them that is covered,
    to the nearest whole number, any ones, drawn for each image; 0.6 is the paper's.
    """

    cites = "after Xie et al. 2022 (SimMIM), arXiv:2111.09886"

    grid: int = field(default=6, validator=and_(ge(2), le(32)))
    ratio: float = field(default=0.6, validator=_some_patches)

    @property
    def covered(self) -> int:
        """How many patches are painted gray."""
        return round(self.ratio * self.grid**2)

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Question]:
        """-> the covered image, {"image": the clean one, "covered": (B, 1, H, W) bool}."""
        clean = batch.clean
        covered = self._mask(
            rng.permutations(len(clean.images), self.grid**2) < self.covered, clean.images
        )
        return [clean.repaint(clean.images.masked_fill(covered, GRAY))], {
            "image": clean.images,
            "covered": covered,
        }

    def _mask(self, patches: Tensor, images: Tensor) -> Tensor:
        """(B, grid * grid) bool -> (B, 1, H, W) bool. Where the grid does not divide the side, patches differ by a pixel."""
        height, width = (
            torch.arange(n, device=images.device) * self.grid // n for n in images.shape[-2:]
        )
        return rearrange(patches, "b (i j) -> b 1 i j", i=self.grid)[:, :, height[:, None], width]

    def permute(self, target: Question, order: Tensor) -> Question:
        """What is covered is the question; only the image is the answer."""
        return target | {"image": target["image"][order]}

    def undo(self, view: Tensor, target: Question) -> Tensor:
        """The covered pixels put back; all others are the view's own, bit for bit."""
        return torch.where(target["covered"], target["image"], view)

    def build(self, context: BuildContext) -> Head:
        return MaskedImageHead(context.info)

    def metrics(self) -> dict[str, Any]:
        """l1: of the covered pixels. over_mean: it, as a share of the L1 of the visible pixels' mean color; lower is better."""
        from torchmetrics import Metric

        class CoveredPixels(Metric):
            higher_is_better = False

            def __init__(self) -> None:
                super().__init__()
                for name in ("error", "of_mean", "samples"):
                    self.add_state(name, torch.zeros(()), "sum")

            def update(self, output: Tensor, target: Question) -> None:
                self.error += covered_l1(output, target).sum()
                self.of_mean += covered_l1(mean_color(target), target).sum()
                self.samples += len(output)

        class L1(CoveredPixels):
            def compute(self) -> Tensor:
                return self.error / self.samples

        class OverMean(CoveredPixels):
            def compute(self) -> Tensor:
                return self.error / self.of_mean

        return {"l1": L1(), "over_mean": OverMean()}

    def draw(self, images: Tensor, target: Question, output: Tensor) -> Tensor:
        """The clean image, with the answer in the covered places."""
        return torch.where(target["covered"], output.clamp(0, 1), target["image"])


class MaskedImageHead(Head):
    """-> the whole image (B, 3, H, W); only its covered pixels are judged.

    One 1 x 1 convolution of the coarse map makes the block of pixels that each of its cells stands for (sub-pixel convolution).
    """

    def __init__(self, info: EncoderInfo) -> None:
        super().__init__()
        self.block = -(-info.image_size // info.map_sizes[-1][0])
        self.decode = nn.Conv2d(info.channels[-1], 3 * self.block**2, 1)

    def forward(self, features: Features) -> Tensor:
        assert features.images is not None
        x, size = (
            F.pixel_shuffle(self.decode(features.maps[-1]), self.block),
            features.images.shape[-2:],
        )
        return GRAY + (
            x
            if x.shape[-2:] == size
            else F.interpolate(x, size, mode="bilinear", align_corners=False)
        )

    def loss(self, output: Tensor, target: Question) -> Tensor:
        return covered_l1(output, target)

    def ideal(self, target: Question) -> Tensor:
        """The clean image."""
        return target["image"]


def covered_l1(output: Tensor, target: Question) -> Tensor:
    """(B,): mean |output - clean| over the covered pixels and the colors of each image."""
    covered = target["covered"]
    error = ((output - target["image"]).abs() * covered).sum((1, 2, 3))
    return error / (3 * covered.sum((1, 2, 3))).clamp_min(1)


def mean_color(target: Question) -> Tensor:
    """(B, 3, 1, 1): of the visible pixels, what a blind guess would fill in."""
    seen = ~target["covered"]
    return (target["image"] * seen).sum((2, 3), keepdim=True) / seen.sum(
        (2, 3), keepdim=True
    ).clamp_min(1)


@hookimpl
def mtl_components() -> list[type]:
    return [MaskedImage]
