"""BYOL: say of one view what a slowly following copy of the network says of the other. There are no negatives.

Grill et al. 2020, "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", arXiv:2006.07733, equation 2, made
symmetric:

    loss = (2 - 2 cos(q(z_A), z'_B)) + (2 - 2 cos(q(z_B), z'_A)),   in [0, 8] an image

with z the projections of the network, q its predictor, z' the projections of the momentum copy, which gets no gradient.

Where we differ: the momentum rises to 1 in a straight line over the run (paper: half a cosine between the same ends); hidden
layers are 512 wide, for a CPU's sake (paper: 4096); batch statistics are those of each rank (paper: of all); view A is the clean
view, which is encoded anyway where supervised heads read it, and view B the first further augmentation. The copy reads both
images too: two more forwards of the encoder, without gradient.

Shapes: B samples, D wide features, E = `width` of the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor, nn

from mtlcore import (
    EMA,
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

Answer = dict[str, Tensor]


@frozen
class Byol(PretextTask):
    """Predict the momentum copy's embedding of the other view.

    momentum: of the copy at the start; it is 1 at the end of the run. The paper's 0.996 is for runs of 10^5 steps and more (0.99
    in its shorter ones). hidden, width: of the projector and the predictor.
    """

    cites = "Grill et al. 2020, arXiv:2006.07733"
    lacks: ClassVar[Mapping[str, str]] = {
        "single_sample": "its batch normalization, which keeps it from collapse, needs two samples"
    }

    momentum: float = field(default=0.996, validator=and_(ge(0.0), le(1.0)))
    hidden: int = field(default=512, validator=ge(1))
    width: int = field(default=256, validator=ge(1))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], None]:
        """-> the clean view and another augmentation; what must be answered is in the pair itself."""
        return [batch.clean, batch.augment(1)], None

    def build(self, context: BuildContext) -> Head:
        return ByolHead(context, self)

    def metrics(self) -> dict[str, Any]:
        """pairs: mean cosine of prediction and copy's answer. strangers: of any two images'; near `pairs`: all collapsed."""
        from torchmetrics import Metric

        e = self.width

        class Cosines(Metric):
            def __init__(self) -> None:
                super().__init__()
                for name, shape in {
                    "samples": (),
                    "same": (),
                    "said": (2, e),
                    "wanted": (2, e),
                }.items():
                    self.add_state(name, torch.zeros(shape), "sum")

            def update(self, output: Answer, target: None) -> None:
                said, wanted = (F.normalize(output[key], dim=2) for key in ("said", "wanted"))
                self.same += (said * wanted).sum() / 2
                self.said += said.sum(0)
                self.wanted += wanted.sum(0)
                self.samples += len(said)

        class Pairs(Cosines):
            higher_is_better = True

            def compute(self) -> Tensor:
                return self.same / self.samples

        class Strangers(Cosines):
            higher_is_better = False

            def compute(
                self,
            ) -> Tensor:  # all B * B pairs in each direction, less those of one image
                every = (self.said * self.wanted).sum() / 2
                return (every - self.same) / (self.samples * (self.samples - 1)).clamp_min(1)

        return {"pairs": Pairs(), "strangers": Strangers()}

    def draw(self, images: Tensor, target: None, output: Answer) -> Tensor:
        """In each place the image that the copy's answer nearest to this one's prediction is of: itself, where they agree."""
        said, wanted = (F.normalize(output[key][:, 0], dim=1) for key in ("said", "wanted"))
        return images[(said @ wanted.T).argmax(1)]


class ByolHead(Head):
    """-> {"said": (B, 2, E) predictions of views A and B, "wanted": (B, 2, E) what the copy says of B and A}."""

    def __init__(self, context: BuildContext, task: Byol) -> None:
        super().__init__()
        self.project = perceptron(context.info.dim, task.hidden, task.width)
        self.predict = perceptron(task.width, task.hidden, task.width)
        self.teacher = EMA(context.encoder, task.momentum, final=1.0, batch_stats=True)
        self.teacher_project = EMA(self.project, task.momentum, final=1.0, batch_stats=True)

    def forward(self, a: Features, b: Features) -> Answer:
        if self.training and len(a.pooled) < 2:
            raise MtlError(
                "byol normalizes over samples and a micro-batch holds 1: raise input.batch_size"
            )
        said = [self.predict(self.project(f.pooled)) for f in (a, b)]
        with torch.no_grad():
            wanted = [self.teacher_project(self.teacher(f.images).pooled) for f in (b, a)]
        return {"said": torch.stack(said, 1), "wanted": torch.stack(wanted, 1)}

    def loss(self, output: Answer, target: None) -> Tensor:
        return (2 - 2 * F.cosine_similarity(output["said"], output["wanted"], dim=2)).sum(1)


def perceptron(width: int, hidden: int, out: int) -> nn.Sequential:
    """The paper's projector and predictor: one hidden layer, normalized."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out)
    )


@hookimpl
def mtl_components() -> list[type]:
    return [Byol]
