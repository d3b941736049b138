"""Barlow Twins: two views of an image must say the same, component by component, and no two components the same thing.

Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", arXiv:2103.03230, equations 1 and 2.

    C_ij = correlation over the batch of component i of view A with component j of view B
    loss = (1 / E) (sum_i (1 - C_ii)^2 + lambda sum_i sum_{j != i} C_ij^2)

Where we differ: the factor 1 / E, so that the loss is a mean over components as all losses here are, and a weight found at
one `width` holds at another; the projector is 512 wide, for a CPU's sake (paper: 8192); view A is the clean view, which is
encoded anyway where supervised heads read it, and view B the first further augmentation (paper: two augmentations of two kinds).

Shapes: B samples of all ranks together, D wide features, E = `width` components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor, nn

from mtlcore import (
    AugmentedBatch,
    BuildContext,
    Features,
    Head,
    MtlError,
    PretextTask,
    Rng,
    View,
    gather,
    hookimpl,
)

Pair = tuple[Tensor, Tensor]
TINY = 1e-5  # beside a variance, as in batch normalization


@frozen
class BarlowTwins(PretextTask):
    """Bring the cross-correlation of two views' embeddings to the identity, over the samples of all ranks.

    redundancy: the paper's lambda, the weight of each correlation off the diagonal. width: of the projector's three layers; wider
    is better in the paper, up to 8192. The loss begins at 1 or below.
    """

    cites = "Zbontar et al. 2021, arXiv:2103.03230"
    lacks: ClassVar[Mapping[str, str]] = {
        "single_sample": "components are correlated over the samples of a batch"
    }

    redundancy: float = field(default=5e-3, validator=ge(0.0))
    width: int = field(default=512, validator=ge(2))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], None]:
        """-> the clean view and another augmentation; what must be answered is in the pair itself."""
        return [batch.clean, batch.augment(1)], None

    def build(self, context: BuildContext) -> Head:
        return BarlowTwinsHead(context.info.dim, self)

    def metrics(self) -> dict[str, Any]:
        """invariance: mean C_ii, at best 1. overlap: root mean square of C_ij, i != j, at best 0. Over all samples together."""
        from torchmetrics import Metric

        e = self.width

        class Correlation(Metric):
            def __init__(self) -> None:
                super().__init__()
                shapes = {"samples": (), "a": (e,), "b": (e,), "aa": (e,), "bb": (e,), "ab": (e, e)}
                for name, shape in shapes.items():
                    self.add_state(name, torch.zeros(shape), "sum")

            def update(self, output: Pair, target: None) -> None:
                a, b = output
                for name, found in {"a": a, "b": b, "aa": a * a, "bb": b * b}.items():
                    setattr(self, name, getattr(self, name) + found.sum(0))
                self.ab += a.T @ b
                self.samples += len(a)

            def matrix(self) -> Tensor:
                a, b = self.a / self.samples, self.b / self.samples
                std = [
                    (s / self.samples - m * m + TINY).sqrt()
                    for s, m in ((self.aa, a), (self.bb, b))
                ]
                return (self.ab / self.samples - torch.outer(a, b)) / torch.outer(*std)

        class Invariance(Correlation):
            higher_is_better = True

            def compute(self) -> Tensor:
                return self.matrix().diagonal().mean()

        class Overlap(Correlation):
            higher_is_better = False

            def compute(self) -> Tensor:
                c = self.matrix()
                return ((c.square().sum() - c.diagonal().square().sum()) / (e * (e - 1))).sqrt()

        return {"invariance": Invariance(), "overlap": Overlap()}

    def draw(self, images: Tensor, target: None, output: Pair) -> Tensor:
        """In each place the image whose second view is nearest to this one's first: itself, where the two agree."""
        a, b = (F.normalize(z, dim=1) for z in output)
        return images[(a @ b.T).argmax(1)]


class BarlowTwinsHead(Head):
    """-> the embeddings (B, E) of both views, of all ranks' samples: so the projector's batch statistics are the whole batch's too."""

    coupled = True

    def __init__(self, dim: int, task: BarlowTwins) -> None:
        super().__init__()
        self.redundancy, e = task.redundancy, task.width
        self.project = nn.Sequential(
            *(nn.Linear(dim, e, bias=False), nn.BatchNorm1d(e), nn.ReLU()),
            *(nn.Linear(e, e, bias=False), nn.BatchNorm1d(e), nn.ReLU()),
            nn.Linear(e, e, bias=False),
        )

    def forward(self, a: Features, b: Features) -> Pair:
        first, second = gather(torch.stack([a.pooled, b.pooled], 1).float()).unbind(1)
        if self.training and len(first) < 2:
            raise MtlError(
                "barlow_twins correlates over samples and a micro-batch holds 1: raise input.batch_size"
            )
        return self.project(first), self.project(second)

    def loss(self, output: Pair, target: None) -> Tensor:
        c = cross_correlation(*output)
        agreement = (c.diagonal() - 1).square()
        others = c.square().sum(1) - c.diagonal().square()
        return (agreement + self.redundancy * others).mean()


def cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Embeddings (B, E) of two views -> (E, E): equation 2, on components brought to mean 0 and std 1 over the batch."""
    return standardized(a).T @ standardized(b) / len(a)


def standardized(z: Tensor) -> Tensor:
    """(B, E) -> mean 0 and std 1 in each component; a lone sample gives zeros."""
    z = z - z.mean(0)
    return z * (z.square().mean(0) + TINY).rsqrt()


@hookimpl
def mtl_components() -> list[type]:
    return [BarlowTwins]
