"""How pixels moved, so that labels can follow.

Pixel coordinates: x to the right, y down. (0, 0) is the outer corner of the first pixel, so its
center is (0.5, 0.5). Matrices are homogeneous. They act on column vectors (x, y, 1) and map OLD to
NEW coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

Move = Callable[[Tensor], Tensor]
"""A movement of pixels: (B, C, H, W) -> (B, C, H', W')."""

Size = tuple[int, int]
"""Height and width, in pixels."""


@frozen(eq=False)
class Bend:
    """A movement that no matrix describes exactly: perspective, or an elastic one.

    points: (B, K, 2) -> (B, K, 2), in pixels, before -> after. NaN if a point left the image.
    samples: (B,) bool, True for samples of which rigid labels (pose) can't follow `matrix`.
    """

    points: Callable[[Tensor], Tensor]
    samples: Tensor


@frozen(eq=False)
class Geometry:
    """The movement from the pixels of the raw image to those of a view.

    matrix: (B, 3, 3) float, raw -> view. Rigid labels (pose, landmarks) follow it. A matrix cannot
    describe shuffled tiles; there it is the movement of the whole image before the shuffle.
    steps: functions (maps, interpolation mode) -> maps. Dense labels (masks) follow them, in order.
    shuffled: True if pixels were rearranged without a matrix. Points are then unknown (NaN).
    bend: how points move if the matrix is only an approximation. None: points follow the matrix.
    empty: True if a step shows places outside of the old image as 0. Maps are 0 there, too.
    """

    matrix: Tensor
    steps: tuple[Callable[[Tensor, str], Tensor], ...]
    shuffled: bool = False
    bend: Bend | None = None
    empty: bool = False

    @classmethod
    def identity(cls, images: Tensor) -> Geometry:
        """Return the movement that leaves all pixels of images (B, C, H, W) in their places."""
        eye = torch.eye(3, device=images.device)
        return cls(eye.expand(len(images), 3, 3), ())

    @classmethod
    def affine(cls, matrix: Tensor, size: Size) -> Geometry:
        """Return one warp by `matrix` (B, 3, 3) to images of `size` (h, w)."""
        return cls(matrix, (partial(warp, matrix, size),))

    @classmethod
    def resize(cls, old: Size, new: Size, like: Tensor) -> Geometry:
        """Return the scaling of whole images of size `old` (h, w) to `new`.

        like: (B, ...), any tensor with the batch size and the device of the result.
        """
        zoom_x = new[1] / old[1]
        zoom_y = new[0] / old[0]
        scaling = torch.tensor([[zoom_x, 0.0, 0.0], [0.0, zoom_y, 0.0], [0.0, 0.0, 1.0]])
        on_device = scaling.to(like.device, non_blocking=True)
        return cls.affine(on_device.expand(len(like), 3, 3), new)

    def then(self, later: Geometry) -> Geometry:
        """Return this movement followed by `later`."""
        return Geometry(
            later.matrix @ self.matrix,
            self.steps + later.steps,
            self.shuffled or later.shuffled,
            self._bend_then(later),
            self.empty or later.empty,
        )

    def moved(self, move: Move, matrix: Tensor | None = None) -> Geometry:
        """Return this movement followed by a rearrangement of pixels.

        matrix: (B, 3, 3) if each image moved as a whole, otherwise None.
        """
        total = self.matrix if matrix is None else matrix @ self.matrix
        shuffled = self.shuffled or matrix is None
        bend = self.bend
        if bend is not None and matrix is not None:
            bend = self._bend_then(Geometry(matrix, ()))
        steps = (*self.steps, lambda maps, _mode: move(maps))
        return Geometry(total, steps, shuffled, bend, self.empty)

    def warp(self, maps: Tensor, mode: str = "nearest") -> Tensor:
        """Move maps (B, C, H0, W0) or (B, H0, W0) of the raw image's size as its pixels moved.

        Integers and bool keep their dtype and their exact values: each pixel of the result is one
        pixel of `maps`, the nearest one, in both modes.

        mode: interpolation of floats, "nearest" for class maps, "bilinear" for images.
        """
        if maps.ndim == 3:
            return self.warp(maps[:, None], mode)[:, 0]
        if not maps.is_floating_point():
            return self._pick(maps)
        for step in self.steps:
            maps = step(maps, mode)
        return maps

    def points(self, points: Tensor) -> Tensor:
        """Move points (B, K, 2), x and y in pixels of the raw image, as its pixels moved.

        Unknown points stay NaN. All points become NaN if the geometry is `shuffled`. Points outside
        of the view keep their coordinates.
        """
        if self.shuffled:
            return torch.full_like(points, torch.nan)
        if self.bend is not None:
            return self.bend.points(points)
        matrix = self.matrix.to(points.dtype)
        return points @ matrix[:, :2, :2].mT + matrix[:, None, :2, 2]

    def _bend_then(self, later: Geometry) -> Bend | None:
        """Return the bend of this movement followed by `later`. None if both are matrices."""
        if self.bend is None and later.bend is None:
            return None
        bends = [geometry.bend.samples for geometry in (self, later) if geometry.bend is not None]
        samples = torch.stack(bends).any(0)
        return Bend(lambda points: later.points(self.points(points)), samples)

    def _pick(self, maps: Tensor) -> Tensor:
        """Move integer maps (B, C, H0, W0): move pixel positions, then read the values there."""
        # The steps move floats. Row and column numbers are exact as floats, large ids may not be.
        height, width = maps.shape[-2:]
        row = torch.arange(height, device=maps.device, dtype=torch.float32)
        column = torch.arange(width, device=maps.device, dtype=torch.float32)
        places = torch.stack(torch.meshgrid(row, column, indexing="ij"))
        if self.empty:  # a third map shows which places are outside of the old image
            places = torch.cat([places, torch.ones_like(places[:1])])
        places = places.expand(len(maps), -1, -1, -1).contiguous()
        for step in self.steps:
            places = step(places, "nearest")

        row, column, *inside = places.round().long().unbind(1)
        position = (row * width + column).flatten(1)[:, None]  # (B, 1, H W)
        picked = maps.flatten(2).gather(2, position.expand(-1, maps.shape[1], -1))
        picked = picked.unflatten(2, places.shape[-2:])
        return picked.masked_fill(inside[0][:, None] == 0, 0) if inside else picked


def warp(
    matrix: Tensor, size: Size, maps: Tensor, mode: str = "bilinear", padding: str = "reflection"
) -> Tensor:
    """Warp maps (B, C, H, W) by `matrix` (B, 3, 3), old -> new, to `size` (h, w).

    One interpolation.

    padding: what is outside of the old image: "reflection", "border" or "zeros".
    """
    h, w = size
    old_h, old_w = maps.shape[-2:]
    a, b, x0, c, d, y0, *_ = inverse_affine(matrix).flatten(1).unbind(1)

    # Centers of the new pixels. grid_sample expects old coordinates in [-1, 1], hence 2 / size.
    x = torch.arange(0.5, w, device=maps.device)
    y = torch.arange(0.5, h, device=maps.device)[:, None]
    unit_x = 2 / old_w
    unit_y = 2 / old_h
    along_x = torch.stack([a * unit_x, c * unit_y], 1)[:, :, None, None]
    along_y = torch.stack([b * unit_x, d * unit_y], 1)[:, :, None, None]
    origin = torch.stack([x0 * unit_x - 1, y0 * unit_y - 1], 1)[:, :, None, None]

    # One broadcast sum gives two planes, x and y. grid_sample reads this memory layout fastest: an
    # interleaved grid makes the whole warp 1.5 to 2 times slower.
    planes = along_x * x + (along_y * y + origin)
    grid = planes.permute(0, 2, 3, 1).to(maps.dtype)
    return F.grid_sample(maps, grid, mode, padding_mode=padding, align_corners=False)


def inverse_affine(matrix: Tensor) -> Tensor:
    """Return the inverses of affine matrices (B, 3, 3).

    The closed form needs no solver, so it causes no host sync on a GPU.
    """
    a, b, tx, c, d, ty, *_ = matrix.flatten(1).unbind(1)
    adjugate = torch.stack([d, -b, b * ty - d * tx, -c, a, c * tx - a * ty], 1)
    determinant = (a * d - b * c)[:, None]
    top = adjugate / determinant
    return torch.cat([top.view(-1, 2, 3), matrix[:, 2:]], 1)


def similarity(angle_rad: Tensor, scale: Tensor, flip: Tensor, old: Size, new: Size) -> Tensor:
    """Return (B, 3, 3), raw -> view: mirror, rotate about the center, crop the center.

    angle_rad: (B,) radians, counter-clockwise as seen on the screen.
    scale: (B,) in (0, 1], cropped share of the old height and width, which fills the new image.
    flip: (B,) bool, True to mirror left and right.
    old, new: sizes (h, w), in pixels.
    """
    sign = 1 - 2 * flip.to(angle_rad.dtype)
    cos = angle_rad.cos() / scale
    sin = angle_rad.sin() / scale
    zoom_x = new[1] / old[1]
    zoom_y = new[0] / old[0]

    # x' = a x + b y + tx, y' = c x + d y + ty. The screen's y axis points down, so the signs of
    # `sin` are opposite to those of a textbook rotation.
    a = cos * sign * zoom_x
    b = sin * zoom_x
    c = -sin * sign * zoom_y
    d = cos * zoom_y

    # The old center becomes the new center.
    center_x = old[1] / 2
    center_y = old[0] / 2
    tx = new[1] / 2 - a * center_x - b * center_y
    ty = new[0] / 2 - c * center_x - d * center_y
    zero = torch.zeros_like(a)
    one = torch.ones_like(a)
    return torch.stack([a, b, tx, c, d, ty, zero, zero, one], 1).view(-1, 3, 3)


def orthogonal(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Split a near-similarity (B, 3, 3) into its rotation and its mirroring.

    Returns (B, 2, 2), the nearest rotation, or rotation after a mirroring of x, and (B,) bool, True
    where the matrix mirrors.
    """
    a = matrix[:, :2, :2]
    determinant = a[:, 0, 0] * a[:, 1, 1] - a[:, 0, 1] * a[:, 1, 0]
    mirrors = determinant < 0
    sign = 1 - 2 * mirrors.to(a.dtype)

    # Average both estimates of cos and sin, then normalize: the scale cancels.
    cos = a[:, 0, 0] * sign + a[:, 1, 1]
    sin = a[:, 1, 0] * sign - a[:, 0, 1]
    norm = torch.hypot(cos, sin).clamp_min(1e-12)
    cos = cos / norm
    sin = sin / norm
    rotation = torch.stack([cos * sign, -sin, sin * sign, cos], -1)
    return rotation.view(-1, 2, 2), mirrors
