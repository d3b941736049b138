"""How pixels moved, so that labels can follow.

Pixel coordinates: x to the right, y down, (0, 0) the outer corner of the first pixel, centres at +0.5.
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

    matrix: (B, 3, 3) float, raw -> view; rigid labels (pose, landmarks) follow it. After tiles were shuffled no matrix can
        tell the whole story: it then describes how the head as a whole was moved before.
    steps: what dense labels follow, in order: functions of (maps, interpolation mode).
    """

    matrix: Tensor
    steps: tuple[Callable[[Tensor, str], Tensor], ...]

    @classmethod
    def affine(cls, matrix: Tensor, size: tuple[int, int]) -> Geometry:
        """One warp by `matrix` (B, 3, 3) to a picture of `size` (h, w)."""
        return cls(matrix, (partial(warp, matrix, size),))

    @classmethod
    def resize(cls, old: tuple[int, int], new: tuple[int, int], like: Tensor) -> Geometry:
        """Whole picture of size `old` (h, w) scaled to `new`, for the samples and on the device of `like` (B, ...)."""
        rows = [[new[1] / old[1], 0.0, 0.0], [0.0, new[0] / old[0], 0.0], [0.0, 0.0, 1.0]]
        return cls.affine(torch.tensor(rows).to(like.device, non_blocking=True).expand(len(like), 3, 3), new)

    def then(self, later: Geometry) -> Geometry:
        """This movement, and `later` after it."""
        return Geometry(later.matrix @ self.matrix, self.steps + later.steps)

    def moved(self, move: Move, matrix: Tensor | None = None) -> Geometry:
        """This movement, and a rearrangement of pixels after it; `matrix` (B, 3, 3) where it moved the picture as a whole."""
        total = self.matrix if matrix is None else matrix @ self.matrix
        return Geometry(total, (*self.steps, lambda maps, mode: move(maps)))

    def warp(self, maps: Tensor, mode: str = "nearest") -> Tensor:
        """Move anything of the raw image's shape (B, C, H0, W0), float, as the image was moved.

        mode: "nearest" for class maps, "bilinear" for pictures.
        """
        for step in self.steps:
            maps = step(maps, mode)
        return maps


def warp(matrix: Tensor, size: tuple[int, int], maps: Tensor, mode: str = "bilinear") -> Tensor:
    """Move `maps` (B, C, H, W) by `matrix` (B, 3, 3), old -> new, onto a picture of `size` (h, w): one interpolation.

    Outside of the old picture its mirror image is read. The grid is broadcast, not built by `affine_grid` (3 x dearer).
    """
    (h, w), (old_h, old_w) = size, maps.shape[-2:]
    inverse = inverse_affine(matrix)
    x = torch.arange(w, device=maps.device) + 0.5
    y = torch.arange(h, device=maps.device) + 0.5
    m = inverse[:, :, :, None, None]
    old_x = m[:, 0, 0] * x + m[:, 0, 1] * y[:, None] + m[:, 0, 2]
    old_y = m[:, 1, 0] * x + m[:, 1, 1] * y[:, None] + m[:, 1, 2]
    grid = torch.stack([old_x * (2 / old_w) - 1, old_y * (2 / old_h) - 1], -1)
    return F.grid_sample(maps, grid.to(maps.dtype), mode, padding_mode="reflection", align_corners=False)


def inverse_affine(matrix: Tensor) -> Tensor:
    """(B, 3, 3) affine -> its inverse, in closed form: no solver, so no host sync on a GPU."""
    a, b, c, d = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1]
    tx, ty = matrix[:, 0, 2], matrix[:, 1, 2]
    det = a * d - b * c
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    rows = [d, -b, b * ty - d * tx, -c, a, c * tx - a * ty, zero, zero, one]
    return (torch.stack(rows, -1) / torch.stack([det] * 6 + [one] * 3, -1)).view(-1, 3, 3)


def similarity(
    angle_rad: Tensor, scale: Tensor, flip: Tensor, old: tuple[int, int], new: tuple[int, int]
) -> Tensor:
    """(B, 3, 3), raw -> view: mirror, turn about the centre, then show the central `scale` of each side.

    angle_rad: (B,), counter-clockwise as seen on the screen. scale: (B,) in (0, 1]: the share of the old side that fills
    the new one. flip: (B,) bool. old, new: sizes (h, w).
    """
    device = angle_rad.device
    sign = 1 - 2 * flip.to(angle_rad.dtype)
    cos, sin = angle_rad.cos(), angle_rad.sin()
    zoom_x, zoom_y = new[1] / old[1] / scale, new[0] / old[0] / scale
    m = torch.zeros(len(angle_rad), 3, 3, device=device)
    m[:, 0, 0], m[:, 0, 1] = zoom_x * cos * sign, zoom_x * sin
    m[:, 1, 0], m[:, 1, 1] = zoom_y * -sin * sign, zoom_y * cos
    m[:, 0, 2] = new[1] / 2 - m[:, 0, 0] * (old[1] / 2) - m[:, 0, 1] * (old[0] / 2)
    m[:, 1, 2] = new[0] / 2 - m[:, 1, 0] * (old[1] / 2) - m[:, 1, 1] * (old[0] / 2)
    m[:, 2, 2] = 1
    return m


def orthogonal(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, 3) near-similarity -> its nearest in-plane rotation, or rotation after a mirror, (B, 2, 2); and whether it mirrors (B,)."""
    a = matrix[:, :2, :2]
    mirrors = (a[:, 0, 0] * a[:, 1, 1] - a[:, 0, 1] * a[:, 1, 0]) < 0
    sign = 1 - 2 * mirrors.to(a.dtype)
    cos, sin = a[:, 0, 0] * sign + a[:, 1, 1], a[:, 1, 0] * sign - a[:, 0, 1]
    norm = torch.hypot(cos, sin).clamp_min(1e-12)
    cos, sin = cos / norm, sin / norm
    return torch.stack([cos * sign, -sin, sin * sign, cos], -1).view(-1, 2, 2), mirrors
