"""SimCLR: find an image's other view among the views of all images of the batch.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
arXiv:2002.05709, NT-Xent, equation 1, averaged over the 2 B pairs (i, j) of a view and its other
view:

    l(i, j) = -log( exp(cos(z_i, z_j) / t) / sum_{k != i} exp(cos(z_i, z_k) / t) )

Differences from the paper: the first view is the clean view, which costs nothing extra if a
supervised head reads it; the second is one further augmentation. How much the views differ depends
on the run's augmentation. The paper's crops and colors are stronger than `strong`.

Shapes: B samples of all ranks, features of width D, embeddings of width E = `width`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor, nn

from mtl_pretexts._shared import Pair, gather_pair, require_two_samples
from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl

if TYPE_CHECKING:
    from torchmetrics import Metric


@frozen
class Simclr(PretextTask):
    """Identify the other view of an image among 2 (B - 1) views of other images, over all ranks.

    The loss of a random guess is log(2 B - 1).

    temperature: of the softmax. The paper's best is 0.1 (0.5 on CIFAR-10 with small batches).
    width: of the embedding. The projector's hidden layer is as wide as the features, as in the
    paper.
    """

    cites = "Chen et al. 2020, arXiv:2002.05709"
    lacks: ClassVar[Mapping[str, str]] = {
        "single_sample": "an image is distinguished from the others of its batch"
    }

    temperature: float = field(default=0.1, validator=and_(ge(1e-3), le(1000.0)))
    width: int = field(default=128, validator=and_(ge(2), le(2**16)))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], None]:
        """Return the clean view and one augmentation; the pair itself is the target."""
        return [batch.clean, batch.augment(1)], None

    def build(self, context: BuildContext) -> Head:
        return SimclrHead(context.info.dim, self)

    def metrics(self) -> dict[str, Metric]:
        """Mean cosines of first and second views.

        pairs: of the same image, at best 1.
        strangers: of two different images. A value near `pairs` means collapse.
        """
        from torchmetrics import Metric

        e = self.width

        class Cosines(Metric):
            """Sums over samples: the mean over all pairs follows without storing embeddings."""

            samples: Tensor
            same: Tensor
            a: Tensor
            b: Tensor

            def __init__(self) -> None:
                super().__init__()
                for name in ("samples", "same"):
                    self.add_state(name, torch.zeros(()), "sum")
                for name in ("a", "b"):
                    self.add_state(name, torch.zeros(e), "sum")

            def update(self, output: Pair, target: None) -> None:
                a, b = (F.normalize(z, dim=1) for z in output)
                self.same += (a * b).sum()
                self.a += a.sum(0)
                self.b += b.sum(0)
                self.samples += len(a)

        class Pairs(Cosines):
            higher_is_better = True

            def compute(self) -> Tensor:
                return self.same / self.samples

        class Strangers(Cosines):
            higher_is_better = False

            def compute(self) -> Tensor:
                # All B * B pairs of a first and a second view, less those of one image.
                strangers = self.a @ self.b - self.same
                pairs = self.samples * (self.samples - 1)
                return strangers / pairs.clamp_min(1)

        return {"pairs": Pairs(), "strangers": Strangers()}

    def draw(self, images: Tensor, target: None, output: Pair) -> Tensor:
        """Show, for each image, the one with the nearest second view: itself if it is found."""
        a, b = (F.normalize(z, dim=1) for z in output)
        return images[(a @ b.T).argmax(1)]


class SimclrHead(Head):
    """Project both views to embeddings (B, E).

    Features are gathered from all ranks first, so all samples of the step are negatives.
    """

    coupled = True

    def __init__(self, dim: int, task: Simclr) -> None:
        super().__init__()
        self.temperature = task.temperature
        self.project = nn.Sequential(
            *(nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU()),
            *(nn.Linear(dim, task.width, bias=False), nn.BatchNorm1d(task.width)),
        )

    def forward(self, a: Features, b: Features) -> Pair:
        first, second = gather_pair(a, b)
        if self.training:
            require_two_samples(len(first), "simclr", "it contrasts samples with each other")
        return self.project(first), self.project(second)

    def loss(self, output: Pair, target: None) -> Tensor:
        return nt_xent(*output, self.temperature)


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Embeddings (B, E) of two views -> (): equation 1, averaged over both directions of all pairs.

    A single sample has no negatives: the loss is 0.
    """
    z = F.normalize(torch.cat([a, b]), dim=1)
    position = torch.arange(len(z), device=z.device)
    itself = position[:, None] == position
    scores = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    # The other view of view i is B positions further, cyclically.
    return F.cross_entropy(scores, position.roll(len(a)))


@hookimpl
def mtl_components() -> list[type]:
    return [Simclr]
