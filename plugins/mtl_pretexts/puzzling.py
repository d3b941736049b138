"""Puzzling: shuffle the tiles of the whole image, and say which tile sits where.

Pourmirzaei et al. 2021, "Using Self-Supervised Auxiliary Tasks to Improve Fine-Grained Facial Representation", arXiv:2105.06421.
One uniform permutation an image; the encoder reads the reassembled image. It is NOT the index into a fixed set of permutations
of Noroozi and Favaro (2016), and tiles are not encoded one by one. Keeping a share of the images in order follows JiGen
(Carlucci et al. 2019, arXiv:1903.06864).

Shapes: B images, V views (one for each entry of `scales`), P = grid * grid positions, as many tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, in_, le, lt
from einops import rearrange
from torch import Tensor, nn

from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl

Answer = dict[str, Tensor]


def _rising(_: Any, __: Any, value: tuple[tuple[float, float], ...]) -> None:
    if not value or any(not 0 < low <= high <= 4 for low, high in value):
        raise ValueError(f"scales must be pairs 0 < low <= high <= 4, one a view: {value}")


@frozen
class Puzzling(PretextTask):
    """Name the tile at each position of the shuffled image.

    grid: tiles a side. head: "pooled", the paper's g*g softmaxes on the pooled features (ONE linear layer), or "spatial": each cell
    of the coarse map names its tile. scales: one view each, of a size drawn in this range times the input's (the Siamese variant
    has three). rotate: each tile is also turned by quarter turns, which must be named too. shuffled: share of the images that are
    shuffled; the others keep their order, which is a valid answer. dropout: before the pooled head's layer.
    """

    cites = "Pourmirzaei et al. 2021, arXiv:2105.06421"

    grid: int = field(default=3, validator=in_((2, 3, 4)))
    head: Literal["pooled", "spatial"] = "pooled"
    scales: tuple[tuple[float, float], ...] = field(default=((1.0, 1.0),), validator=_rising)
    rotate: bool = False
    shuffled: float = field(default=1.0, validator=and_(ge(0.0), le(1.0)))
    dropout: float = field(default=0.2, validator=and_(ge(0.0), lt(1.0)))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Answer]:
        """-> V views, {"tile": (B, V, P) which tile sits at each position, "turn": (B, V, P) its quarter turns}."""
        side, samples = batch.clean.images.shape[-1], len(batch.clean.images)
        views, answers = [], []
        for low, high in self.scales:
            answers.append(self._draw(rng, samples))
            views.append(
                self._puzzled(
                    batch.clean, rng.integer(round(side * low), round(side * high)), answers[-1]
                )
            )
        return views, {key: torch.stack([a[key] for a in answers], 1) for key in answers[0]}

    def _draw(self, rng: Rng, samples: int) -> Answer:
        p = self.grid**2
        kept = rng.rand(samples, 1) >= self.shuffled
        order = rng.permutations(samples, p)
        answer = {"tile": torch.where(kept, torch.arange(p, device=order.device), order)}
        return (
            answer | {"turn": rng.randint(4, samples, p).masked_fill(kept, 0)}
            if self.rotate
            else answer
        )

    def _puzzled(self, view: View, side: int, answer: Answer) -> View:
        """The grid must divide the side: where it does not, the image is resized there and back, as in the paper (225 -> 224)."""
        whole = -(-side // self.grid) * self.grid
        if view.images.shape[-1] != whole:
            view = view.resize((whole, whole))
        view = view.rearrange(partial(shuffle, answer["tile"], answer.get("turn")))
        return view if whole == side else view.resize((side, side))

    def undo(self, view: Tensor, target: Answer) -> Tensor | None:
        """The exact way back, (B, 3, H, W) of the FIRST view: for sides that the grid divides. None where that view was scaled."""
        if self.scales[0] != (1.0, 1.0):
            return None
        return unshuffle(target["tile"][:, 0], target["turn"][:, 0] if self.rotate else None, view)

    def build(self, context: BuildContext) -> Head:
        return PuzzlingHead(context.info.dim, context.info.channels[-1], self)

    def metrics(self) -> dict[str, Any]:
        """accuracy: share of positions whose tile is named rightly (chance: 1 / P)."""
        from torchmetrics.classification import MulticlassAccuracy

        class TileAccuracy(MulticlassAccuracy):
            def update(self, output: Answer, target: Answer) -> None:
                super().update(output["tile"], target["tile"])

        return {"accuracy": TileAccuracy(self.grid**2, average="micro")}

    def draw(self, images: Tensor, target: Answer, output: Answer) -> Tensor:
        """The FIRST view put together as the answer says: whole where it is right, gray where no tile was said to belong."""
        whole = -(-images.shape[-1] // self.grid) * self.grid
        if images.shape[-1] != whole:
            images = F.interpolate(images, (whole, whole), mode="bilinear", align_corners=False)
        turns = output["turn"][:, :, 0].argmax(1) if self.rotate else None
        return assemble(output["tile"][:, :, 0], turns, images)


class PuzzlingHead(Head):
    """-> {"tile": (B, P, V, P) logits over tiles for each position, "turn": (B, 4, V, P)}."""

    def __init__(self, dim: int, channels: int, task: Puzzling) -> None:
        super().__init__()
        self.grid, self.spatial = task.grid, task.head == "spatial"
        self.choices = {"tile": task.grid**2} | ({"turn": 4} if task.rotate else {})
        total = sum(self.choices.values())
        self.answer: nn.Module = (
            nn.Conv2d(channels, total, 1)
            if self.spatial
            else nn.Sequential(nn.Dropout(task.dropout), nn.Linear(dim, total * task.grid**2))
        )

    def forward(self, *views: Features) -> Answer:
        scores = torch.stack([self._scores(f) for f in views], 2)
        return dict(zip(self.choices, scores.split(list(self.choices.values()), 1)))

    def _scores(self, features: Features) -> Tensor:
        """-> (B, choices, P)."""
        if self.spatial:
            return F.adaptive_avg_pool2d(self.answer(features.maps[-1]), self.grid).flatten(2)
        return rearrange(self.answer(features.pooled), "b (c p) -> b c p", p=self.grid**2)

    def loss(self, output: Answer, target: Answer) -> Tensor:
        """Cross-entropy, a mean over positions and views; tiles and turns add up."""
        losses = [
            F.cross_entropy(output[key], target[key], reduction="none").mean((1, 2))
            for key in output
        ]
        return torch.stack(losses).sum(0)

    def ideal(self, target: Answer) -> Answer:
        """Logits that are sure of the right tile and turn."""
        return {
            k: 20.0 * F.one_hot(t, self.choices[k]).movedim(-1, 1).float()
            for k, t in target.items()
        }


def shuffle(order: Tensor, turns: Tensor | None, maps: Tensor) -> Tensor:
    """(B, C, H, W) -> the same shape: position p shows tile order[:, p] (B, P), turned by turns[:, p] quarter turns."""
    tiles = _cut(maps, order.shape[1])
    tiles = tiles.gather(1, _like(order, tiles))
    return _join(tiles if turns is None else _turn(tiles, turns))


def unshuffle(order: Tensor, turns: Tensor | None, maps: Tensor) -> Tensor:
    """The inverse of `shuffle`, bit for bit."""
    tiles = _cut(maps, order.shape[1])
    tiles = tiles if turns is None else _turn(tiles, -turns % 4)
    return _join(tiles.gather(1, _like(order.argsort(1), tiles)))


def assemble(scores: Tensor, turns: Tensor | None, maps: Tensor) -> Tensor:
    """Each position's tile goes where its best score says, turned back by turns (B, P); the surest one, where several go there.

    scores: (B, P tiles, P positions). maps: (B, C, H, W), the shuffled image. Places that no tile goes to are gray.
    """
    tiles = _cut(maps, scores.shape[1])
    tiles = tiles if turns is None else _turn(tiles, -turns % 4)
    named = F.one_hot(scores.argmax(1), scores.shape[1]).mT.bool()  # (B, tiles, positions)
    surest = scores.masked_fill(~named, -torch.inf).argmax(2)
    placed = tiles.gather(1, _like(surest, tiles))
    return _join(torch.where(_like(named.any(2), tiles), placed, 0.5))


def _cut(maps: Tensor, tiles: int) -> Tensor:
    side = round(tiles**0.5)
    return rearrange(maps, "b c (i h) (j w) -> b (i j) c h w", i=side, j=side)


def _join(tiles: Tensor) -> Tensor:
    return rearrange(tiles, "b (i j) c h w -> b c (i h) (j w)", i=round(tiles.shape[1] ** 0.5))


def _like(order: Tensor, tiles: Tensor) -> Tensor:
    return order[:, :, None, None, None].expand_as(tiles)


def _turn(tiles: Tensor, turns: Tensor) -> Tensor:
    """All four turns are made and one is chosen: no host read, no loop over samples. Tiles must be square."""
    every = torch.stack([tiles.rot90(k, (-2, -1)) for k in range(4)])
    return every.gather(0, turns[None, :, :, None, None, None].expand(1, *tiles.shape))[0]


@hookimpl
def mtl_components() -> list[type]:
    return [Puzzling]
