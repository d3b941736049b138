"""Barlow Twins: make two views agree in each component, and make the components independent.

Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
arXiv:2103.03230, equations 1 and 2.

    C_ij = correlation over the batch of component i of view A with component j of view B
    loss = (1 / E) (sum_i (1 - C_ii)^2 + lambda sum_i sum_{j != i} C_ij^2)

Differences from the paper:

- The factor 1 / E. The loss is a mean over components, like all losses here. The first term is at
  most about 1 for every `width`. The second one has E - 1 parts for each component, so
  `redundancy` weighs more in a wider projector, as in the paper.
- The projector is 512 wide instead of 8192, to be affordable on a CPU.
- View A is the clean view and view B is one further augmentation. The paper uses two augmentations
  of two kinds. The clean view costs nothing extra if a supervised head reads it.

Shapes: B samples of all ranks, features of width D, embeddings of E = `width` components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor, nn

from mtl_pretexts._shared import Pair, gather_pair, require_two_samples
from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl

if TYPE_CHECKING:
    from torchmetrics import Metric

EPSILON = 1e-5  # added to a variance, as in batch normalization


@frozen
class BarlowTwins(PretextTask):
    """Bring the cross-correlation of two views' embeddings to the identity, over all ranks.

    redundancy: the paper's lambda, the weight of each correlation off the diagonal.
    width: of the projector's three layers. The paper's results improve up to 8192.
    """

    cites = "Zbontar et al. 2021, arXiv:2103.03230"
    lacks: ClassVar[Mapping[str, str]] = {
        "single_sample": "components are correlated over the samples of a batch"
    }

    redundancy: float = field(default=5e-3, validator=and_(ge(0.0), le(1e6)))
    width: int = field(default=512, validator=and_(ge(2), le(2**16)))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], None]:
        """Return the clean view and one augmentation; the pair itself is the target."""
        return [batch.clean, batch.augment(1)], None

    def build(self, context: BuildContext) -> Head:
        return BarlowTwinsHead(context.info.dim, self)

    def metrics(self) -> dict[str, Metric]:
        """Metrics over all samples of an evaluation.

        invariance: mean C_ii, at best 1.
        overlap: root mean square of C_ij, i != j, at best 0.
        """
        from mtl_pretexts.correlation import Invariance, Overlap

        return {"invariance": Invariance(self.width), "overlap": Overlap(self.width)}

    def draw(self, images: Tensor, target: None, output: Pair) -> Tensor:
        """Show, for each image, the one with the nearest second view: itself if both agree."""
        a, b = (F.normalize(z, dim=1) for z in output)
        return images[(a @ b.T).argmax(1)]


class BarlowTwinsHead(Head):
    """Project both views to embeddings (B, E).

    Features are gathered from all ranks first, so batch statistics are those of the whole batch.
    """

    coupled = True

    def __init__(self, dim: int, task: BarlowTwins) -> None:
        super().__init__()
        self.redundancy = task.redundancy
        e = task.width
        self.project = nn.Sequential(
            *(nn.Linear(dim, e, bias=False), nn.BatchNorm1d(e), nn.ReLU()),
            *(nn.Linear(e, e, bias=False), nn.BatchNorm1d(e), nn.ReLU()),
            nn.Linear(e, e, bias=False),
        )

    def forward(self, a: Features, b: Features) -> Pair:
        first, second = gather_pair(a, b)
        if self.training:
            require_two_samples(len(first), "barlow_twins", "it correlates over samples")
        return self.project(first), self.project(second)

    def loss(self, output: Pair, target: None) -> Tensor:
        c = cross_correlation(*output)
        agreement = (c.diagonal() - 1).square()
        others = c.square().sum(1) - c.diagonal().square()
        return (agreement + self.redundancy * others).mean()


def cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Embeddings (B, E) of two views -> C (E, E), equation 2.

    Components are standardized over the batch first.
    """
    return standardized(a).T @ standardized(b) / len(a)


def standardized(z: Tensor) -> Tensor:
    """(B, E) -> mean 0 and std 1 in each component; a single sample gives zeros."""
    z = z - z.mean(0)
    return z * (z.square().mean(0) + EPSILON).rsqrt()


@hookimpl
def mtl_components() -> list[type]:
    return [BarlowTwins]
