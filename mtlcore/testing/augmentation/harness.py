"""The harness of an augmentation: drawn images, their views, and where the pixels went."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...contracts import Augmentation, View
from ...geometry import Geometry, Size
from ...rng import KeyedRng
from ..requirements import require
from ..subject import Drawn, Subject, patterns

SIZES = (32, 40, 28)
"""Sizes of views in pixels. The drawn seed selects one."""
WIDER = 8
"""Pixels by which the sides of a rectangle differ, of a raw image and of a view."""


class AugmentationSubject(Subject[Augmentation]):
    """An augmentation in the harness."""

    def view(self, raw: Tensor, seed: int = 0, size: tuple[int, int] = (32, 32)) -> View:
        """Its view with the draws of this seed."""
        return self.component.view(raw, size, KeyedRng((seed,))("view"))

    def drawn(self, drawn: Drawn) -> View:
        """Its view of drawn images, of a size that depends on the seed."""
        size = SIZES[drawn.seed % len(SIZES)]
        return self.view(drawn.images(), drawn.seed, (size, size))

    def frames(self, drawn: Drawn) -> tuple[Size, Size]:
        """(h, w) of raw images, and of their view.

        With even seeds they are rectangles, one wide and one high, unless it lacks "any_shape".
        """
        raw, view = drawn.size, SIZES[drawn.seed % len(SIZES)]
        if drawn.seed % 2 or "any_shape" in self.lacks:
            return (raw, raw), (view, view)
        if drawn.seed % 4:
            return (raw + WIDER, raw), (view - WIDER, view)
        return (raw, raw + WIDER), (view, view - WIDER)

    def framed(self, drawn: Drawn) -> tuple[Tensor, View]:
        """Drawn raw images of these sizes (B, 3, H0, W0) uint8, and their view."""
        (height, width), size = self.frames(drawn)
        square = patterns(drawn.samples, max(height, width), drawn.seed)
        raw = square[..., :height, :width].contiguous()
        return raw, self.view(raw, drawn.seed, size)

    def finished(self, images: Tensor, seed: int = 0) -> Tensor:
        return self.component.finish(images, KeyedRng((seed,))("finish"))


def geometry_of(view: View) -> Geometry:
    """The view's geometry, which `view_has_its_shape` requires."""
    assert view.geometry is not None
    return view.geometry


def marks(samples: int, size: Size, seed: int) -> Tensor:
    """(samples, 3, h, w) uint8 gray blobs of a few pixels, which show shifts of a pixel."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(samples, 1, *size, generator=generator)
    for _ in range(2):
        padded = F.pad(noise, (1, 1, 1, 1), mode="reflect")
        noise = F.avg_pool2d(padded, 3, 1)
    blobs = noise / noise.flatten(1).std(1)[:, None, None, None]
    gray = (128 + 40 * blobs).clamp(32, 224).round().byte()
    return gray.expand(-1, 3, -1, -1).contiguous()


def expected_images(view: View, raw: Tensor) -> Tensor:
    """The raw images, moved and mixed as the view declares; the view shows them, in any colors."""
    moved = geometry_of(view).warp(raw.float() / 255, "bilinear")
    if view.mixed is None:
        return moved
    other = moved[view.mixed.partner]
    if view.mixed.region is not None:
        return torch.where(view.mixed.region, other, moved)
    share = view.mixed.share[:, None, None, None]
    return moved * share + other * (1 - share)


def require_in_place(images: Tensor, wanted: Tensor, least: float) -> None:
    """(B, 3, H, W): each image correlates by `least` with its place, and less with any other."""
    here = correlation(images, wanted)
    lowest = float(here.min())
    require(lowest > least, f"an image correlates by only {lowest:.2f} with what it should show")
    for name, moved in displaced(wanted).items():
        better = correlation(images, moved) > here
        require(not bool(better.any()), f"it looks more like the image {name}")


def correlation(images: Tensor, wanted: Tensor) -> Tensor:
    """(B, 3, H, W) twice -> (B,) in [0, 1]: how well a curve of `wanted` gives the brightness.

    The curve is the best quadratic one for each image: inverted and solarized images fit, too.
    """
    shown, x = (rearrange(y.double().mean(1), "b h w -> b (h w)") for y in (images, wanted))
    shown, x = (y - y.mean(1, keepdim=True) for y in (shown, x))
    x = x / x.std(1, keepdim=True).clamp_min(1e-6)
    curves = torch.stack([x, x.square() - x.square().mean(1, keepdim=True)], 2)
    orthonormal, _ = torch.linalg.qr(curves)
    fitted = (orthonormal.mT @ shown[:, :, None]).norm(dim=(1, 2))
    return fitted / shown.norm(dim=1).clamp_min(1e-6)


def displaced(images: Tensor) -> dict[str, Tensor]:
    """The same images in wrong places: shifted by two pixels, mirrored, turned."""
    found = {}
    for axis, dim in (("y", -2), ("x", -1)):
        for by in (-2, 2):
            found[f"shifted by {by} pixels along {axis}"] = images.roll(by, dim)
    found["turned by 180 degrees"] = images.rot90(2, (-2, -1))
    found["mirrored"] = images.flip(-1)
    if images.shape[-1] == images.shape[-2]:
        found["transposed"] = images.mT
    return found
