"""VICReg: two views of an image must be near, each component must vary over the batch, and no two must vary together.

Bardes, Ponce and LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
arXiv:2105.04906, equations 1 to 6, with the normalization of the authors' code, which its 25, 25 and 1 were found with: the
invariance is a mean over components (equation 5 sums them), the variance term a mean over the two views (equation 6 adds them up).

    loss = 25 mean (Z - Z')^2 + 25 (v(Z) + v(Z')) / 2 + 1 (c(Z) + c(Z'))
    v = mean_j max(0, 1 - sqrt(var_j + 1e-4)),   c = (1 / E) sum_{i != j} cov_ij^2,   var and cov over B - 1

Where we differ: the expander is 512 wide, for a CPU's sake (paper: 8192); the first view is the clean view, which is encoded anyway
where supervised heads read it, and the second the first further augmentation.

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
TINY = 1e-4  # the paper's epsilon, beside a variance
WANTED = 1.0  # the paper's gamma, the least std of a component


@frozen
class Vicreg(PretextTask):
    """Invariance, variance and covariance of two views' embeddings, over the samples of all ranks.

    invariance, variance, covariance: weights of the three terms (the paper's lambda, mu, nu). width: of the expander's three
    layers. With the paper's weights the loss begins near 20: beside a cross-entropy, a weight of 0.02 to 0.1 lets both be heard.
    """

    cites = "Bardes, Ponce and LeCun 2022, arXiv:2105.04906"
    lacks: ClassVar[Mapping[str, str]] = {
        "single_sample": "components vary over the samples of a batch"
    }

    invariance: float = field(default=25.0, validator=ge(0.0))
    variance: float = field(default=25.0, validator=ge(0.0))
    covariance: float = field(default=1.0, validator=ge(0.0))
    width: int = field(default=512, validator=ge(2))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], None]:
        """-> the clean view and another augmentation; what must be answered is in the pair itself."""
        return [batch.clean, batch.augment(1)], None

    def build(self, context: BuildContext) -> Head:
        return VicregHead(context.info.dim, self)

    def metrics(self) -> dict[str, Any]:
        """distance: mean squared difference of the two views, at best 0. std: the mean one of a component; 0: all collapsed."""
        from torchmetrics import Metric

        e = self.width

        class Distance(Metric):
            higher_is_better = False

            def __init__(self) -> None:
                super().__init__()
                self.add_state("error", torch.zeros(()), "sum")
                self.add_state("numbers", torch.zeros(()), "sum")

            def update(self, output: Pair, target: None) -> None:
                self.error += F.mse_loss(*output, reduction="sum")
                self.numbers += output[0].numel()

            def compute(self) -> Tensor:
                return self.error / self.numbers

        class Std(Metric):
            higher_is_better = True

            def __init__(self) -> None:
                super().__init__()
                for name, shape in {"samples": (), "sums": (2, e), "squares": (2, e)}.items():
                    self.add_state(name, torch.zeros(shape), "sum")

            def update(self, output: Pair, target: None) -> None:
                z = torch.stack(output)
                self.sums += z.sum(1)
                self.squares += z.square().sum(1)
                self.samples += z.shape[1]

            def compute(self) -> Tensor:
                return (
                    (self.squares / self.samples - (self.sums / self.samples).square())
                    .clamp_min(0)
                    .sqrt()
                    .mean()
                )

        return {"distance": Distance(), "std": Std()}

    def draw(self, images: Tensor, target: None, output: Pair) -> Tensor:
        """In each place the image whose second view is nearest to this one's first: itself, where the two agree."""
        a, b = output
        return images[torch.cdist(a, b).argmin(1)]


class VicregHead(Head):
    """-> the embeddings (B, E) of both views, of all ranks' samples: so the expander's batch statistics are the whole batch's too."""

    coupled = True

    def __init__(self, dim: int, task: Vicreg) -> None:
        super().__init__()
        self.weights, e = (task.invariance, task.variance, task.covariance), task.width
        self.expand = nn.Sequential(
            *(nn.Linear(dim, e), nn.BatchNorm1d(e), nn.ReLU()),
            *(nn.Linear(e, e), nn.BatchNorm1d(e), nn.ReLU()),
            nn.Linear(e, e, bias=False),
        )

    def forward(self, a: Features, b: Features) -> Pair:
        first, second = gather(torch.stack([a.pooled, b.pooled], 1).float()).unbind(1)
        if self.training and len(first) < 2:
            raise MtlError(
                "vicreg needs samples that vary and a micro-batch holds 1: raise input.batch_size"
            )
        return self.expand(first), self.expand(second)

    def loss(self, output: Pair, target: None) -> Tensor:
        a, b = output
        near, spread, apart = self.weights
        variance = (variance_term(a) + variance_term(b)) / 2
        return (
            near * F.mse_loss(a, b)
            + spread * variance
            + apart * (covariance_term(a) + covariance_term(b))
        )


def variance_term(z: Tensor) -> Tensor:
    """(B, E) -> (): equation 1, how far the components' std stays below 1."""
    z = z - z.mean(0)
    variance = z.square().sum(0) / max(len(z) - 1, 1)
    return F.relu(WANTED - (variance + TINY).sqrt()).mean()


def covariance_term(z: Tensor) -> Tensor:
    """(B, E) -> (): equations 3 and 4, the squared covariances of different components, over E."""
    z = z - z.mean(0)
    covariance = z.T @ z / max(len(z) - 1, 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]


@hookimpl
def mtl_components() -> list[type]:
    return [Vicreg]
