"""Jigsaw: the tiles of an image are encoded one by one, in one of K fixed orders; which order is it?

Noroozi, Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", arXiv:1603.09246 (a
context-free network: no tile sees another before the head). `puzzling` differs: there the whole shuffled image is read, and
every order occurs.

The K orders are chosen greedily, each as far as can be from those before: first by the smallest Hamming distance, then by the
sum of all (the paper: by their mean). They begin with the unshuffled one and hold no chance: the same on every machine. Against
shortcuts, as in the paper: each tile is cut out of its cell at a random place (64 of 75 pixels there), which leaves gaps, and
its mean and spread are made equal to those of all other tiles.

What it costs: grid * grid views, which run as one joint forward. At their own size these are about 0.7 of the clean view's
pixels, whatever the grid; with `enlarge = true` as many forwards as tiles, for encoders that take one size alone (a ViT). The
paper cuts 3 x 3 tiles out of 225 pixels and takes up to 1000 orders. Of a 48-pixel image that leaves 14-pixel tiles, and 3 x
3 jigsaws are known to hurt small nets on small images: the default is 2 x 2, and all of its 24 orders.

Shapes: B images, P = grid * grid tiles; target (B,) int64, the number of the order; logits (B, K).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations as all_orders
from math import factorial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import Attribute, evolve, field, frozen
from attrs.validators import in_
from torch import Tensor, nn

from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl

TILE = 64 / 75  # of a cell's side
SPREAD = 0.25  # of every tile, about gray


def _enough(task: Any, _: Attribute[int], value: int) -> None:
    most = factorial(task.grid**2)
    if not 2 <= value <= most:
        raise ValueError(f"permutations = {value} of grid = {task.grid}: expected 2 to {most}")


@frozen
class JigsawPermutation(PretextTask):
    """Name the order in which the tiles of the image come, one of K.

    grid: tiles a side. permutations: how many orders there are, K. enlarge: tiles are read at the image's own side.
    """

    cites = "Noroozi, Favaro, ECCV 2016, arXiv:1603.09246"

    grid: int = field(default=2, validator=in_((2, 3)))
    permutations: int = field(default=24, validator=_enough)
    enlarge: bool = False

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Tensor]:
        """-> P views of one tile each, and which order they come in."""
        images = batch.clean.images
        answer = rng.randint(self.permutations, len(images))
        order = orders(self.grid**2, self.permutations).to(answer.device, non_blocking=True)[answer]
        return [self._tile(batch.clean, cell, rng) for cell in order.unbind(1)], answer

    def _tile(self, clean: View, cell: Tensor, rng: Rng) -> View:
        """Out of the cell (B,), in reading order, at a place of its own."""
        height, width = clean.images.shape[-2:]
        whole = min(height, width) // self.grid
        side = max(1, round(whole * TILE))
        moved = rng.randint(whole - side + 1, len(cell), 2)
        top, left = cell // self.grid * whole + moved[:, 0], cell % self.grid * whole + moved[:, 1]
        tile = levelled(crop(clean.images, top, left, side))
        if self.enlarge:
            tile = F.interpolate(tile, (height, width), mode="bilinear", align_corners=False)
        return evolve(clean, images=tile, geometry=None, mix=None)

    def build(self, context: BuildContext) -> Head:
        return JigsawPermutationHead(context.info.dim, self.grid**2, self.permutations)

    def metrics(self) -> dict[str, Any]:
        """accuracy: share of images whose order is named (chance: 1 / K)."""
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(self.permutations, average="micro")}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """The FIRST tile, in the place on a gray field that it has in the order that the answer names."""
        cell = orders(self.grid**2, self.permutations).to(images.device)[output.argmax(1), 0]
        here = F.one_hot(cell, self.grid**2).bool().view(-1, 1, self.grid, self.grid)
        n = images.shape[-1]
        mask = here.repeat_interleave(n, 2).repeat_interleave(n, 3)
        return torch.where(mask, images.repeat(1, 1, self.grid, self.grid), 0.5)


class JigsawPermutationHead(Head):
    """The pooled features of all tiles side by side -> (B, K) logits."""

    def __init__(self, dim: int, tiles: int, choices: int) -> None:
        super().__init__()
        self.choices = choices
        self.answer = nn.Sequential(nn.Linear(tiles * dim, dim), nn.ReLU(), nn.Linear(dim, choices))

    def forward(self, *tiles: Features) -> Tensor:
        return self.answer(torch.cat([tile.pooled for tile in tiles], 1))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target: Tensor) -> Tensor:
        """Logits that are sure of the right order."""
        return 20.0 * F.one_hot(target, self.choices)


@lru_cache(maxsize=8)
def orders(tiles: int, number: int) -> Tensor:
    """(number, tiles) int64: permutations far from each other, in Hamming distance; the first is 0, 1, 2 ...

    The smallest distance decides, then the sum of all, then the order of a dictionary.
    1000 of 9 tiles take one or two seconds, once a process.
    """
    every = np.array(list(all_orders(range(tiles))), dtype=np.int8).T.copy()
    nearest, total, chosen = (
        np.full(every.shape[1], tiles, np.int32),
        np.zeros(every.shape[1], np.int32),
        [0],
    )
    while len(chosen) < number:
        distance = (every != every[:, chosen[-1], None]).sum(0, dtype=np.int8)
        nearest, total = np.minimum(nearest, distance), total + distance
        chosen.append(int((nearest * (number * tiles + 1) + total).argmax()))
    return torch.from_numpy(every.T[chosen].astype(np.int64))


def crop(images: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side): of each sample the square whose first pixel is (top, left), each (B,)."""
    sample, channel = (torch.arange(n, device=images.device) for n in images.shape[:2])
    along = torch.arange(side, device=images.device)
    y, x = top[:, None] + along, left[:, None] + along
    return images[
        sample[:, None, None, None],
        channel[:, None, None],
        y[:, None, :, None],
        x[:, None, None, :],
    ]


def levelled(tiles: Tensor) -> Tensor:
    """Each tile about gray, with the spread of all others, so that brightness does not tell which tiles are neighbors."""
    mean = tiles.mean((1, 2, 3), keepdim=True)
    spread = tiles.std((1, 2, 3), keepdim=True, correction=0)
    return (0.5 + SPREAD * (tiles - mean) / spread.clamp_min(1e-3)).clamp(0, 1)


@hookimpl
def mtl_components() -> list[type]:
    return [JigsawPermutation]
