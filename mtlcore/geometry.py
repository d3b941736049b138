"""How pixels moved, so that labels can follow.

Pixel coordinates: x to the right, y down, (0, 0) the outer corner of the first pixel, centers at +0.5.
Matrices act on column vectors (x, y, 1) and map OLD to NEW coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

Move = Callable[[Tensor], Tensor]


@frozen(eq=False)
class Geometry:
    """The way from the raw image's pixels to a view's.

    matrix: (B, 3, 3) float, raw -> view; rigid labels (pose, landmarks) follow it. No matrix can tell of shuffled tiles: it
        then says how the image as a whole was moved before.
    steps: what dense labels follow, in order: functions of (maps, interpolation mode).
    """

    matrix: Tensor
    steps: tuple[Callable[[Tensor, str], Tensor], ...]

    @classmethod
    def affine(cls, matrix: Tensor, size: tuple[int, int]) -> Geometry:
        """One warp by `matrix` (B, 3, 3) to an image of `size` (h, w)."""
        return cls(matrix, (partial(warp, matrix, size),))

    @classmethod
    def resize(cls, old: tuple[int, int], new: tuple[int, int], like: Tensor) -> Geometry:
        """Whole image of size `old` (h, w) scaled to `new`, for the samples and on the device of `like` (B, ...)."""
        samples = [[new[1] / old[1], 0.0, 0.0], [0.0, new[0] / old[0], 0.0], [0.0, 0.0, 1.0]]
        return cls.affine(
            torch.tensor(samples).to(like.device, non_blocking=True).expand(len(like), 3, 3), new
        )

    def then(self, later: Geometry) -> Geometry:
        """This movement, and `later` after it."""
        return Geometry(later.matrix @ self.matrix, self.steps + later.steps)

    def moved(self, move: Move, matrix: Tensor | None = None) -> Geometry:
        """This movement, and a rearrangement of pixels after it; `matrix` (B, 3, 3) where the whole image moved."""
        total = self.matrix if matrix is None else matrix @ self.matrix
        return Geometry(total, (*self.steps, lambda maps, _mode: move(maps)))

    def warp(self, maps: Tensor, mode: str = "nearest") -> Tensor:
        """Move anything of the raw image's shape (B, C, H0, W0), float, as the image was moved.

        mode: "nearest" for class maps, "bilinear" for images.
        """
        for step in self.steps:
            maps = step(maps, mode)
        return maps


def warp(matrix: Tensor, size: tuple[int, int], maps: Tensor, mode: str = "bilinear") -> Tensor:
    """Move `maps` (B, C, H, W) by `matrix` (B, 3, 3), old -> new, onto an image of `size` (h, w): one interpolation.

    Outside of the old image its mirror image is read. The grid is one broadcast sum, laid out as two planes (x, y):
    `grid_sample` reads those fastest (interleaved, the whole warp is 1.5-2 x dearer).
    """
    (h, w), (old_h, old_w) = size, maps.shape[-2:]
    a, b, x0, c, d, y0, *_ = inverse_affine(matrix).flatten(1).unbind(1)
    x = torch.arange(0.5, w, device=maps.device)
    y = torch.arange(0.5, h, device=maps.device)[:, None]
    along_x = torch.stack([a * (2 / old_w), c * (2 / old_h)], 1)[:, :, None, None]
    along_y = torch.stack([b * (2 / old_w), d * (2 / old_h)], 1)[:, :, None, None]
    origin = torch.stack([x0 * (2 / old_w) - 1, y0 * (2 / old_h) - 1], 1)[:, :, None, None]
    grid = (along_x * x + (along_y * y + origin)).permute(0, 2, 3, 1)
    return F.grid_sample(
        maps, grid.to(maps.dtype), mode, padding_mode="reflection", align_corners=False
    )


def inverse_affine(matrix: Tensor) -> Tensor:
    """(B, 3, 3) affine -> its inverse, in closed form: no solver, so no host sync on a GPU."""
    a, b, tx, c, d, ty, *_ = matrix.flatten(1).unbind(1)
    top = (
        torch.stack([d, -b, b * ty - d * tx, -c, a, c * tx - a * ty], 1) / (a * d - b * c)[:, None]
    )
    return torch.cat([top.view(-1, 2, 3), matrix[:, 2:]], 1)


def similarity(
    angle_rad: Tensor, scale: Tensor, flip: Tensor, old: tuple[int, int], new: tuple[int, int]
) -> Tensor:
    """(B, 3, 3), raw -> view: mirror, turn about the center, then show the central `scale` of each side.

    angle_rad: (B,), counter-clockwise as seen on the screen. scale: (B,) in (0, 1], the share of the old side that
    fills the new one. flip: (B,) bool. old, new: sizes (h, w).
    """
    sign = 1 - 2 * flip.to(angle_rad.dtype)
    cos, sin = angle_rad.cos() / scale, angle_rad.sin() / scale
    zoom_x, zoom_y = new[1] / old[1], new[0] / old[0]
    a, b = cos * sign * zoom_x, sin * zoom_x
    c, d = -sin * sign * zoom_y, cos * zoom_y
    tx = new[1] / 2 - a * (old[1] / 2) - b * (old[0] / 2)
    ty = new[0] / 2 - c * (old[1] / 2) - d * (old[0] / 2)
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack([a, b, tx, c, d, ty, zero, zero, one], 1).view(-1, 3, 3)


def orthogonal(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, 3) near-similarity -> its nearest turn, or turn after a mirror, (B, 2, 2); and whether it mirrors, (B,) bool."""
    a = matrix[:, :2, :2]
    mirrors = (a[:, 0, 0] * a[:, 1, 1] - a[:, 0, 1] * a[:, 1, 0]) < 0
    sign = 1 - 2 * mirrors.to(a.dtype)
    cos, sin = a[:, 0, 0] * sign + a[:, 1, 1], a[:, 1, 0] * sign - a[:, 0, 1]
    norm = torch.hypot(cos, sin).clamp_min(1e-12)
    cos, sin = cos / norm, sin / norm
    return torch.stack([cos * sign, -sin, sin * sign, cos], -1).view(-1, 2, 2), mirrors
