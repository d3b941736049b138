"""Checks that labels follow the pixels of a pretext's views.

Dense labels (masks, keypoint maps) follow `geometry.warp`, rigid labels (pose, landmarks) the
matrix. The checks paint blocks into the raw image, and look for them where the geometry puts them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...augment.levels import Weak
from ...contracts import View
from ...geometry import Geometry, inverse_affine
from ..kit import Group
from ..requirements import Skip, Unproven, require, require_shape
from ..subject import Drawn, coordinates
from .harness import PretextBatch, PretextSubject, raw, raw_size
from .views import REPEATABLE

# Turned, mirrored, and cut from the inside of the image: every pixel has exactly one origin.
MOVING = Weak(crop=(0.6, 0.69), contrast=(1.0, 1.0))

CHANGED = 0.02  # difference of a pixel that counts as a change
FEW = 0.002  # share of pixels that may disagree
CHANNELS = 5  # of a dense label: neither an image (3) nor a mask (1)
EDGE_PX = 2  # pixels at edges, which interpolation mixes
RIGID_PX = 0.5  # largest residual of a view that shows the image moved as a whole
OFF_PX = 0.25  # largest error of the matrix of such a view

GEOMETRY_CHECKS = Group()


@GEOMETRY_CHECKS.check(
    "views",
    why="supervised heads may read this view. Dense labels would belong to the wrong pixels.",
    mend="Use `repaint` for colors only, and `rearrange(move)` for pixels that move. A patch is "
    "View(images), without a geometry.",
    needs=REPEATABLE,
    core=True,
)
def pixels_lie_where_the_geometry_says(subject: PretextSubject, drawn: Drawn) -> None:
    """Other colors in the raw image change a view only at the places of geometry.warp."""
    images, marks = raw(drawn), _marks(drawn)
    painted = torch.where(marks, images + 128, images)
    batch = subject.batch(drawn, augmentation=MOVING)
    marked = subject.batch(drawn, images=painted, augmentation=MOVING)

    for located in _located(batch):
        i, view = located.number, located.view
        expected = located.geometry.warp(marks.float(), "bilinear")
        size, warped = tuple(view.images.shape[-2:]), tuple(expected.shape[-2:])
        require(warped == size, f"view {i} is {size}, its geometry makes {warped}")
        if view.mixed is not None:
            # MOVING mixes nothing, so the pretext did: its partners' pixels are there too.
            expected = torch.maximum(expected, expected[view.mixed.partner])

        around = 2 * EDGE_PX + 1
        untouched = F.max_pool2d(expected, around, 1, EDGE_PX) < 1e-3
        difference = (marked.views[i].images - view.images).abs()
        changed = difference.amax(1, keepdim=True) > CHANGED
        share = float((changed & untouched).float().mean())
        require(share <= FEW, f"view {i}: {share:.1%} of the pixels come from outside its geometry")


@GEOMETRY_CHECKS.check(
    "views",
    why="class maps, heat maps and images have more channels. All must move as the pixels did.",
    mend="Let `move` act on the last two dimensions only, for any number of channels.",
    needs="pixels_lie_where_the_geometry_says",
    core=True,
)
def dense_labels_follow_the_pixels(subject: PretextSubject, drawn: Drawn) -> None:
    """Maps of several channels move, by the nearest pixel, as a map of one channel does."""
    maps = torch.cat([_marks(drawn, f"marks {i}") for i in range(CHANNELS)], 1).float()
    for located in _located(subject.batch(drawn, augmentation=MOVING)):
        warp = located.geometry.warp
        together = warp(maps, "nearest")
        for channel, alone in enumerate(maps.split(1, 1)):
            expected = warp(alone, "bilinear")
            found = together[:, channel : channel + 1]
            differs = _inside(expected) & (found != expected.round())
            share = float(differs.float().mean())
            require(
                share <= FEW,
                f"view {located.number}: in channel {channel} of {CHANNELS}, {share:.1%} of the "
                "pixels are not where a map of one channel has them",
            )


@GEOMETRY_CHECKS.check(
    "views",
    why="head pose and landmarks must turn with the image. Otherwise they teach wrong angles.",
    mend="Pass `rearrange(move, matrix)` the (B, 3, 3) matrix from old to new pixels if the image "
    "moves as a whole.",
    needs="pixels_lie_where_the_geometry_says",
    core=True,
)
def rigid_labels_follow_the_image(subject: PretextSubject, drawn: Drawn) -> None:
    """If a view shows the image moved as a whole, its matrix describes that movement."""
    any_rigid = False
    for located in _located(subject.batch(drawn, augmentation=MOVING)):
        i, matrix = located.number, located.geometry.matrix
        require_shape(matrix, (drawn.samples, 3, 3), f"the matrix of view {i}")
        last_row = matrix.new_tensor([0.0, 0.0, 1.0]).expand(drawn.samples, 3)
        is_affine = torch.equal(matrix[:, 2], last_row)
        require(is_affine, f"view {i}: the matrix's last row is {matrix[0, 2].tolist()}")

        off = _off_px(located, raw_size(drawn))
        largest = float(off.max())
        within = bool((off < OFF_PX).all())
        require(within, f"view {i}: pixels are up to {largest:.1f} px from their matrix's places")
        any_rigid |= bool((off >= 0).any())
    if not any_rigid:
        raise Unproven("no view shows the image moved as a whole: parts move or disappear")


# ---------------------------------------------------------------------------------------- helpers


class _Located(NamedTuple):
    """A view whose pixels have a known origin."""

    number: int
    view: View
    geometry: Geometry


def _located(batch: PretextBatch) -> list[_Located]:
    found = [
        _Located(i, view, view.geometry)
        for i, view in enumerate(batch.views)
        if view.geometry is not None
    ]
    if not found:
        raise Skip("none of its views is a whole image")
    return found


def _inside(soft: Tensor) -> Tensor:
    """(B, C, H, W) bool: False near edges of a map, where interpolation may round either way."""
    around = 2 * EDGE_PX + 1
    highest = F.max_pool2d(soft, around, 1, EDGE_PX)
    lowest = -F.max_pool2d(-soft, around, 1, EDGE_PX)
    return highest - lowest < CHANGED


def _marks(drawn: Drawn, purpose: str = "marks") -> Tensor:
    """(B, 1, R, R) bool: about a third of the 5 x 5 blocks of the raw image."""
    blocks = drawn.rng(purpose).rand(drawn.samples, 1, 5, 5) < 0.33
    size = raw_size(drawn)
    return F.interpolate(blocks.float(), (size, size)).bool()


def _off_px(located: _Located, size: int) -> Tensor:
    """(B,) the largest error of the matrix in raw pixels; -1 if a sample did not move as a whole.

    size: of the raw image. The geometry warps a map of coordinates, which shows where each pixel
    comes from. A sample moved as a whole if an affine map fits these places.
    """
    images = located.view.images
    everywhere = coordinates(len(images), size, size).contiguous()
    warped = _inner(located.geometry.warp(everywhere, "bilinear"))
    origins = warped.flatten(2).mT.double()  # (B, pixels, 2)

    here = coordinates(1, *images.shape[-2:])[0].double()
    homogeneous = torch.cat([here, torch.ones_like(here[:1])])
    grid = _inner(homogeneous).flatten(1).T  # (pixels, 3)

    fit = grid @ torch.linalg.lstsq(grid.expand(len(origins), -1, -1), origins).solution
    rigid = (fit - origins).abs().amax((1, 2)) < RIGID_PX
    by_matrix = grid @ inverse_affine(located.geometry.matrix.double())[:, :2].mT
    return torch.where(rigid, (by_matrix - origins).abs().amax((1, 2)), -1.0)


def _inner(x: Tensor) -> Tensor:
    return x[..., EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX]
