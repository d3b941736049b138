"""A right augmentation, and for each check of the kit one that fails this check only.

BROKEN: check -> class.
"""

from __future__ import annotations

import torch
from attrs import evolve, frozen

from broken_plugins import Broken
from mtlcore import Augmentation, Geometry, View
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


@BROKEN.fails("pixels_lie_where_the_geometry_says")
@frozen
class MirrorsWithoutGeometry(Right):
    """Its geometry omits a mirror."""

    def paint(self, images, contrast):
        return images.flip(-1) * contrast


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
