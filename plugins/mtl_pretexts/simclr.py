"""SimCLR: find an image's other view among the views of all images of the batch.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", arXiv:2002.05709: NT-Xent, equation 1.

    l(i, j) = -log( exp(cos(z_i, z_j) / t) / sum_{k != i} exp(cos(z_i, z_k) / t) ),   averaged over 2 B pairs (i, its other view)

Where we differ: the first view is the clean view, which is encoded anyway where supervised heads read it, and the second the first
further augmentation; how far the two are apart is the augmentation's (the paper's crops and colors are harsher than `strong`).

Shapes: B samples of all ranks together, D wide features, E = `width` of the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, gt
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


@frozen
class Simclr(PretextTask):
    """Tell the other view of an image from 2 (B - 1) views of others, over the samples of all ranks.

    temperature: of the softmax; the paper's best is 0.1 (0.5 on CIFAR-10, with small batches). width: of the embedding; the
    projector's one hidden layer is as wide as the features, as in the paper. The loss of a blind guess is log(2 B - 1).
    """

    cites = "Chen et al. 2020, arXiv:2002.05709"
    lacks: ClassVar[Mapping[str, str]] = {
        "single_sample": "an image is told from the others of its batch"
    }

    temperature: float = field(default=0.1, validator=gt(0.0))
    width: int = field(default=128, validator=ge(2))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], None]:
        """-> the clean view and another augmentation; what must be answered is in the pair itself."""
        return [batch.clean, batch.augment(1)], None

    def build(self, context: BuildContext) -> Head:
        return SimclrHead(context.info.dim, self)

    def metrics(self) -> dict[str, Any]:
        """pairs: mean cosine of the two views of an image. strangers: of any two images'; near `pairs`: all collapsed."""
        from torchmetrics import Metric

        e = self.width

        class Cosines(Metric):
            def __init__(self) -> None:
                super().__init__()
                for name, shape in {"samples": (), "same": (), "a": (e,), "b": (e,)}.items():
                    self.add_state(name, torch.zeros(shape), "sum")

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

            def compute(
                self,
            ) -> Tensor:  # all B * B pairs of a first and a second view, less those of one image
                return (self.a @ self.b - self.same) / (
                    self.samples * (self.samples - 1)
                ).clamp_min(1)

        return {"pairs": Pairs(), "strangers": Strangers()}

    def draw(self, images: Tensor, target: None, output: Pair) -> Tensor:
        """In each place the image whose second view is nearest to this one's first: itself, where it is found."""
        a, b = (F.normalize(z, dim=1) for z in output)
        return images[(a @ b.T).argmax(1)]


class SimclrHead(Head):
    """-> the embeddings (B, E) of both views, of all ranks' samples: all are each other's negatives."""

    coupled = True

    def __init__(self, dim: int, task: Simclr) -> None:
        super().__init__()
        self.temperature = task.temperature
        self.project = nn.Sequential(
            *(nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU()),
            *(nn.Linear(dim, task.width, bias=False), nn.BatchNorm1d(task.width)),
        )

    def forward(self, a: Features, b: Features) -> Pair:
        first, second = gather(torch.stack([a.pooled, b.pooled], 1).float()).unbind(1)
        if self.training and len(first) < 2:
            raise MtlError(
                "simclr tells samples from each other and a micro-batch holds 1: raise input.batch_size"
            )
        return self.project(first), self.project(second)

    def loss(self, output: Pair, target: None) -> Tensor:
        return nt_xent(*output, self.temperature)


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Embeddings (B, E) of two views -> (): equation 1, averaged over both directions of all pairs. One sample has nobody else: 0."""
    z = F.normalize(torch.cat([a, b]), dim=1)
    samples = torch.arange(len(z), device=z.device)
    scores = (z @ z.T / temperature).masked_fill(samples[:, None] == samples, -torch.inf)
    return F.cross_entropy(scores, samples.roll(len(a)))


@hookimpl
def mtl_components() -> list[type]:
    return [Simclr]
