"""VICReg: make two views agree, keep the variance of each component, and decorrelate components.

Bardes, Ponce and LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for
Self-Supervised Learning", arXiv:2105.04906, equations 1 to 6.

    loss = 25 mean (Z - Z')^2 + 25 (v(Z) + v(Z')) / 2 + 1 (c(Z) + c(Z'))
    v = mean_j max(0, 1 - sqrt(var_j + 1e-4))
    c = (1 / E) sum_{i != j} cov_ij^2,   var and cov over B - 1

The normalization is that of the authors' code, with which the weights 25, 25 and 1 were found:
the invariance term is a mean over components (equation 5 sums them), and the variance term is a
mean over the two views (equation 6 sums them).

Differences from the paper:

- The expander is 512 wide instead of 8192, to be affordable on a CPU.
- The first view is the clean view, which costs nothing extra if a supervised head reads it. The
  second is one further augmentation.

Shapes: B samples of all ranks, features of width D, embeddings of E = `width` components.
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

EPSILON = 1e-4  # the paper's, added to a variance
TARGET_STD = 1.0  # the paper's gamma: the least std of a component


@frozen
class Vicreg(PretextTask):
    """Regularize two views' embeddings by invariance, variance and covariance, over all ranks.

    With the paper's weights the loss starts near 20. Beside a cross-entropy, a task weight of 0.02
    to 0.1 balances the two.

    invariance, variance, covariance: weights of the three terms, the paper's lambda, mu and nu.
    width: of the expander's three layers.
    """

    cites = "Bardes, Ponce and LeCun 2022, arXiv:2105.04906"
    lacks: ClassVar[Mapping[str, str]] = {
        "single_sample": "components vary over the samples of a batch"
    }

    invariance: float = field(default=25.0, validator=and_(ge(0.0), le(1e6)))
    variance: float = field(default=25.0, validator=and_(ge(0.0), le(1e6)))
    covariance: float = field(default=1.0, validator=and_(ge(0.0), le(1e6)))
    width: int = field(default=512, validator=and_(ge(2), le(2**16)))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], None]:
        """Return the clean view and one augmentation; the pair itself is the target."""
        return [batch.clean, batch.augment(1)], None

    def build(self, context: BuildContext) -> Head:
        return VicregHead(context.info.dim, self)

    def metrics(self) -> dict[str, Metric]:
        """Metrics over all samples of an evaluation.

        distance: mean squared difference of the two views, at best 0.
        std: mean standard deviation of the components; 0 means collapse.
        """
        from torchmetrics import Metric

        e = self.width

        class Distance(Metric):
            higher_is_better = False
            error: Tensor
            numbers: Tensor

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
            samples: Tensor
            sums: Tensor
            squares: Tensor

            def __init__(self) -> None:
                super().__init__()
                self.add_state("samples", torch.zeros(()), "sum")
                for name in ("sums", "squares"):
                    self.add_state(name, torch.zeros(2, e), "sum")

            def update(self, output: Pair, target: None) -> None:
                z = torch.stack(output)
                self.sums += z.sum(1)
                self.squares += z.square().sum(1)
                self.samples += z.shape[1]

            def compute(self) -> Tensor:
                mean = self.sums / self.samples
                variance = self.squares / self.samples - mean.square()
                return variance.clamp_min(0).sqrt().mean()

        return {"distance": Distance(), "std": Std()}

    def draw(self, images: Tensor, target: None, output: Pair) -> Tensor:
        """Show, for each image, the one with the nearest second view: itself if both agree."""
        a, b = output
        return images[torch.cdist(a, b).argmin(1)]


class VicregHead(Head):
    """Expand both views to embeddings (B, E).

    Features are gathered from all ranks first, so batch statistics are those of the whole batch.
    """

    coupled = True

    def __init__(self, dim: int, task: Vicreg) -> None:
        super().__init__()
        self.weights = (task.invariance, task.variance, task.covariance)
        e = task.width
        self.expand = nn.Sequential(
            *(nn.Linear(dim, e), nn.BatchNorm1d(e), nn.ReLU()),
            *(nn.Linear(e, e), nn.BatchNorm1d(e), nn.ReLU()),
            nn.Linear(e, e, bias=False),
        )

    def forward(self, a: Features, b: Features) -> Pair:
        first, second = gather_pair(a, b)
        if self.training:
            require_two_samples(len(first), "vicreg", "components vary over samples")
        return self.expand(first), self.expand(second)

    def loss(self, output: Pair, target: None) -> Tensor:
        a, b = output
        invariance, variance, covariance = self.weights
        mean_variance = (variance_term(a) + variance_term(b)) / 2
        return (
            invariance * F.mse_loss(a, b)
            + variance * mean_variance
            + covariance * (covariance_term(a) + covariance_term(b))
        )


def variance_term(z: Tensor) -> Tensor:
    """(B, E) -> (): equation 1, how far the components' std is below 1."""
    z = z - z.mean(0)
    variance = z.square().sum(0) / max(len(z) - 1, 1)
    return F.relu(TARGET_STD - (variance + EPSILON).sqrt()).mean()


def covariance_term(z: Tensor) -> Tensor:
    """(B, E) -> (): equations 3 and 4, the squared covariances of different components, over E."""
    z = z - z.mean(0)
    covariance = z.T @ z / max(len(z) - 1, 1)
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return off_diagonal / z.shape[1]


@hookimpl
def mtl_components() -> list[type]:
    return [Vicreg]
