"""plugin_name: classify an image into one of several named classes.

Replace this text with your own: what the task predicts, which annotation it needs, and the paper.
Shapes: N annotations of a dataset, B samples, D pooled features (B, D), C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from attrs.validators import and_, ge, lt
from torch import Tensor, nn

from mtlcore import (
    Annotation,
    AnswerFormat,
    BuildContext,
    Features,
    Head,
    MtlError,
    SupervisedTask,
    hookimpl,
)

if TYPE_CHECKING:
    from torchmetrics import Metric


@frozen
class PluginName(SupervisedTask):
    """Predict one of several named classes from the pooled features.

    reads: the annotation of the dataset; default: the label of the task's table.
    classes: their names, in the order of the outputs; default: those of the training samples.
    dropout: probability in [0, 1), before the linear layer.
    """

    name = "plugin_name"
    cites = "original"
    reads: str = ""
    classes: tuple[str, ...] = ()
    dropout: float = field(default=0.1, validator=and_(ge(0.0), lt(1.0)))

    def fit(self, annotation: Annotation) -> PluginName:
        """Return a copy with explicit classes.

        It is called once, on the labeled training samples. The run saves the copy, so that its
        evaluation has the same classes in the same order.
        """
        if annotation.dtype.kind in "fiub":
            raise MtlError(f"the annotation {self.reads!r} holds numbers; plugin_name needs names")
        if self.classes:
            return self
        names = {str(value) for value in annotation}
        return evolve(self, classes=tuple(sorted(names - {""})))  # "" marks a missing label

    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """(N,) names -> (N,) int64 class numbers, and (N,) bool: is there a label?

        A name that is not one of the classes counts as missing. Its class number is 0.
        """
        matches = np.asarray(annotation)[:, None] == np.asarray(self.classes)
        return torch.from_numpy(matches.argmax(1)), torch.from_numpy(matches.any(1))

    def build(self, context: BuildContext) -> Head:
        return PluginNameHead(context.info.dim, len(self.classes), self.dropout)

    def decode(self, output: Tensor) -> Tensor:
        """(B, C) logits -> (B, C) probabilities. Metrics and users read these."""
        return output.float().softmax(1)

    def answer_format(self) -> AnswerFormat:
        """How `mtl predict` reads the probabilities: of named classes, of which one is true.

        `AnswerFormat("values", ("width", "height"))` names numbers instead; `answer_numbers` then
        converts predictions to real units.
        """
        return AnswerFormat("label", self.classes)

    def as_answer(self, target: Tensor) -> Tensor:
        """(B,) class numbers -> (B, C): the true label in the form of a prediction."""
        return F.one_hot(target, len(self.classes)).float()

    def metrics(self) -> dict[str, Metric]:
        """The first metric is the main one: it selects the best checkpoint."""
        from torchmetrics.classification import MulticlassAccuracy  # imported late: it is slow

        return {"accuracy": MulticlassAccuracy(len(self.classes), average="micro")}


class PluginNameHead(Head):
    """(B, D) -> (B, C) logits."""

    def __init__(self, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.choices = classes  # for the conformance kit: uniform logits have the loss log(classes)
        self.answer = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, classes))

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,): one value per sample. mtlcore masks missing labels and takes the mean."""
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target: Tensor) -> Tensor:
        """The logits of a perfect prediction, for the conformance kit."""
        return 20.0 * F.one_hot(target, self.choices).float()


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
