"""Classification: one of C named classes an image; cross-entropy on the pooled features."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from attrs.validators import and_, ge, lt
from torch import Tensor, nn

from ..contracts import Annotation, BuildContext, Features, Head, SupervisedTask
from ..errors import MtlError
from ..rng import Rng
from .draw_text import written

fraction = and_(ge(0.0), lt(1.0))


@frozen
class Classification(SupervisedTask):
    """One of several named classes.

    reads: the annotation (default: the task's label). classes: their names, in the order of the outputs (default: those of the
    training samples, sorted). balance: "inverse" weighs each class by N / (C n_c), so that the mean weight of a sample is 1.
    class_weights: explicit weights, in the order of `classes`. label_smoothing, dropout (before the linear layer): in [0, 1).
    by: attributes of the data (a race, an age band) for each value of which the metrics are given too, with the number of samples;
    those that the data does not have are passed over.
    """

    reads: str = ""
    classes: tuple[str, ...] = ()
    balance: Literal["none", "inverse"] = "none"
    class_weights: tuple[float, ...] = ()
    label_smoothing: float = field(default=0.0, validator=fraction)
    dropout: float = field(default=0.3, validator=fraction)
    by: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.classes and self.class_weights and len(self.classes) != len(self.class_weights):
            raise ValueError(
                f"class_weights has {len(self.class_weights)} numbers for {len(self.classes)} classes"
            )
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes holds a name twice: {self.classes}")

    def fit(self, annotation: Annotation) -> Classification:
        """Classes and inverse class weights of these labeled samples, where they are not given. Raises MtlError on numbers."""
        self._refuse_numbers(annotation)
        names = self.classes or tuple(sorted({str(a) for a in annotation} - {""}))
        if not names:
            raise MtlError(
                f"no training sample has the annotation {self.reads!r}: there are no classes to learn"
            )
        if self.balance == "none" or self.class_weights:
            return evolve(self, classes=names)
        counts = np.array([(annotation == name).sum() for name in names])
        weights = counts.sum() / (len(names) * counts.clip(min=1))
        return evolve(self, classes=names, class_weights=tuple(float(w) for w in weights))

    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """(N,) names -> (N,) int64 class numbers, (N,) bool. Raises MtlError on numbers."""
        self._refuse_numbers(annotation)
        order = np.argsort(self.classes)
        names = np.asarray(self.classes)[order]
        place = np.searchsorted(names, annotation).clip(max=len(names) - 1)
        present = names[place] == annotation
        return torch.from_numpy(np.where(present, order[place], 0)), torch.from_numpy(present)

    def examples(self, n: int, rng: Rng) -> Annotation:
        """(n,) drawn names, for the conformance kit: of the classes, or of three where none are given."""
        names = np.asarray(self.classes or ("one", "three", "two"))
        return names[rng.randint(len(names), n).numpy()]

    def _refuse_numbers(self, annotation: Annotation) -> None:
        """No number equals a name: every sample would count as one without a label."""
        if annotation.dtype.kind in "fiub":
            raise MtlError(
                f"the annotation {self.reads!r} holds numbers; classification needs names "
                f'(in a csv: categorical = ["{self.reads}"])'
            )

    def build(self, context: BuildContext) -> Head:
        return ClassificationHead(context.info.dim, self)

    def decode(self, output: Tensor) -> Tensor:
        """(B, C) logits -> (B, C) probabilities."""
        return output.float().softmax(1)

    def as_answer(self, target: Tensor) -> Tensor:
        """(B,) class numbers -> (B, C) probabilities that are sure of them."""
        return F.one_hot(target, len(self.classes)).float()

    def metrics(self) -> dict[str, Any]:
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassConfusionMatrix,
            MulticlassF1Score,
        )

        c = len(self.classes)
        return {
            "accuracy": MulticlassAccuracy(c, average="micro"),
            "macro_f1": MulticlassF1Score(c, average="macro"),
            "mean_class_accuracy": MulticlassAccuracy(c, average="macro"),
            "confusion": MulticlassConfusionMatrix(c),
        }

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """(3, H, W) in [0, 1], (C,) probabilities -> the image with the likeliest class's name."""
        return written(image, self.classes[int(decoded.argmax())])


class ClassificationHead(Head):
    """Dropout and ONE linear layer: (B, D) -> (B, C) logits."""

    class_weights: Tensor | None

    def __init__(self, dim: int, task: Classification) -> None:
        super().__init__()
        self.answer = nn.Sequential(nn.Dropout(task.dropout), nn.Linear(dim, len(task.classes)))
        self.classes = len(task.classes)
        self.label_smoothing = task.label_smoothing
        weights = torch.tensor(task.class_weights) if task.class_weights else None
        if weights is None:
            self.choices = self.classes  # equal logits lose log(choices)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            output,
            target,
            self.class_weights,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    def ideal(self, target: Tensor) -> Tensor:
        """Logits that are sure of the right class."""
        return 20.0 * F.one_hot(target, self.classes).float()
