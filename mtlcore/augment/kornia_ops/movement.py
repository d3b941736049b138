"""Where an operation of kornia moves pixels, as a `Geometry`.

kornia's pixel coordinates have (0, 0) at the CENTER of the first pixel, ours at its outer corner.

Shapes: B samples, K points, (h, w) pixels of the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...geometry import Bend, Geometry, Size
from ...rng import to_device

Params = dict[str, Any]

_COARSE = 24  # cells of the coarse search, in each direction
_NEWTON_STEPS = 8
_FOUND_PX = 0.25  # a point is lost if no place of the new image shows one nearer to it


def matrix_of(module: Any, params: Params, samples: int, size: Size) -> Tensor:
    """Return kornia's matrix (B, 3, 3), old -> new, in our coordinates, on the CPU."""
    # It reads the shape of the images alone.
    images = torch.empty(()).expand(samples, 3, *size)
    found: Tensor = module.generate_transformation_matrix(images, params, module.flags)
    return _shifted(found.float().expand(samples, 3, 3))


def _shifted(matrix: Tensor) -> Tensor:
    """Convert matrices (B, 3, 3) from centers of pixels to their outer corners."""
    shift = torch.eye(3)
    shift[:2, 2] = 0.5
    back = torch.eye(3)
    back[:2, 2] = -0.5
    return shift @ matrix @ back


def perspective(homography: Tensor, size: Size, step: Displaced, device: torch.device) -> Geometry:
    """Return the movement by `homography` (B, 3, 3), old -> new, on the CPU.

    Its matrix is the affine map that is nearest at the center of the image: rigid labels follow
    it. Points follow the homography itself.

    size: (h, w) of the old image. device: of the result.
    """
    matrix = to_device(tangent(homography, size), device)
    exact = to_device(homography, device)
    bent = torch.zeros(len(homography), dtype=torch.bool, device=device)
    bend = Bend(lambda points: _projected(exact, points), bent)
    return Geometry(matrix, (step,), bend=bend, empty=True)


def tangent(homography: Tensor, size: Size) -> Tensor:
    """Return the affine matrices (B, 3, 3) nearest to homographies at the center of an image."""
    center = torch.tensor([size[1] / 2, size[0] / 2, 1.0])
    image = homography @ center  # (B, 3)
    depth = image[:, 2, None]
    place = image[:, :2] / depth  # (B, 2)
    bottom = homography[:, None, 2, :2]
    linear = (homography[:, :2, :2] - place[:, :, None] * bottom) / depth[:, :, None]
    offset = place - linear @ center[:2]
    matrix = torch.eye(3).repeat(len(homography), 1, 1)
    matrix[:, :2] = torch.cat([linear, offset[:, :, None]], 2)
    return matrix


def _projected(homography: Tensor, points: Tensor) -> Tensor:
    """Move points (B, K, 2) by homographies (B, 3, 3)."""
    matrix = homography.to(points.dtype)
    moved = points @ matrix[:, :2, :2].mT + matrix[:, None, :2, 2]
    depth = points @ matrix[:, 2, :2, None] + matrix[:, None, 2, 2:]
    return moved / depth


def elastic(step: Displaced, moved: Tensor) -> Geometry:
    """Return a movement without a matrix. moved: (B,) bool, True for samples that it changes."""
    eye = torch.eye(3, device=moved.device).expand(len(moved), 3, 3)
    return Geometry(eye, (step,), bend=Bend(step.points, moved), empty=True)


class Displaced:
    """A movement, given by the place in the old image that each new pixel shows.

    kornia's own operation moves a map of coordinates to find these places. This happens when a
    label first needs it.
    """

    def __init__(self, move: Callable[[Tensor], Tensor], size: Size) -> None:
        self.move = move
        self.size = size
        self._places: tuple[Tensor, Tensor] | None = None

    def places(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, 2, h, w), x and y of the shown centers, and (B, 1, h, w) bool, if inside.

        like: (B, ...), any tensor on the device.
        """
        if self._places is None:
            height, width = self.size
            y = torch.arange(height, device=like.device, dtype=torch.float32)
            x = torch.arange(width, device=like.device, dtype=torch.float32)
            row, column = torch.meshgrid(y, x, indexing="ij")
            coordinates = torch.stack([column, row, torch.ones_like(row)])
            moved = self.move(coordinates.expand(len(like), -1, -1, -1).contiguous())
            weight = moved[:, 2:]
            inside = weight > 0.5
            # Where the border mixes with zeros outside, the weight is below 1.
            self._places = (moved[:, :2] / weight.clamp_min(0.5), inside)
        return self._places

    def __call__(self, maps: Tensor, mode: str) -> Tensor:
        """Move maps (B, C, h, w). Places outside of the old image are 0."""
        places, inside = self.places(maps)
        grid = _to_grid(places, self.size).to(maps.dtype)
        moved = F.grid_sample(maps, grid, mode, padding_mode="border", align_corners=False)
        return moved * inside

    def points(self, points: Tensor) -> Tensor:
        """Move points (B, K, 2) by Newton's method. Those that left the image become NaN."""
        places, inside = self.places(points)
        wanted = points.to(places.dtype) - 0.5
        now = self._nearest(places, inside, wanted.nan_to_num())
        for _ in range(_NEWTON_STEPS):
            error = wanted - self._at(places, now)
            now = now + _solved(self._slope(places, now), error)

        error = (wanted - self._at(places, now)).norm(dim=2)
        x, y = now.unbind(2)
        height, width = self.size
        shown = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        found = (error < _FOUND_PX) & shown
        return torch.where(found[:, :, None], now + 0.5, torch.nan).to(points.dtype)

    def _nearest(self, places: Tensor, inside: Tensor, wanted: Tensor) -> Tensor:
        """Return (B, K, 2): of a coarse grid, the new pixel that shows the nearest place."""
        height, width = self.size
        rows = _every(height, places.device)
        columns = _every(width, places.device)
        shown = places[:, :, rows][:, :, :, columns].flatten(2).mT  # (B, cells, 2)
        outside = ~inside[:, 0, rows][:, :, columns].flatten(1)
        distance = torch.cdist(wanted, shown).masked_fill(outside[:, None], torch.inf)
        cell = distance.argmin(2)
        row = rows[cell // len(columns)]
        column = columns[cell % len(columns)]
        return torch.stack([column, row], 2).float()

    def _at(self, places: Tensor, at: Tensor) -> Tensor:
        """Return (B, K, 2): the places that the new image shows at (B, K, 2)."""
        grid = _normalized(at, self.size)[:, :, None]
        sampled = F.grid_sample(places, grid, padding_mode="border", align_corners=False)
        return sampled[..., 0].mT

    def _slope(self, places: Tensor, at: Tensor) -> Tensor:
        """Return (B, K, 2, 2): how fast the shown place changes along x and along y."""
        columns = []
        for direction in torch.eye(2, device=at.device) * 0.5:
            columns.append(self._at(places, at + direction) - self._at(places, at - direction))
        return torch.stack(columns, 3)


def _every(length: int, device: torch.device) -> Tensor:
    """Return at most _COARSE indices, equally spaced."""
    step = max(1, length // _COARSE)
    return torch.arange(step // 2, length, step, device=device)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve (B, K, 2, 2) x = (B, K, 2), at most 4 pixels far. The closed form needs no sync."""
    a, b, c, d = matrix.flatten(2).unbind(2)
    x, y = right.unbind(2)
    determinant = a * d - b * c
    small = determinant.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(determinant), determinant)
    solved = torch.stack([(d * x - b * y) / safe, (a * y - c * x) / safe], 2)
    return torch.where(small[:, :, None], right, solved).clamp(-4.0, 4.0)


def _to_grid(places: Tensor, size: Size) -> Tensor:
    """Convert (B, 2, h, w) centers of pixels to the grid of `grid_sample`."""
    return _normalized(places.permute(0, 2, 3, 1), size)


def _normalized(places: Tensor, size: Size) -> Tensor:
    """Convert (..., 2) x and y, centers at whole numbers, to [-1, 1]."""
    x, y = places.unbind(-1)
    return torch.stack([(2 * x + 1) / size[1] - 1, (2 * y + 1) / size[0] - 1], -1)


def applied(params: Params) -> Tensor:
    """Return (B,) bool on the CPU: the samples that an operation changes."""
    chosen: Tensor = params["batch_prob"] > 0.5
    return chosen


def is_affine(module: nn.Module) -> bool:
    """Return whether it moves each image by an affine matrix."""
    return is_affine_class(type(module))


def is_affine_class(cls: type) -> bool:
    """Return whether its objects move each image by an affine matrix."""
    from kornia.augmentation import GeometricAugmentationBase2D, RandomPerspective

    is_geometric = issubclass(cls, GeometricAugmentationBase2D)
    return is_geometric and not issubclass(cls, RandomPerspective)
