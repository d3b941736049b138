"""plugin_name: which of several named classes an image is of.

Replace this by your own task: what it reads, what its head answers, and how the answer is judged.
Shapes: B images, D features (B, D), C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from attrs.validators import and_, ge, lt
from torch import Tensor, nn

from mtlcore import Annotation, BuildContext, Features, Head, MtlError, SupervisedTask, hookimpl


@frozen
class PluginName(SupervisedTask):
    """One of several named classes, from the pooled features.

    reads: the annotation that the data must give; where it is left empty, the label of the task's table. classes: their names, in
    the order of the outputs; where they are left empty, those of the training rows. dropout: before the linear layer.
    """

    name = "plugin_name"
    cites = "original"
    reads: str = ""
    classes: tuple[str, ...] = ()
    dropout: float = field(default=0.1, validator=and_(ge(0.0), lt(1.0)))

    def fit(self, annotation: Annotation) -> PluginName:
        """Called once, on the labeled training rows: every field explicit, so that evaluation uses the same."""
        if annotation.dtype.kind in "fiub":
            raise MtlError(f"the annotation {self.reads!r} holds numbers; plugin_name needs names")
        return evolve(
            self, classes=self.classes or tuple(sorted({str(a) for a in annotation} - {""}))
        )

    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """(N,) names -> (N,) int64, (N,) bool. A name that is no class is no label, and its row holds a zero."""
        matches = np.asarray(annotation)[:, None] == np.asarray(self.classes)
        return torch.from_numpy(matches.argmax(1)), torch.from_numpy(matches.any(1))

    def build(self, context: BuildContext) -> Head:
        return PluginNameHead(context.info.dim, len(self.classes), self.dropout)

    def decode(self, output: Tensor) -> Tensor:
        """(B, C) logits -> (B, C) probabilities: what metrics and people read."""
        return output.float().softmax(1)

    def as_answer(self, target: Tensor) -> Tensor:
        """(B,) labels -> (B, C): the truth in the form of an answer."""
        return F.one_hot(target, len(self.classes)).float()

    def metrics(self) -> dict[str, Any]:
        """The first one is the task's main one: it names the best checkpoint."""
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(len(self.classes), average="micro")}


class PluginNameHead(Head):
    """(B, D) -> (B, C) logits."""

    def __init__(self, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.choices = classes
        self.answer = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, classes))

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target: Tensor) -> Tensor:
        """A perfect answer, for the conformance kit."""
        return 20.0 * F.one_hot(target, self.choices).float()


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
