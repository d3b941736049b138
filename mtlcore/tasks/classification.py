"""Classification: one of C named classes for each image.

The head is a linear layer on the pooled features; the loss is the cross-entropy. A class weight
scales the whole loss of the samples of its class. So it never changes which answer is the best one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from attrs import Attribute, evolve, field, frozen
from attrs.validators import and_, ge, lt
from torch import Tensor, nn

from ..contracts import Annotation, BuildContext, Features, Head, SupervisedTask
from ..errors import MtlError
from ..rng import Rng
from .draw_text import draw_text

if TYPE_CHECKING:
    from torchmetrics import Metric

fraction = and_(ge(0.0), lt(1.0))
EXAMPLE_CLASSES = ("one", "three", "two")  # sorted, as `fit` would find them
CONFIDENT_LOGIT = 20.0
HEAVIEST = 1e9  # the largest weight of a class


def check_class_weights(
    _: object, attribute: Attribute[tuple[float, ...]], value: tuple[float, ...]
) -> None:
    """each 0 to 1e9, at least one above 0"""
    if value and not (all(0 <= weight <= HEAVIEST for weight in value) and any(value)):
        raise ValueError(
            f"'{attribute.name}' = {list(value)}: expected weights from 0 to {HEAVIEST:g}, "
            "at least one above 0"
        )


@frozen
class Classification(SupervisedTask):
    """One of several named classes.

    reads: the annotation (default: the task's label).
    classes: the names of the classes, in the order of the outputs (default: those of the training
    samples, sorted).
    balance: "inverse" weights each class by N / (C n_c), so that the mean weight of the N labeled
    training samples is 1. C counts the classes that have such a sample; the others get weight 1.
    class_weights: explicit weights of the samples of each class, in the order of `classes`.
    label_smoothing: the share of the target that is spread evenly over all classes, in [0, 1).
    dropout: before the linear layer, in [0, 1).
    by: attributes of the data, such as an age group. Metrics are also computed for each of their
    values, together with the number of samples. Attributes that the data lack are skipped.
    """

    reads: str = ""
    classes: tuple[str, ...] = ()
    balance: Literal["none", "inverse"] = "none"
    class_weights: tuple[float, ...] = field(default=(), validator=check_class_weights)
    label_smoothing: float = field(default=0.0, validator=fraction)
    dropout: float = field(default=0.3, validator=fraction)
    by: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.classes and self.class_weights and len(self.classes) != len(self.class_weights):
            raise ValueError(
                f"class_weights has {len(self.class_weights)} numbers for "
                f"{len(self.classes)} classes"
            )
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes has a name twice: {self.classes}")
        if "" in self.classes:
            raise ValueError('classes has the name "", which means a missing label: remove it')

    def fit(self, annotation: Annotation) -> Classification:
        """Set the classes and the inverse class weights from the labeled training samples.

        Values that the configuration sets are kept. Raises MtlError if the annotation is numeric or
        has fewer than two classes.
        """
        self._refuse_numbers(annotation)
        names = self.classes or tuple(sorted({str(a) for a in annotation} - {""}))
        if not names:
            raise MtlError(
                f"no training sample has the annotation {self.reads!r}: "
                f"there are no classes to learn"
            )
        if len(names) == 1:
            raise MtlError(
                f"all labels {self.reads!r} of the training samples are {names[0]!r}; expected at "
                f"least two classes. Is the root of the dataset one folder too high or too low, or "
                f"its limit too small?"
            )
        if self.balance == "none" or self.class_weights:
            return evolve(self, classes=names)
        counts = np.array([(annotation == name).sum() for name in names])
        return evolve(self, classes=names, class_weights=_inverse_weights(counts))

    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """Convert (N,) names to class numbers (N,) int64 and present (N,) bool.

        Raises MtlError if the annotation is numeric.
        """
        self._refuse_numbers(annotation)
        order = np.argsort(self.classes)
        names = np.asarray(self.classes)[order]
        position = np.searchsorted(names, annotation).clip(max=len(names) - 1)
        present = names[position] == annotation
        numbers = np.where(present, order[position], 0)
        return torch.from_numpy(numbers), torch.from_numpy(present)

    def examples(self, n: int, rng: Rng) -> Annotation:
        """Draw (n,) names for the conformance kit, from three classes if none are set."""
        names = np.asarray(self.classes or EXAMPLE_CLASSES)
        return names[rng.randint(len(names), n).numpy()]

    def _refuse_numbers(self, annotation: Annotation) -> None:
        """Raise MtlError for numbers: none of them would equal a name of a class."""
        if annotation.dtype.kind in "fiub":
            raise MtlError(
                f"the annotation {self.reads!r} holds numbers; classification needs names "
                f'(in a csv: categorical = ["{self.reads}"])'
            )

    def build(self, context: BuildContext) -> Head:
        return ClassificationHead(context.info.dim, self)

    def decode(self, output: Tensor) -> Tensor:
        """Convert logits (B, C) to probabilities (B, C)."""
        return output.float().softmax(1)

    def as_answer(self, target: Tensor) -> Tensor:
        """Convert class numbers (B,) to one-hot probabilities (B, C)."""
        return F.one_hot(target, len(self.classes)).float()

    def as_annotation(self, decoded: Tensor) -> Annotation:
        """Return the name of the most likely class, (B,). decoded: probabilities (B, C)."""
        return np.asarray(self.classes)[decoded.argmax(1).numpy(force=True)]

    def metrics(self) -> dict[str, Metric]:
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassConfusionMatrix,
            MulticlassF1Score,
        )

        from .class_metrics import MeanClassAccuracy

        c = len(self.classes)
        return {
            "accuracy": MulticlassAccuracy(c, average="micro"),
            "macro_f1": MulticlassF1Score(c, average="macro"),
            "mean_class_accuracy": MeanClassAccuracy(c),
            "confusion": MulticlassConfusionMatrix(c),
        }

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """Write the most likely class on an image (3, H, W). decoded: (C,) probabilities."""
        return draw_text(image, self.classes[int(decoded.argmax())])


class ClassificationHead(Head):
    """Dropout and ONE linear layer: pooled features (B, D) -> logits (B, C)."""

    class_weights: Tensor | None

    def __init__(self, dim: int, task: Classification) -> None:
        super().__init__()
        self.answer = nn.Sequential(nn.Dropout(task.dropout), nn.Linear(dim, len(task.classes)))
        self.classes = len(task.classes)
        self.label_smoothing = task.label_smoothing
        # For the conformance kit: uniform logits have the mean loss log(choices).
        self.choices = self.classes
        weights = torch.tensor(task.class_weights) if task.class_weights else None
        # Not in checkpoints: the saved configuration holds the weights.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the weighted cross-entropy of each sample, (B,). target: class numbers (B,)."""
        loss = F.cross_entropy(
            output,
            target,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        if self.class_weights is None:
            return loss
        # Not the `weight` of F.cross_entropy: with label smoothing it multiplies each class's share
        # of the target by that class's own weight, so a heavy class would become the best answer.
        return loss * self.class_weights[target]

    def ideal(self, target: Tensor) -> Tensor:
        """Return logits (B, C) with nearly all probability on the target class."""
        return CONFIDENT_LOGIT * F.one_hot(target, self.classes).float()


def _inverse_weights(counts: np.ndarray) -> tuple[float, ...]:
    """Return N / (C n_c) for each class, where C counts the classes that have samples.

    counts: (classes,) int, the training samples of each class. A class without any gets weight 1,
    the mean of all samples: only samples outside of training can have it.
    """
    present = counts > 0
    scaled = present.sum() * counts.clip(min=1)
    weights = np.where(present, counts.sum() / scaled.clip(min=1), 1.0)
    return tuple(float(w) for w in weights)
