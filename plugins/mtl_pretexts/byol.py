"""BYOL: predict a momentum copy's embedding of the other view, without negatives.

Grill et al. 2020, "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning",
arXiv:2006.07733, equation 2, made symmetric:

    loss = (2 - 2 cos(q(z_A), z'_B)) + (2 - 2 cos(q(z_B), z'_A)),   in [0, 8] for each image

z: projections of the network. q: its predictor. z': projections of the momentum copy, which gets
no gradient.

Differences from the paper:

- The momentum rises to 1 linearly over the run (paper: half a cosine between the same ends).
- Hidden layers are 512 wide instead of 4096, to be affordable on a CPU.
- Batch statistics are those of each rank (paper: of all ranks).
- View A is the clean view, which costs nothing extra if a supervised head reads it. View B is one
  further augmentation.

The copy encodes both views too: two more forwards of the encoder, without gradient.

Shapes: B samples, features of width D, embeddings of width E = `width`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, le, lt
from torch import Tensor, nn

from mtl_pretexts._shared import require_two_samples
from mtlcore import (
    EMA,
    AugmentedBatch,
    BuildContext,
    Features,
    Head,
    PretextTask,
    Rng,
    View,
    hookimpl,
)

if TYPE_CHECKING:
    from torchmetrics import Metric

Output = dict[str, Tensor]
"""predicted: (B, 2, E) of views A and B. target: (B, 2, E), the copy's of views B and A."""


@frozen
class Byol(PretextTask):
    """Predict the momentum copy's embedding of the other view.

    momentum: of the copy at the start; it rises to 1 at the end of the run. The paper's 0.996 is
    for 10^5 steps and more; its shorter runs use 0.99.
    hidden, width: of the projector and of the predictor.
    """

    cites = "Grill et al. 2020, arXiv:2006.07733"
    lacks: ClassVar[Mapping[str, str]] = {
        "single_sample": "its batch normalization, which prevents collapse, needs two samples"
    }

    momentum: float = field(default=0.996, validator=and_(ge(0.0), lt(1.0)))
    hidden: int = field(default=512, validator=and_(ge(1), le(2**16)))
    width: int = field(default=256, validator=and_(ge(1), le(2**16)))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], None]:
        """Return the clean view and one augmentation; the pair itself is the target."""
        return [batch.clean, batch.augment(1)], None

    def build(self, context: BuildContext) -> Head:
        return ByolHead(context, self)

    def metrics(self) -> dict[str, Metric]:
        """Mean cosines of predictions and targets.

        pairs: of the same image, at best 1.
        strangers: of two different images. A value near `pairs` means collapse.
        """
        from torchmetrics import Metric

        e = self.width

        class Cosines(Metric):
            """Sums over samples: the mean over all pairs follows without storing embeddings."""

            samples: Tensor
            same: Tensor
            predicted: Tensor
            target: Tensor

            def __init__(self) -> None:
                super().__init__()
                for name in ("samples", "same"):
                    self.add_state(name, torch.zeros(()), "sum")
                for name in ("predicted", "target"):
                    self.add_state(name, torch.zeros(2, e), "sum")

            def update(self, output: Output, target: None) -> None:
                predicted = F.normalize(output["predicted"], dim=2)
                wanted = F.normalize(output["target"], dim=2)
                self.same += (predicted * wanted).sum() / 2
                self.predicted += predicted.sum(0)
                self.target += wanted.sum(0)
                self.samples += len(predicted)

        class Pairs(Cosines):
            higher_is_better = True

            def compute(self) -> Tensor:
                return self.same / self.samples

        class Strangers(Cosines):
            higher_is_better = False

            def compute(self) -> Tensor:
                # All B * B pairs in each direction, less those of one image.
                every = (self.predicted * self.target).sum() / 2
                pairs = self.samples * (self.samples - 1)
                return (every - self.same) / pairs.clamp_min(1)

        return {"pairs": Pairs(), "strangers": Strangers()}

    def draw(self, images: Tensor, target: None, output: Output) -> Tensor:
        """Show, for each image, the one whose target is nearest to its prediction.

        That is the image itself if prediction and target agree.
        """
        predicted = F.normalize(output["predicted"][:, 0], dim=1)
        wanted = F.normalize(output["target"][:, 0], dim=1)
        return images[(predicted @ wanted.T).argmax(1)]


class ByolHead(Head):
    """Projector and predictor, beside momentum copies of encoder and projector."""

    def __init__(self, context: BuildContext, task: Byol) -> None:
        super().__init__()
        self.project = perceptron(context.info.dim, task.hidden, task.width)
        self.predict = perceptron(task.width, task.hidden, task.width)
        self.teacher = EMA(context.encoder, task.momentum, final=1.0, batch_stats=True)
        self.teacher_project = EMA(self.project, task.momentum, final=1.0, batch_stats=True)

    def forward(self, a: Features, b: Features) -> Output:
        if self.training:
            require_two_samples(len(a.pooled), "byol", "it normalizes over samples")
        predicted = [self.predict(self.project(view.pooled)) for view in (a, b)]
        # The order is (b, a): each prediction meets the target of the other view.
        with torch.no_grad():
            pooled = [self.teacher(view.images).pooled for view in (b, a)]
            target = [self.teacher_project(z) for z in pooled]
        return {"predicted": torch.stack(predicted, 1), "target": torch.stack(target, 1)}

    def loss(self, output: Output, target: None) -> Tensor:
        cosine = F.cosine_similarity(output["predicted"], output["target"], dim=2)
        return (2 - 2 * cosine).sum(1)


def perceptron(width: int, hidden: int, out: int) -> nn.Sequential:
    """The paper's projector and predictor: one hidden layer, with batch normalization."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
    )


@hookimpl
def mtl_components() -> list[type]:
    return [Byol]
