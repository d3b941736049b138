"""Toy scenes with class maps, depth, normals and points, and toy tasks that read them.

An image is dark, with bright shapes. Its class map is 1 where the image is bright. Its points lie
in the middle of colored spots. So an image shows where its labels must be.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn
from torchmetrics import MeanMetric

from mtlcore import (
    AlignedTask,
    Dataset,
    Head,
    Index,
    MapColumn,
    PointColumn,
    Sample,
    hookimpl,
    orthogonal,
)
from mtlcore.augment.levels import Weak

DARK, BRIGHT = 20, 235
SPOT_PX = 2.0


@frozen(eq=False)
class Scenes(Dataset):
    """Bright shapes on a dark image of (h, w) pixels, or spots if `spots`.

    every: each how many samples have maps and points; the others have an annotation alone.
    """

    n: int = 24
    size: tuple[int, int] = (40, 64)
    spots: bool = False
    every: int = 1
    broken: frozenset[int] = frozenset()

    def index(self) -> Index:
        samples = np.arange(self.n)
        has = samples % self.every == 0
        return Index(
            samples.astype(str),
            {"kind": np.array(["a", "b"])[samples % 2]},
            split=np.where(samples % 4 == 3, "test", "train"),
            maps={
                "classes": MapColumn(has, "uint16"),
                "depth": MapColumn(has, "float64"),
                "normals": MapColumn(has, "float32", 3),
            },
            points={"corners": PointColumn(has, 3)},
        )

    def decode(self, index: Index, i: int) -> Sample:
        if self.spots:
            points = spots_of(i, self.size)
            image = with_spots(points, self.size)
            classes = np.zeros(self.size, dtype=np.uint16)
        else:
            classes = shapes(i, self.size)
            image = np.where(classes[..., None] > 0, BRIGHT, DARK).astype(np.uint8).repeat(3, 2)
            points = spots_of(i, self.size)
        if not index.maps["classes"].present[i]:
            return Sample(image)
        if i in self.broken:
            classes = classes[:-1]
        y, x = np.mgrid[: self.size[0], : self.size[1]] + 0.5
        depth = classes + x / 100 + y / 10
        normals = np.zeros((*self.size, 3), dtype=np.float32)
        normals[..., 0] = classes
        normals[..., 2] = 1 - classes
        maps = {"classes": classes, "depth": depth, "normals": normals}
        return Sample(image, maps, {"corners": points})


def shapes(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Return (h, w) uint16: 1 in some of 5 x 5 blocks, without symmetry."""
    blocks = np.random.default_rng(seed).random((5, 5)) < 0.45
    rows = np.arange(size[0]) * 5 // size[0]
    columns = np.arange(size[1]) * 5 // size[1]
    return blocks[rows[:, None], columns].astype(np.uint16)


def spots_of(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Return (3, 2) points in the middle of the image."""
    unit = np.random.default_rng(1000 + seed).uniform(0.38, 0.62, (3, 2))
    return unit * [size[1], size[0]]


def with_spots(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (h, w, 3) uint8: a spot of its own color at each of three points."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    image = np.zeros((*size, 3))
    for channel, (px, py) in enumerate(points):
        distance = (x - px) ** 2 + (y - py) ** 2
        image[..., channel] = 200 * np.exp(-distance / (2 * SPOT_PX**2))
    return image.round().astype(np.uint8)


def middles(images: Tensor) -> Tensor:
    """Return (B, 3, 2), the middle of the spot in each channel of (B, 3, H, W)."""
    peak = images.amax((2, 3), keepdim=True)
    weight = (images - peak / 2).clamp_min(0)
    x = torch.arange(images.shape[-1]) + 0.5
    y = torch.arange(images.shape[-2]) + 0.5
    total = weight.sum((2, 3))
    along_x = (weight.sum(2) * x).sum(-1) / total
    along_y = (weight.sum(3) * y).sum(-1) / total
    return torch.stack([along_x, along_y], -1)


# ------------------------------------------------------------ augmentations that mix


@frozen
class CutMixed(Weak):
    """A box of another sample, and all of it around."""

    mixes = True
    contrast: tuple[float, float] = (1.0, 1.0)

    def view(self, images, size, rng):
        view = super().view(images, size, rng)
        partner = rng.permutations(1, len(images))[0]
        height, width = size
        region = torch.zeros(len(images), 1, height, width, dtype=torch.bool)
        region[..., height // 4 : height // 2 + 3, width // 5 : width // 2 + 4] = True
        return view.mix(partner, region=region)


@frozen
class MixedUp(Weak):
    """A quarter of another sample, blended into each."""

    mixes = True
    contrast: tuple[float, float] = (1.0, 1.0)

    def view(self, images, size, rng):
        view = super().view(images, size, rng)
        partner = rng.permutations(1, len(images))[0]
        return view.mix(partner, share=torch.full((len(images),), 0.75))


# ------------------------------------------------------------ tasks


class Dense(Head):
    """A linear answer for each pixel, from the coarsest map."""

    def __init__(self, context, channels):
        super().__init__()
        self.answer = nn.Conv2d(context.info.channels[-1], channels, 1)

    def forward(self, features):
        return F.interpolate(
            self.answer(features.maps[-1]), features.images.shape[-2:], mode="bilinear"
        )


class ClassesHead(Dense):
    def loss(self, output, target):
        return F.cross_entropy(output, target.long(), reduction="none").mean((1, 2))


class FloatsHead(Dense):
    def loss(self, output, target):
        return (output - target).square().mean((1, 2, 3))


class CornersHead(Head):
    def __init__(self, context):
        super().__init__()
        self.answer = nn.Linear(context.info.dim, 6)

    def forward(self, features):
        height, width = features.images.shape[-2:]
        size = torch.tensor([width, height], device=features.images.device)
        return self.answer(features.pooled).sigmoid().unflatten(1, (3, 2)) * size

    def loss(self, output, target):
        known = torch.where(target.isnan(), output, target)
        return ((output - known) / 32).square().mean((1, 2))


class Error(MeanMetric):
    """The mean of |decoded - target|, over what is known."""

    higher_is_better = False

    def update(self, decoded, target):
        super().update((decoded - target).abs()[~target.isnan()])


@frozen
class Classes(AlignedTask):
    """A class for each pixel."""

    reads = "classes"

    def move(self, target, geometry):
        return geometry.warp(target)

    def build(self, context):
        return ClassesHead(context, 2)

    def decode(self, output):
        return output.argmax(1)

    def metrics(self):
        return {"error": Error()}


@frozen
class Depth(AlignedTask):
    """A number for each pixel, which does not change when the image turns."""

    reads = "depth"

    def move(self, target, geometry):
        return geometry.warp(target, "bilinear")

    def build(self, context):
        return FloatsHead(context, 1)

    def metrics(self):
        return {"error": Error()}


@frozen
class Normals(AlignedTask):
    """A direction for each pixel, which turns with the image; none once it was shuffled."""

    reads = "normals"

    def move(self, target, geometry):
        rotation, _ = orthogonal(geometry.matrix)
        moved = geometry.warp(target)
        turned = torch.einsum("bij,bjhw->bihw", rotation, moved[:, :2])
        share = torch.full((len(target),), float(not geometry.shuffled), device=target.device)
        return torch.cat([turned, moved[:, 2:]], 1), share

    def build(self, context):
        return FloatsHead(context, 3)

    def metrics(self):
        return {"error": Error()}


@frozen
class Corners(AlignedTask):
    """Three points."""

    reads = "corners"

    def move(self, target, geometry):
        moved = geometry.points(target)
        return moved, (~moved.isnan().all((1, 2))).float()

    def build(self, context):
        return CornersHead(context)

    def metrics(self):
        return {"error_px": Error()}


TASKS = {"classes": Classes(), "depth": Depth(), "normals": Normals(), "corners": Corners()}


@hookimpl
def mtl_components():
    return [Scenes, Classes, Depth, Normals, Corners, CutMixed, MixedUp]
