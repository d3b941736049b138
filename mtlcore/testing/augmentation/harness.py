"""An augmentation on the harness: drawn images, its views of them, and where their pixels went."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...contracts import View
from ...rng import KeyedRng
from ..subject import Drawn, Subject

SIDES = (32, 40, 28)
"""Sides of views in pixels, one for each drawn seed in turn."""


class AugmentationSubject(Subject):
    """An augmentation on the harness."""

    def view(self, raw: Tensor, seed: int = 0, size: tuple[int, int] = (32, 32)) -> View:
        """Its view, drawn from this seed."""
        view: View = self.component.view(raw, size, KeyedRng((seed,))("view"))
        return view

    def drawn(self, drawn: Drawn) -> View:
        """Its view of drawn images, of a side that hangs on the seed."""
        side = SIDES[drawn.seed % len(SIDES)]
        return self.view(drawn.images(), drawn.seed, (side, side))

    def finished(self, images: Tensor, seed: int = 0) -> Tensor:
        finished: Tensor = self.component.finish(images, KeyedRng((seed,))("finish"))
        return finished


def marks(samples: int, size: int, seed: int) -> Tensor:
    """(samples, 3, size, size) uint8 gray blobs of a few pixels, others in each sample: they tell a place to a pixel or two."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(samples, 1, size, size, generator=generator)
    for _ in range(2):
        noise = F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="reflect"), 3, 1)
    blobs = noise / noise.flatten(1).std(1)[:, None, None, None]
    return (128 + 40 * blobs).clamp(32, 224).round().byte().expand(-1, 3, -1, -1).contiguous()


def expected(view: View, raw: Tensor) -> Tensor:
    """What the view must show, colors aside: the raw images moved as its geometry says, and mixed as it says."""
    assert view.geometry is not None
    moved = view.geometry.warp(raw.float() / 255, "bilinear")
    if view.mix is None:
        return moved
    partner, own = view.mix
    share = own[:, None, None, None]
    return moved * share + moved[partner] * (1 - share)


def alike(a: Tensor, b: Tensor) -> Tensor:
    """(B, 3, H, W) twice -> (B,): how well their brightness correlates, 0 ... 1; an inverted image is alike."""
    one, other = (rearrange(x.float().mean(1), "b h w -> b (h w)") for x in (a, b))
    return F.cosine_similarity(
        one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True), dim=1
    ).abs()


def displaced(images: Tensor) -> dict[str, Tensor]:
    """The same images where they are not: shifted by two pixels, mirrored, turned."""
    shifts = {
        f"shifted by {by} pixels along {axis}": (by, -2 + k)
        for k, axis in enumerate("yx")
        for by in (-2, 2)
    }
    moved = {name: images.roll(by, dims) for name, (by, dims) in shifts.items()}
    turned = {"turned by a half": images.rot90(2, (-2, -1)), "mirrored": images.flip(-1)}
    return (
        moved | turned | ({"transposed": images.mT} if images.shape[-1] == images.shape[-2] else {})
    )


def coordinates(samples: int, height: int, width: int) -> Tensor:
    """(samples, 2, H, W): x and y of each pixel's center."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y]).expand(samples, -1, -1, -1)
