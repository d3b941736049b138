"""Which parts of each image an encoder reads, for pretexts that hide all others.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import Attribute, evolve, field, frozen
from torch import Tensor


def _valid(visible: Visible, _: Attribute[tuple[int, int]], grid: tuple[int, int]) -> None:
    """Check what the host knows without a sync: the grid, shape and dtype."""
    parts = visible.parts
    if not (isinstance(grid, tuple) and len(grid) == 2 and all(n > 0 for n in grid)):
        raise ValueError(f"Visible: grid = {grid!r}: expected (rows, columns)")
    most = grid[0] * grid[1]
    right = parts.ndim == 2 and parts.dtype == torch.int64 and 0 < parts.shape[1] <= most
    if not right:
        raise ValueError(
            f"Visible: parts are {tuple(parts.shape)} {parts.dtype}: expected (B, n) int64, "
            f"positions in the grid, n from 1 to {most}"
        )


@frozen(eq=False)
class Visible:
    """The visible parts of each image of a view. A part is a tile of a regular grid.

    It covers one cell of the encoder's coarse map, or several whole ones. Raises ValueError if
    `parts` has another shape or dtype.

    parts: (B, n) int64, distinct positions in the grid, counted row by row. n is the same for all
    images, so the host knows it without a sync.
    grid: number of rows and columns of the grid.
    """

    parts: Tensor
    grid: tuple[int, int] = field(validator=_valid)

    @property
    def share(self) -> float:
        """The visible share of each image, in (0, 1]."""
        rows, columns = self.grid
        return self.parts.shape[1] / (rows * columns)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Visible:
        """Return a copy with `fn` applied to its tensor."""
        return evolve(self, parts=fn(self.parts))

    def cells(self, size: tuple[int, int]) -> Tensor:
        """Return (B, m) int64, the visible cells of a feature map of `size` (h, w), part by part.

        Raises ValueError if a part does not cover whole cells.
        """
        rows, columns = self.grid
        if size[0] % rows or size[1] % columns:
            raise ValueError(
                f"a grid of {self.grid} parts on a map of {size} cells: "
                "expected whole cells in each part"
            )
        height, width = size[0] // rows, size[1] // columns  # of one part
        device = self.parts.device
        row = (self.parts // columns * height)[..., None, None]
        column = (self.parts % columns * width)[..., None, None]
        row = row + torch.arange(height, device=device)[:, None]
        column = column + torch.arange(width, device=device)
        return (row * size[1] + column).flatten(1)
