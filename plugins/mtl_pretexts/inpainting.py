"""In-painting: tiles of the image are painted gray, and must be restored from what is left.

Pourmirzaei et al. 2021, "Using Self-Supervised Auxiliary Tasks to Improve Fine-Grained Facial Representation", arXiv:2105.06421:
in-painting judged by a perceptual loss. Which tiles, decoder, judge and mix are not told there: they are ours (`docs/method.md`).
The context encoder is Pathak et al. 2016, "Context Encoders: Feature Learning by Inpainting", arXiv:1604.07379.

Shapes: B images (B, 3, H, W) in [0, 1], a mask (B, 1, H, W), true where an image is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from attrs import Attribute, field, frozen
from attrs.validators import and_, deep_iterable, ge, in_, lt
from einops import rearrange
from torch import Tensor, nn

from mtl_pretexts.perceptual import Judge, ema_judge, vgg16_judge
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


def _some_tiles(task: Any, _: Attribute[float], value: float) -> None:
    tiles = task.grid**2
    if not (0 < value < 1 and 0 < task.hidden < tiles):
        raise ValueError(
            f"ratio = {value:g} of grid = {task.grid} ({tiles} tiles): expected a share that hides 1 to {tiles - 1} of them"
        )


@frozen
class Inpainting(PretextTask):
    """Restore the hidden tiles.

    grid: tiles a side. ratio: the share of them that is painted gray, to the nearest whole number, any ones, drawn for each
    image.
    perceptual: who else judges the restored image beside the L1 of the missing pixels: "ema", a momentum copy of the encoder;
    "vgg16", torchvision's, from its cache, a download, or the file `vgg16_weights` (of "vgg16" alone); "none".
    layers: what the judge compares, 0 the finest: maps of the encoder, or relu1_2, relu2_2, relu3_3, relu4_3 of VGG16 (default:
    the three finest). mix: weight of the perceptual distance beside the L1. momentum: of the "ema" judge.
    """

    cites = "Pourmirzaei et al. 2021, arXiv:2105.06421; Pathak et al. 2016, arXiv:1604.07379"

    grid: int = field(default=3, validator=in_((2, 3, 4, 6, 8)))
    ratio: float = field(default=1 / 3, validator=_some_tiles)
    perceptual: Literal["ema", "vgg16", "none"] = "ema"
    vgg16_weights: Path | None = None
    layers: tuple[int, ...] = field(default=(), validator=deep_iterable(ge(0)))
    mix: float = field(default=0.3, validator=ge(0.0))
    momentum: float = field(default=0.99, validator=and_(ge(0.0), lt(1.0)))

    def __attrs_post_init__(self) -> None:
        if self.vgg16_weights is not None and self.perceptual != "vgg16":
            raise ValueError(
                f'vgg16_weights is given, but perceptual = "{self.perceptual}" does not read it'
            )
        if self.layers and self.perceptual == "none":
            raise ValueError('layers is given, but perceptual = "none" compares none')

    @property
    def hidden(self) -> int:
        """How many tiles are painted gray."""
        return round(self.ratio * self.grid**2)

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Question]:
        """-> the damaged image, {"image": the clean one, "hidden": (B, 1, H, W) bool}."""
        clean = batch.clean
        hidden = self._mask(
            rng.permutations(len(clean.images), self.grid**2) < self.hidden, clean.images
        )
        return [clean.repaint(clean.images.masked_fill(hidden, GRAY))], {
            "image": clean.images,
            "hidden": hidden,
        }

    def _mask(self, tiles: Tensor, images: Tensor) -> Tensor:
        """(B, grid * grid) bool -> (B, 1, H, W) bool. Where the grid does not divide the side, tiles differ by a pixel."""
        height, width = (
            torch.arange(n, device=images.device) * self.grid // n for n in images.shape[-2:]
        )
        return rearrange(tiles, "b (i j) -> b 1 i j", i=self.grid)[:, :, height[:, None], width]

    def permute(self, target: Question, order: Tensor) -> Question:
        """What is hidden is the question; only the image is the answer."""
        return target | {"image": target["image"][order]}

    def undo(self, view: Tensor, target: Question) -> Tensor:
        """The missing pixels put back; all others are the view's own, bit for bit."""
        return torch.where(target["hidden"], target["image"], view)

    def build(self, context: BuildContext) -> Head:
        return InpaintingHead(context.info, self._judge(context), self.mix)

    def _judge(self, context: BuildContext) -> Judge | None:
        if self.perceptual == "none" or not self.mix:
            return None
        if self.perceptual == "ema":
            return ema_judge(context, self.layers, self.momentum)
        return vgg16_judge(self.layers, str(self.vgg16_weights or ""))

    def metrics(self) -> dict[str, Any]:
        """l1: of the missing pixels. over_mean: it, as a share of the L1 of the visible pixels' mean color; lower is better."""
        from torchmetrics import Metric

        class MissingPixels(Metric):
            higher_is_better = False

            def __init__(self) -> None:
                super().__init__()
                for name in ("error", "of_mean", "samples"):
                    self.add_state(name, torch.zeros(()), "sum")

            def update(self, output: Tensor, target: Question) -> None:
                self.error += missing_l1(output, target).sum()
                self.of_mean += missing_l1(mean_color(target), target).sum()
                self.samples += len(output)

        class L1(MissingPixels):
            def compute(self) -> Tensor:
                return self.error / self.samples

        class OverMean(MissingPixels):
            def compute(self) -> Tensor:
                return self.error / self.of_mean

        return {"l1": L1(), "over_mean": OverMean()}

    def draw(self, images: Tensor, target: Question, output: Tensor) -> Tensor:
        """The clean image, with the answer in the hidden places."""
        return torch.where(target["hidden"], output, target["image"])


class InpaintingHead(Head):
    """-> the whole image (B, 3, H, W) in [0, 1]; only its missing pixels are judged."""

    def __init__(self, info: EncoderInfo, judge: Judge | None, mix: float) -> None:
        super().__init__()
        self.decoder, self.judge, self.mix = Decoder(info), judge, mix

    def forward(self, features: Features) -> Tensor:
        return self.decoder(features)

    def loss(self, output: Tensor, target: Question) -> Tensor:
        """The L1 of the missing pixels, and `mix` times the perceptual distance of the restored image."""
        pixels = missing_l1(output, target)
        if self.judge is None:
            return pixels
        return pixels + self.mix * self.judge(
            torch.where(target["hidden"], output, target["image"]), target["image"]
        )

    def ideal(self, target: Question) -> Tensor:
        """The clean image."""
        return target["image"]


class Decoder(nn.Module):
    """From the coarse map upwards: a 3 x 3 convolution at each map's size, enlarged and added to the next finer one.

    It is light on purpose: what it can't do, the encoder must. Convolutions run BEFORE each enlargement, and the last one makes
    whole blocks of pixels (sub-pixel convolution, Shi et al. 2016). All maps are read: the finer ones carry edges across.
    """

    def __init__(self, info: EncoderInfo) -> None:
        super().__init__()
        self.block = -(-info.image_size // info.map_sizes[0][0])
        channels = info.channels
        self.steps = nn.ModuleList(
            nn.Conv2d(c, finer, 3, padding=1) for finer, c in pairwise(channels)
        )
        self.last = nn.Conv2d(channels[0], 3 * self.block**2, 3, padding=1)

    def forward(self, features: Features) -> Tensor:
        assert features.images is not None
        *finer, x = features.maps
        for step, skip in zip(reversed(self.steps), reversed(finer)):
            x = F.relu(
                skip + F.interpolate(step(x), skip.shape[-2:], mode="bilinear", align_corners=False)
            )
        x, size = F.pixel_shuffle(self.last(x), self.block), features.images.shape[-2:]
        return (
            x
            if x.shape[-2:] == size
            else F.interpolate(x, size, mode="bilinear", align_corners=False)
        ).sigmoid()


def missing_l1(output: Tensor, target: Question) -> Tensor:
    """(B,): mean |output - clean| over the hidden pixels and the colors of each image."""
    hidden = target["hidden"]
    error = ((output - target["image"]).abs() * hidden).sum((1, 2, 3))
    return error / (3 * hidden.sum((1, 2, 3))).clamp_min(1)


def mean_color(target: Question) -> Tensor:
    """(B, 3, 1, 1): of the visible pixels, what a blind guess would fill in."""
    seen = ~target["hidden"]
    return (target["image"] * seen).sum((2, 3), keepdim=True) / seen.sum(
        (2, 3), keepdim=True
    ).clamp_min(1)


@hookimpl
def mtl_components() -> list[type]:
    return [Inpainting]
