"""A right augmentation, and for each check of the kit one that fails this check only.

BROKEN: check -> class.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from attrs import evolve, frozen

from broken_plugins import Broken
from mtlcore import Augmentation, Bend, Geometry, View
from mtlcore.geometry import similarity, warp

BROKEN = Broken()


@frozen
class Right(Augmentation):
    """Mirror, turn, crop and contrast; darkened at the end."""

    def view(self, images, size, rng):
        u = rng.rand(4, len(images))
        geometry = self.geometry(images, size, u)
        moved = geometry.warp(images.float() / 255, "bilinear")
        return View(self.paint(moved, 0.6 + 0.4 * u[3][:, None, None, None]), geometry)

    def geometry(self, images, size, u):
        return Geometry.affine(self.matrix(images, size, u), size)

    def matrix(self, images, size, u):
        old = tuple(images.shape[-2:])
        return similarity((2 * u[0] - 1) * 0.3, 0.7 + 0.3 * u[1], u[2] < 0.5, old, size)

    def paint(self, images, contrast):
        return images * contrast

    def finish(self, images, rng):
        return images * (0.8 + 0.2 * rng.rand(len(images), 1, 1, 1))


@frozen
class Waves(Right):
    """A horizontal wave. No matrix describes it, and points follow its bend."""

    lacks: ClassVar[Mapping[str, str]] = {"affine": "a wave"}

    def geometry(self, images, size, u):
        wave = partial(waved, 2 + 2 * u[0][:, None])
        none = torch.zeros(len(images), dtype=torch.bool)
        eye = torch.eye(3).expand(len(images), 3, 3)
        waves = Geometry(eye, (partial(show_waved, wave),), bend=self.bend(wave, none))
        return waves.then(Geometry.resize(tuple(images.shape[-2:]), size, images))

    def bend(self, wave, samples):
        return Bend(wave, samples)


def waved(size_px, points):
    """(B, K, 2) -> the same points, moved to the right or to the left."""
    x, y = points.unbind(-1)
    return torch.stack([x + size_px * (y / 5).sin(), y], -1)


def show_waved(wave, maps, mode):
    """Move maps (B, C, h, w) as `wave` moves points."""
    height, width = maps.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    here = torch.stack([x, y], -1).flatten(0, 1).expand(len(maps), -1, -1)
    grid = (2 * here - wave(here)) * 2 / torch.tensor([width, height]) - 1
    grid = grid.unflatten(1, (height, width)).to(maps.dtype)
    return F.grid_sample(maps, grid, mode, padding_mode="reflection", align_corners=False)


@frozen
class Solarizes(Right):
    """The same. It inverts bright pixels."""

    def paint(self, images, contrast):
        images = images * contrast
        return torch.where(images < 0.5 * contrast, images, contrast - images)


@BROKEN.fails("view_has_its_shape")
@frozen
class IgnoresSize(Right):
    """Its view has the size of the raw image."""

    def view(self, images, size, rng):
        return super().view(images, tuple(images.shape[-2:]), rng)


@BROKEN.fails("view_stays_between_0_and_1")
@frozen
class LeavesTheRange(Right):
    """Its contrast leaves [0, 1]."""

    def paint(self, images, contrast):
        return 2 * images - 0.5


@BROKEN.fails("accepts_a_single_sample")
@frozen
class Squeezes(Right):
    """A batch of one loses its first dimension."""

    def paint(self, images, contrast):
        return images.squeeze()


@BROKEN.fails("accepts_images_that_are_not_square")
@frozen
class Squares(Right):
    """It uses the height as the width."""

    def view(self, images, size, rng):
        return super().view(images, (size[0], size[0]), rng)


@BROKEN.fails("leaves_its_inputs_unchanged")
@frozen
class DarkensInPlace(Right):
    """It edits images that others read."""

    def finish(self, images, rng):
        return images.mul_(0.8 + 0.2 * rng.rand(len(images), 1, 1, 1))


@BROKEN.fails("leaves_global_generators_alone")
@frozen
class DrawsGlobally(Right):
    """It makes an unused draw from torch's global generator."""

    def paint(self, images, contrast):
        torch.rand(1)
        return images * contrast


@BROKEN.fails("same_draws_same_view")
@frozen
class SeedsItself(Right):
    """It has its own generator."""

    def paint(self, images, contrast):
        generator = torch.Generator()
        generator.seed()
        return images * (0.9 + 0.1 * torch.rand(1, generator=generator))


@BROKEN.fails("accepts_channels_last")
@frozen
class ViewsItsInput(Right):
    """It expects contiguous memory."""

    def view(self, images, size, rng):
        return super().view(images.view(len(images), -1).view(images.shape), size, rng)


@BROKEN.fails("other_draws_other_view")
@frozen
class DrawsNothing(Right):
    """Its view is always the same, and it does not declare so."""

    def view(self, images, size, rng):
        geometry = Geometry.resize(tuple(images.shape[-2:]), size, images)
        return View(geometry.warp(images.float() / 255, "bilinear"), geometry)


@BROKEN.fails("view_of_a_sample_depends_on_it_alone")
@frozen
class BlendsTheBatch(Right):
    """All images are drawn towards the mean of the batch."""

    def paint(self, images, contrast):
        return 0.6 * images + 0.4 * images.mean()


@BROKEN.fails("class_maps_keep_their_classes")
@frozen
class InterpolatesClasses(Right):
    """Its geometry ignores the mode."""

    def geometry(self, images, size, u):
        matrix = self.matrix(images, size, u)
        return Geometry(matrix, (lambda maps, mode: warp(matrix, size, maps, "bilinear"),))


@BROKEN.fails("matrix_and_warp_agree")
@frozen
class OtherMatrix(Right):
    """Its matrix is off by three pixels."""

    def geometry(self, images, size, u):
        found = super().geometry(images, size, u)
        shift = torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        return Geometry(shift @ found.matrix, found.steps)


@BROKEN.fails("marked_pixels_keep_their_mask_and_point")
@frozen
class LosesPoints(Right):
    """Its geometry says that pixels were shuffled."""

    def geometry(self, images, size, u):
        return evolve(super().geometry(images, size, u), shuffled=True)


@BROKEN.fails("marked_pixels_keep_their_mask_and_point", also=True)
@frozen
class LeavesPointsBehind(Waves):
    """Its points follow its matrix, which describes no wave."""

    def bend(self, wave, samples):
        return None


@BROKEN.fails("marked_pixels_keep_their_mask_and_point", also=True)
@frozen
class ForgetsPoints(Waves):
    """It says that all points have left the image."""

    def bend(self, wave, samples):
        return Bend(lambda points: points * torch.nan, samples)


@BROKEN.fails("pixels_lie_where_the_geometry_says")
@frozen
class MirrorsWithoutGeometry(Right):
    """Its geometry omits a mirror."""

    def paint(self, images, contrast):
        return images.flip(-1) * contrast


@BROKEN.fails("pixels_lie_where_the_geometry_says", also=True)
@frozen
class SwapsTheZooms(Right):
    """Its images are zoomed along x as its geometry is along y. In squares, both are the same."""

    def view(self, images, size, rng):
        (old_h, old_w), (h, w) = images.shape[-2:], size
        swap = (h / old_h) / (w / old_w)
        zoom = torch.diag(torch.tensor([swap, 1 / swap, 1.0]))
        zoom[:2, 2] = torch.tensor([(1 - swap) * w / 2, (1 - 1 / swap) * h / 2])
        right = super().view(images, size, rng)
        wrong = Geometry.affine(zoom @ right.geometry.matrix, size)
        return evolve(right, images=wrong.warp(images.float() / 255, "bilinear"))


@BROKEN.fails("finish_keeps_shape_and_range")
@frozen
class FinishesTooBright(Right):
    """`finish` leaves [0, 1]."""

    def finish(self, images, rng):
        return images * 1.5


@BROKEN.fails("finish_keeps_pixels_in_place")
@frozen
class FinishesWithAMirror(Right):
    """Pixels move after the labels did."""

    def finish(self, images, rng):
        return images.flip(-1)


@BROKEN.fails("finished_sample_depends_on_itself_alone")
@frozen
class FinishesTowardsTheMean(Right):
    """All images are drawn towards the mean of the batch."""

    def finish(self, images, rng):
        return 0.6 * images + 0.4 * images.mean()
