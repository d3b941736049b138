"""Jigsaw: encode the tiles of the image one by one, and classify their order among K fixed orders.

Noroozi, Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles",
arXiv:1603.09246: a context-free network, in which no tile sees another before the head. `puzzling`
differs: the encoder reads the whole shuffled image, and every order may occur.

The K orders are chosen greedily, each as far as possible from the previous ones: by the smallest
Hamming distance, then by the sum of distances (paper: by the mean). The first is the unshuffled
order. There is no randomness, so the orders are the same on every machine.

Against shortcuts, as in the paper:

- Each tile is cut at a random place of its cell (64 of 75 pixels there), which leaves gaps.
- Each tile gets the same mean and standard deviation.

Cost: grid * grid views, in one joint forward. At their own size they have about 0.7 of the clean
view's pixels, whatever the grid. With `enlarge = true` they cost one full forward per tile; this is
for encoders with a fixed input size (a ViT).

The paper cuts 3 x 3 tiles from 225 pixels and uses up to 1000 orders. A 48-pixel image would leave
14-pixel tiles, and 3 x 3 jigsaws hurt small networks on small images. So the default is 2 x 2 with
all of its 24 orders.

Shapes: B images, P = grid * grid tiles; target (B,) int64, the number of the order; logits (B, K).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations as all_orders
from math import factorial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from attrs import Attribute, evolve, field, frozen
from attrs.validators import in_
from torch import Tensor, nn

from mtl_pretexts._shared import GRAY, SURE, crop, empty_place
from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl

if TYPE_CHECKING:
    from torchmetrics import Metric

TILE = 64 / 75  # tile size as a share of the cell size
MOST = 1000  # permutations: the paper's largest set; the time to choose them grows with it
STD = 0.25  # of every tile, around gray


def _enough(task: JigsawPermutation, _: Attribute[int], value: int) -> None:
    most = min(factorial(task.grid**2), MOST)
    if not 2 <= value <= most:
        raise ValueError(f"permutations = {value} of grid = {task.grid}: expected 2 to {most}")


@frozen
class JigsawPermutation(PretextTask):
    """Classify the order of the image's tiles, one of K.

    grid: tiles along each side.
    permutations: number of orders, K, at most 1000 as in the paper.
    enlarge: resize tiles to the size of the image.
    """

    cites = "Noroozi, Favaro, ECCV 2016, arXiv:1603.09246"
    reads_mixed = True

    grid: int = field(default=2, validator=in_((2, 3)))
    permutations: int = field(default=24, validator=_enough)
    enlarge: bool = False

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Tensor]:
        """Return P views of one tile each, and the number (B,) of their order."""
        images = batch.clean.images
        number = rng.randint(self.permutations, len(images))
        known = orders(self.grid**2, self.permutations).to(number.device, non_blocking=True)
        order = known[number]
        return [self._tile(batch.clean, cell, rng) for cell in order.unbind(1)], number

    def _tile(self, clean: View, cell: Tensor, rng: Rng) -> View:
        """Cut a tile out of each sample's cell (B,), in reading order, at a random place."""
        height, width = clean.images.shape[-2:]
        cell_height, cell_width = height // self.grid, width // self.grid
        size = max(1, round(cell_height * TILE)), max(1, round(cell_width * TILE))
        places = cell_height - size[0] + 1, cell_width - size[1] + 1
        # One draw for both sides, scaled to the places of each.
        shift = rng.randint(max(places), len(cell), 2)
        down = shift[:, 0] * places[0] // max(places)
        across = shift[:, 1] * places[1] // max(places)
        top = cell // self.grid * cell_height + down
        left = cell % self.grid * cell_width + across
        tile = standardized(crop(clean.images, top, left, size))
        if self.enlarge:
            tile = F.interpolate(tile, (height, width), mode="bilinear", align_corners=False)
        # A tile is not a whole image: without a geometry no supervised head reads it.
        return evolve(clean, images=tile, geometry=None, mixed=None)

    def build(self, context: BuildContext) -> Head:
        return JigsawPermutationHead(context.info.dim, self.grid**2, self.permutations)

    def metrics(self) -> dict[str, Metric]:
        """accuracy: share of images with the right order (chance: 1 / K)."""
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(self.permutations, average="micro")}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """Draw the FIRST tile on stripes, at its place in the predicted order."""
        order = orders(self.grid**2, self.permutations).to(images.device)
        cell = order[output.argmax(1), 0]
        here = F.one_hot(cell, self.grid**2).bool()
        here = here.view(-1, 1, self.grid, self.grid)
        height, width = images.shape[-2:]
        mask = here.repeat_interleave(height, 2).repeat_interleave(width, 3)
        return torch.where(
            mask, images.repeat(1, 1, self.grid, self.grid), empty_place(mask.float())
        )


class JigsawPermutationHead(Head):
    """Logits (B, K) from the concatenated pooled features of all tiles."""

    def __init__(self, dim: int, tiles: int, choices: int) -> None:
        super().__init__()
        self.choices = choices
        self.answer = nn.Sequential(
            nn.Linear(tiles * dim, dim),
            nn.ReLU(),
            nn.Linear(dim, choices),
        )

    def forward(self, *tiles: Features) -> Tensor:
        return self.answer(torch.cat([tile.pooled for tile in tiles], 1))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target: Tensor) -> Tensor:
        """Return confident logits of the right order."""
        return SURE * F.one_hot(target, self.choices)


@lru_cache(maxsize=8)
def orders(tiles: int, number: int) -> Tensor:
    """(number, tiles) int64: permutations far from each other; the first is 0, 1, 2 ...

    Candidates rank by the smallest Hamming distance to the chosen ones, then by the sum of
    distances, then lexicographically. 1000 orders of 9 tiles take 1 to 2 seconds per process.
    """
    every = np.array(list(all_orders(range(tiles))), dtype=np.int8)
    every = every.T.copy()
    count = every.shape[1]
    nearest = np.full(count, tiles, np.int32)
    total = np.zeros(count, np.int32)
    chosen = [0]
    while len(chosen) < number:
        differs = every != every[:, chosen[-1], None]
        distance = differs.sum(0, dtype=np.int8)
        nearest = np.minimum(nearest, distance)
        total = total + distance
        # One number holds both criteria, since `total` never exceeds number * tiles.
        rank = nearest * (number * tiles + 1) + total
        chosen.append(int(rank.argmax()))
    return torch.from_numpy(every.T[chosen].astype(np.int64))


def standardized(tiles: Tensor) -> Tensor:
    """Give each tile (B, C, h, w) mean 0.5 and std `STD`, clamped to [0, 1].

    Otherwise brightness shows which tiles are neighbors.
    """
    mean = tiles.mean((1, 2, 3), keepdim=True)
    std = tiles.std((1, 2, 3), keepdim=True, correction=0)
    return (GRAY + STD * (tiles - mean) / std.clamp_min(1e-3)).clamp(0, 1)


@hookimpl
def mtl_components() -> list[type]:
    return [JigsawPermutation]
