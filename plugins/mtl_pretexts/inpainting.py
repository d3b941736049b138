"""Inpainting: restore tiles of the image that are painted gray.

Pourmirzaei et al. 2021, "Using Self-Supervised Auxiliary Tasks to Improve Fine-Grained Facial
Representation", arXiv:2105.06421: inpainting with a perceptual loss. The paper does not specify the
tiles, the decoder, the network of the perceptual loss or its weight: they are ours
(`docs/method.md`). The context encoder is Pathak et al. 2016, "Context Encoders: Feature Learning
by Inpainting", arXiv:1604.07379.

Shapes: B images (B, 3, H, W) in [0, 1]; a mask (B, 1, H, W) bool, true where an image is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from attrs import Attribute, field, frozen
from attrs.validators import and_, deep_iterable, ge, in_, le, lt
from torch import Tensor, nn

from mtl_pretexts._shared import (
    GRAY,
    blocks_of,
    grid_mask,
    hidden_l1,
    hidden_number,
    hidden_pixel_metrics,
    require_some_hidden,
    resize_to,
)
from mtl_pretexts.perceptual import PerceptualDistance, ema_distance, vgg16_distance
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

if TYPE_CHECKING:
    from torchmetrics import Metric

Target = dict[str, Tensor]
"""image: the clean image (B, 3, H, W). hidden: (B, 1, H, W) bool."""

MOMENTUM = 0.99  # of the copy, unless the pretext sets it


def _some_tiles(task: Inpainting, _: Attribute[float], value: float) -> None:
    require_some_hidden(value, task.grid, "tiles")


@frozen
class Inpainting(PretextTask):
    """Restore the hidden tiles of an image.

    grid: tiles along each side.
    ratio: share of the tiles that is hidden, rounded to whole tiles; drawn for each image.
    perceptual: network of the perceptual distance, which is added to the L1 of the hidden pixels.
    "ema": a momentum copy of the encoder. "vgg16": torchvision's, from its cache, a download, or
    the file `vgg16_weights`. "none": L1 alone.
    layers: layers that are compared, 0 the finest: maps of the encoder, or relu1_2, relu2_2,
    relu3_3 and relu4_3 of VGG16. Default: the three finest.
    mix: weight of the perceptual distance beside the L1.
    momentum: of the "ema" copy.
    """

    cites = "Pourmirzaei et al. 2021, arXiv:2105.06421; Pathak et al. 2016, arXiv:1604.07379"
    reads_mixed = True

    grid: int = field(default=3, validator=in_((2, 3, 4, 6, 8)))
    ratio: float = field(default=1 / 3, validator=_some_tiles)
    perceptual: Literal["ema", "vgg16", "none"] = "ema"
    vgg16_weights: Path | None = None
    layers: tuple[int, ...] = field(default=(), validator=deep_iterable(and_(ge(0), le(100))))
    mix: float = field(default=0.3, validator=and_(ge(0.0), le(1e6)))
    momentum: float = field(default=MOMENTUM, validator=and_(ge(0.0), lt(1.0)))

    def __attrs_post_init__(self) -> None:
        if self.vgg16_weights is not None and self.perceptual != "vgg16":
            raise ValueError(
                f'vgg16_weights is set, but perceptual = "{self.perceptual}" does not use it: '
                'set perceptual = "vgg16" or remove vgg16_weights'
            )
        if self.layers and self.perceptual == "none":
            raise ValueError(
                'layers is set, but perceptual = "none" compares no layers: remove layers'
            )
        if self.momentum != MOMENTUM and self.perceptual != "ema":
            raise ValueError(
                f'momentum is set, but perceptual = "{self.perceptual}" has no copy of the '
                'encoder: set perceptual = "ema" or remove momentum'
            )

    @property
    def hidden(self) -> int:
        """Number of hidden tiles."""
        return hidden_number(self.ratio, self.grid)

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Target]:
        """Return the image with hidden tiles, and {"image": clean, "hidden": mask}."""
        clean = batch.clean
        # The first `hidden` places of a permutation: exactly that many distinct tiles.
        tiles = rng.permutations(len(clean.images), self.grid**2) < self.hidden
        hidden = grid_mask(tiles, clean.images, self.grid)
        damaged = clean.repaint(clean.images.masked_fill(hidden, GRAY))
        return [damaged], {"image": clean.images, "hidden": hidden}

    def permute(self, target: Target, order: Tensor) -> Target:
        """Permute the image alone: the mask is part of the input."""
        return target | {"image": target["image"][order]}

    def undo(self, view: Tensor, target: Target) -> Tensor:
        """Put the hidden pixels back; all others are the view's own, bit for bit."""
        return torch.where(target["hidden"], target["image"], view)

    def build(self, context: BuildContext) -> Head:
        return InpaintingHead(context.info, self._distance(context), self.mix)

    def _distance(self, context: BuildContext) -> PerceptualDistance | None:
        if self.perceptual == "none" or not self.mix:
            return None
        if self.perceptual == "ema":
            return ema_distance(context, self.layers, self.momentum)
        return vgg16_distance(self.layers, str(self.vgg16_weights or ""))

    def metrics(self) -> dict[str, Metric]:
        """Errors of the hidden pixels, lower is better.

        l1: mean absolute error.
        over_mean: that error divided by the error of the mean visible color.
        """
        return hidden_pixel_metrics()

    def draw(self, images: Tensor, target: Target, output: Tensor) -> Tensor:
        """Draw the clean image, with the output in the hidden tiles."""
        return torch.where(target["hidden"], output, target["image"])


class InpaintingHead(Head):
    """The restored image (B, 3, H, W) in [0, 1]; the loss uses its hidden pixels alone."""

    def __init__(self, info: EncoderInfo, judge: PerceptualDistance | None, mix: float) -> None:
        super().__init__()
        self.decoder = Decoder(info)
        self.judge = judge
        self.mix = mix

    def forward(self, features: Features) -> Tensor:
        return self.decoder(features)

    def loss(self, output: Tensor, target: Target) -> Tensor:
        """(B,): L1 of the hidden pixels plus `mix` times the perceptual distance."""
        pixels = hidden_l1(output, target)
        if self.judge is None:
            return pixels
        restored = torch.where(target["hidden"], output, target["image"])
        return pixels + self.mix * self.judge(restored, target["image"])

    def ideal(self, target: Target) -> Tensor:
        """Return the clean image."""
        return target["image"]


class Decoder(nn.Module):
    """Upsample from the coarse map, adding the next finer map after each 3 x 3 convolution.

    It is light on purpose: what it cannot do, the encoder must learn. Convolutions run before each
    upsampling, at the smaller size. The last one predicts whole blocks of pixels (sub-pixel
    convolution, Shi et al. 2016, arXiv:1609.05158). The finer maps carry edges to the output.
    """

    def __init__(self, info: EncoderInfo) -> None:
        super().__init__()
        self.block = blocks_of(info.image_size, info.map_sizes[0])
        channels = info.channels
        self.steps = nn.ModuleList(
            nn.Conv2d(coarser, finer, 3, padding=1) for finer, coarser in pairwise(channels)
        )
        self.last = nn.Conv2d(channels[0], 3 * self.block**2, 3, padding=1)

    def forward(self, features: Features) -> Tensor:
        assert features.images is not None
        *finer, x = features.maps
        for step, skip in zip(reversed(self.steps), reversed(finer)):
            upsampled = F.interpolate(
                step(x), skip.shape[-2:], mode="bilinear", align_corners=False
            )
            x = F.relu(skip + upsampled)
        blocks = F.pixel_shuffle(self.last(x), self.block)
        height, width = features.images.shape[-2:]
        # The blocks exceed the image if its size is not a multiple of the block.
        return resize_to(blocks, (height, width)).sigmoid()


@hookimpl
def mtl_components() -> list[type]:
    return [Inpainting]
