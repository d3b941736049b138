"""Puzzling: shuffle the tiles of the whole image, and predict which tile is at each position.

Pourmirzaei et al. 2021, "Using Self-Supervised Auxiliary Tasks to Improve Fine-Grained Facial
Representation", arXiv:2105.06421. Each image gets a uniform random permutation, and the encoder
reads the reassembled image. The target is not an index into a fixed set of permutations as in
Noroozi and Favaro (2016), and tiles are not encoded one by one. Leaving a share of the images in
order follows JiGen (Carlucci et al. 2019, arXiv:1903.06864).

Shapes: B images, V views (one for each entry of `scales`), P = grid * grid positions and tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, in_, le, lt
from einops import rearrange
from torch import Tensor, nn

from mtl_pretexts._shared import SURE, empty_place, require_square, resize_to
from mtlcore import (
    AugmentedBatch,
    BuildContext,
    Features,
    Head,
    MtlError,
    PretextTask,
    Rng,
    View,
    hookimpl,
)

if TYPE_CHECKING:
    from torchmetrics import Metric

Scales = tuple[tuple[float, float], ...]
Target = dict[str, Tensor]
"""tile: (B, V, P) int64, the tile at each position. turn: (B, V, P) int64, its quarter turns."""
Output = dict[str, Tensor]
"""tile: logits (B, P tiles, V, P positions). turn: logits (B, 4, V, P)."""


def _pairs(_: object, __: Attribute[Scales], value: Scales) -> None:
    if not value or any(not 0 < low <= high <= 4 for low, high in value):
        raise ValueError(
            f"scales must be pairs [low, high] with 0 < low <= high <= 4, one per view; got {value}"
        )


@frozen
class Puzzling(PretextTask):
    """Predict the tile at each position of the shuffled image.

    grid: tiles along each side.
    head: "pooled", the paper's P softmaxes from the pooled features by one linear layer, or
    "spatial": each cell of the coarse map predicts its tile. That map needs a cell for each tile,
    also of the smallest view.
    scales: one view each. The size of the view is drawn from this range times the input size. The
    Siamese variant has three.
    rotate: also turn each tile by quarter turns, and predict them.
    shuffled: share of the images that are shuffled; the others keep their order, a valid target.
    dropout: before the layer of the pooled head.
    """

    cites = "Pourmirzaei et al. 2021, arXiv:2105.06421"
    reads_mixed = True

    grid: int = field(default=3, validator=in_((2, 3, 4)))
    head: Literal["pooled", "spatial"] = "pooled"
    scales: Scales = field(default=((1.0, 1.0),), validator=_pairs)
    rotate: bool = False
    shuffled: float = field(default=1.0, validator=and_(ge(0.0), le(1.0)))
    dropout: float = field(default=0.2, validator=and_(ge(0.0), lt(1.0)))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Target]:
        """Return V shuffled views, and which tile with which turn is at each position."""
        samples = len(batch.clean.images)
        height, width = batch.clean.images.shape[-2:]
        longer = max(height, width)
        views: list[View] = []
        targets: list[Target] = []
        for low, high in self.scales:
            target = self._draw(rng, samples)
            drawn = rng.integer(round(longer * low), round(longer * high))
            # Exact for the longer side, and for both sides of a square.
            size = (
                max(1, round(height * drawn / longer)),
                max(1, round(width * drawn / longer)),
            )
            views.append(self._puzzled(batch.clean, size, target))
            targets.append(target)
        stacked: Target = {}
        for key in targets[0]:
            stacked[key] = torch.stack([target[key] for target in targets], 1)
        return views, stacked

    def _draw(self, rng: Rng, samples: int) -> Target:
        """Draw the tile (B, P) at each position and its turn."""
        positions = self.grid**2
        in_order = rng.rand(samples, 1) >= self.shuffled
        order = rng.permutations(samples, positions)
        unshuffled = torch.arange(positions, device=order.device)
        target = {"tile": torch.where(in_order, unshuffled, order)}
        if self.rotate:
            target["turn"] = rng.randint(4, samples, positions).masked_fill(in_order, 0)
        return target

    def _puzzled(self, view: View, size: tuple[int, int], target: Target) -> View:
        """Return the shuffled view of this size (h, w).

        If the grid does not divide a side, the image is shuffled at the next multiple and resized
        afterwards, as in the paper (225 -> 224).
        """
        height, width = view.images.shape[-2:]
        if self.rotate:
            require_square(
                (height, width),
                "puzzling with rotate = true turns tiles by 90 degrees and",
                f"set input.size = {max(height, width)}, or rotate = false",
            )
        divisible = self._divisible(size)
        if (height, width) != divisible:
            view = view.resize(divisible)
        view = view.rearrange(partial(shuffle, target["tile"], target.get("turn")))
        return view if divisible == size else view.resize(size)

    def _divisible(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the next size (h, w) whose sides the grid divides."""
        height, width = size
        return -(-height // self.grid) * self.grid, -(-width // self.grid) * self.grid

    def undo(self, view: Tensor, target: Target) -> Tensor | None:
        """Unshuffle the FIRST view (B, 3, H, W), for sizes that the grid divides.

        None if that view was scaled.
        """
        if self.scales[0] != (1.0, 1.0):
            return None
        turns = target["turn"][:, 0] if self.rotate else None
        return unshuffle(target["tile"][:, 0], turns, view)

    def build(self, context: BuildContext) -> Head:
        """Return the head. Raises MtlError if a spatial head has fewer cells than tiles."""
        if self.head == "spatial":
            self._require_cells(context)
        return PuzzlingHead(context.info.dim, context.info.channels[-1], self)

    def _require_cells(self, context: BuildContext) -> None:
        smallest = min(low for low, _ in self.scales)
        height, width = (max(1, round(smallest * side)) for side in context.info.image_size)
        cells = _coarsest_cells(context, (height, width))
        if min(cells) < self.grid:
            raise MtlError(
                f'puzzling: head = "spatial" needs a cell for each of {self.grid} x {self.grid} '
                f"tiles; the coarsest map of the encoder has {cells[0]} x {cells[1]} cells for "
                f'images of {height} x {width} pixels; set head = "pooled", a smaller grid, or a '
                "larger input.size"
            )

    def metrics(self) -> dict[str, Metric]:
        """accuracy: share of positions with the right tile (chance: 1 / P)."""
        from torchmetrics.classification import MulticlassAccuracy

        class TileAccuracy(MulticlassAccuracy):
            def update(self, output: Output, target: Target) -> None:
                super().update(output["tile"], target["tile"])

        return {"accuracy": TileAccuracy(self.grid**2, average="micro")}

    def draw(self, images: Tensor, target: Target, output: Output) -> Tensor:
        """Assemble the FIRST view by the output: a right output restores the image.

        Places without a predicted tile are striped: plain gray is the color of a cutout.
        """
        height, width = images.shape[-2:]
        images = resize_to(images, self._divisible((height, width)))
        turns = output["turn"][:, :, 0].argmax(1) if self.rotate else None
        return assemble(output["tile"][:, :, 0], turns, images)


class PuzzlingHead(Head):
    """Logits of the tile, and with `rotate` of the turn, at each position of each view."""

    def __init__(self, dim: int, channels: int, task: Puzzling) -> None:
        super().__init__()
        self.grid = task.grid
        self.spatial = task.head == "spatial"
        self.choices = {"tile": task.grid**2}
        if task.rotate:
            self.choices["turn"] = 4
        total = sum(self.choices.values())
        self.answer: nn.Module
        if self.spatial:
            self.answer = nn.Conv2d(channels, total, 1)
        else:
            linear = nn.Linear(dim, total * task.grid**2)
            self.answer = nn.Sequential(nn.Dropout(task.dropout), linear)

    def forward(self, *views: Features) -> Output:
        scores = torch.stack([self._scores(view) for view in views], 2)
        sizes = list(self.choices.values())
        return dict(zip(self.choices, scores.split(sizes, 1)))

    def _scores(self, features: Features) -> Tensor:
        """(B, choices, P): the logits of all choices of one view."""
        if self.spatial:
            cells = self.answer(features.maps[-1])
            return F.adaptive_avg_pool2d(cells, self.grid).flatten(2)
        return rearrange(self.answer(features.pooled), "b (c p) -> b c p", p=self.grid**2)

    def loss(self, output: Output, target: Target) -> Tensor:
        """(B,): cross-entropy, a mean over positions and views, summed over tiles and turns."""
        losses: list[Tensor] = []
        for key in output:
            loss = F.cross_entropy(output[key], target[key], reduction="none")
            losses.append(loss.mean((1, 2)))
        return torch.stack(losses).sum(0)

    def ideal(self, target: Target) -> Output:
        """Return confident logits of the right tile and turn."""
        output: Output = {}
        for key, right in target.items():
            one_hot = F.one_hot(right, self.choices[key])
            output[key] = SURE * one_hot.movedim(-1, 1).float()
        return output


def shuffle(order: Tensor, turns: Tensor | None, maps: Tensor) -> Tensor:
    """Show tile order[:, p], turned by turns[:, p] quarter turns, at position p.

    order, turns: (B, P). maps: (B, C, H, W) -> the same shape.
    """
    tiles = _cut(maps, order.shape[1])
    tiles = tiles.gather(1, _like(order, tiles))
    if turns is not None:
        tiles = _turn(tiles, turns)
    return _join(tiles)


def unshuffle(order: Tensor, turns: Tensor | None, maps: Tensor) -> Tensor:
    """The inverse of `shuffle`, bit for bit."""
    tiles = _cut(maps, order.shape[1])
    if turns is not None:
        tiles = _turn(tiles, -turns % 4)
    # argsort inverts a permutation.
    return _join(tiles.gather(1, _like(order.argsort(1), tiles)))


def assemble(scores: Tensor, turns: Tensor | None, maps: Tensor) -> Tensor:
    """Move the tile at each position to its predicted place, and turn it back.

    If several positions predict the same place, the one with the best score gets it. A place that
    no position predicts is striped.

    scores: (B, P tiles, P positions). turns: (B, P). maps: (B, C, H, W), the shuffled image.
    """
    tiles = _cut(maps, scores.shape[1])
    if turns is not None:
        tiles = _turn(tiles, -turns % 4)
    predicted = F.one_hot(scores.argmax(1), scores.shape[1]).mT.bool()  # (B, tiles, positions)
    best = scores.masked_fill(~predicted, -torch.inf).argmax(2)
    placed = tiles.gather(1, _like(best, tiles))
    return _join(torch.where(_like(predicted.any(2), tiles), placed, empty_place(tiles)))


def _cut(maps: Tensor, tiles: int) -> Tensor:
    """(B, C, H, W) -> (B, tiles, C, h, w), in reading order."""
    grid = round(tiles**0.5)
    return rearrange(maps, "b c (i h) (j w) -> b (i j) c h w", i=grid, j=grid)


def _join(tiles: Tensor) -> Tensor:
    """The inverse of `_cut`."""
    grid = round(tiles.shape[1] ** 0.5)
    return rearrange(tiles, "b (i j) c h w -> b c (i h) (j w)", i=grid)


def _like(order: Tensor, tiles: Tensor) -> Tensor:
    """(B, P) -> the shape of tiles (B, P, C, h, w), without a copy."""
    return order[:, :, None, None, None].expand_as(tiles)


def _turn(tiles: Tensor, turns: Tensor) -> Tensor:
    """Turn square tiles (B, P, C, h, h) by turns (B, P) quarters."""
    # Make all four turns and select one: no sync with the host, no loop over samples.
    every = torch.stack([tiles.rot90(k, (-2, -1)) for k in range(4)])
    index = turns[None, :, :, None, None, None].expand(1, *tiles.shape)
    return every.gather(0, index)[0]


@torch.no_grad()
def _coarsest_cells(context: BuildContext, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the coarsest map for images of this size."""
    if size == context.info.image_size:
        return context.info.map_sizes[-1]
    encoder = context.encoder
    training = encoder.training
    features = encoder.eval()(torch.zeros(1, 3, *size))
    encoder.train(training)
    height, width = features.maps[-1].shape[-2:]
    return height, width


@hookimpl
def mtl_components() -> list[type]:
    return [Puzzling]
