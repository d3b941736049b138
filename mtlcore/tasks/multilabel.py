"""Multilabel classification: several named labels for each image, each present or absent.

The head is a linear layer on the pooled features; the loss is the binary cross-entropy.

An annotation has one of two forms:

- (N,) strings: the names of the present labels, joined by "|", such as "smile|glasses". All other
  labels are absent. "|" alone means that every label is absent; "" is a missing annotation, and so
  is "?". "?hat" means that nothing is known about this one label. Use this form for a csv column
  that holds a list, and in datasets (`join_names`). Labels are identified by name, so two datasets
  with another order of labels can't be confused.
- (N, L) numbers: 1 for present, 0 for absent, NaN for unknown. Use this form for several 0 / 1
  columns of a csv. `classes` must then list their names, in the order of the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from torch import Tensor, nn

from ..contracts import (
    Annotation,
    AnswerFormat,
    BuildContext,
    Features,
    Head,
    SupervisedTask,
)
from ..contracts.answers import PRESENT
from ..errors import MtlError
from ..rng import Rng
from .classification import CONFIDENT_LOGIT, EXAMPLE_CLASSES, fraction
from .draw_text import draw_text

if TYPE_CHECKING:
    from torchmetrics import Metric

SEPARATOR, UNKNOWN = "|", "?"
_UNKNOWN = -1  # the value of an unknown label in a target


def join_names(present: Iterable[str], unknown: Iterable[str] = ()) -> str:
    """Return the annotation of one image from its present and its unknown labels.

    All other labels are absent.
    """
    names = [*present, *(UNKNOWN + name for name in unknown)]
    return SEPARATOR.join(names) if names else SEPARATOR


@frozen
class Multilabel(SupervisedTask):
    """Several named labels, each present or absent.

    A label that is unknown in an image is excluded from its loss and its metrics.

    reads: the annotation (default: the task's label).
    classes: the names of the labels, in the order of the outputs (default: those of the training
    samples, sorted). Other names in an annotation are ignored.
    dropout: before the linear layer, in [0, 1).
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "one_of": "a foreign name in an annotation says nothing about the task's own labels"
    }
    stratifies: ClassVar[bool] = False
    reads: str = ""
    classes: tuple[str, ...] = ()
    dropout: float = field(default=0.3, validator=fraction)

    def __attrs_post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes has a name twice: {self.classes}")
        if len(self.classes) == 1:
            raise ValueError(
                f"classes has the name {self.classes[0]!r} alone; expected at least two. For one "
                "label, use classification"
            )
        for name in self.classes:
            if not name or SEPARATOR in name or name.startswith(UNKNOWN):
                raise ValueError(
                    f"classes has the name {name!r}; expected a name that is not empty, does not "
                    f"contain {SEPARATOR!r} and does not start with {UNKNOWN!r}"
                )

    def fit(self, annotation: Annotation) -> Multilabel:
        """Set `classes` to the names in the labeled training samples, unless it is set.

        Raises MtlError if the annotation is numeric or holds fewer than two names.
        """
        if self.classes:
            return self
        if annotation.dtype.kind in "fiub":
            raise MtlError(
                f"the annotation {self.reads!r} holds numbers, which have no names: "
                f"set `classes` of the task, in the order of the columns"
            )
        names: set[str] = set()
        for cell in np.unique(annotation):
            names |= {*_present(cell), *_unknown(cell)}
        if not names:
            raise MtlError(
                f"no training sample has a label in the annotation {self.reads!r}: "
                f"there are no classes to learn"
            )
        if len(names) == 1:
            raise MtlError(
                f"the annotation {self.reads!r} of the training samples holds the name "
                f"{names.pop()!r} alone; expected at least two. For one label, use classification"
            )
        return evolve(self, classes=tuple(sorted(names)))

    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """Convert (N,) strings or (N, L) numbers to targets (N, L) int64 and present (N,) bool.

        A target is 1 for present, 0 for absent, -1 for unknown. A sample is present if at least one
        of its labels is known.
        """
        if annotation.dtype.kind in "fiub":
            labels = self._from_numbers(annotation)
        else:
            labels = self._from_names(annotation)
        present = (labels != _UNKNOWN).any(1)
        target = np.where(present[:, None], labels, 0)
        return torch.from_numpy(target), torch.from_numpy(present)

    def examples(self, n: int, rng: Rng) -> Annotation:
        """Draw (n,) strings for the conformance kit, from three labels if `classes` is not set.

        A label is unknown with probability 1 / 8, absent with 3 / 8, present with 4 / 8.
        """
        names = self.classes or EXAMPLE_CLASSES
        cells: list[str] = []
        for draws in rng.randint(8, n, len(names)).tolist():
            present = [name for name, draw in zip(names, draws) if draw > 3]
            unknown = [name for name, draw in zip(names, draws) if draw == 0]
            cells.append(join_names(present, unknown))
        return np.array(cells)

    def _from_numbers(self, annotation: Annotation) -> np.ndarray:
        """Convert (N, L) numbers to (N, L) int64. Raises MtlError for other numbers than 0, 1."""
        numbers = annotation.reshape(len(annotation), -1).astype(np.float64)
        if numbers.shape[1] != len(self.classes):
            raise MtlError(
                f"the annotation {self.reads!r} has {numbers.shape[1]} columns, but the task has "
                f"{len(self.classes)} classes: {', '.join(self.classes)}"
            )
        known = ~np.isnan(numbers)
        invalid = numbers[known & (numbers != 0) & (numbers != 1)]
        if len(invalid):
            raise MtlError(
                f"the annotation {self.reads!r} holds {invalid[0]:g}; expected 0, 1, or nothing"
            )
        return np.where(known, numbers, _UNKNOWN).astype(np.int64)

    def _from_names(self, annotation: Annotation) -> np.ndarray:
        """Convert (N,) strings to (N, L) int64. Each different string is parsed only once."""
        column = {name: i for i, name in enumerate(self.classes)}
        cells, inverse = np.unique(annotation, return_inverse=True)
        labels = np.zeros((len(cells), len(self.classes)), dtype=np.int64)
        for row, cell in enumerate(cells):
            labels[row, [column[name] for name in _present(cell) if name in column]] = 1
            labels[row, [column[name] for name in _unknown(cell) if name in column]] = _UNKNOWN
            if str(cell).strip() in ("", UNKNOWN):
                labels[row] = _UNKNOWN
        return labels[inverse]

    def build(self, context: BuildContext) -> Head:
        return MultilabelHead(context.info.dim, self)

    def decode(self, output: Tensor) -> Tensor:
        """Convert logits (B, L) to probabilities (B, L)."""
        return output.float().sigmoid()

    def as_answer(self, target: Tensor) -> Tensor:
        """Convert targets (B, L) to probabilities 0 or 1. An unknown label counts as absent."""
        return target.clamp_min(0).float()

    def as_annotation(self, decoded: Tensor) -> Annotation:
        """Return the names of the present labels, (B,), joined by "|". decoded: (B, L)."""
        cells: list[str] = []
        for present in (decoded >= PRESENT).tolist():
            cells.append(join_names(name for name, here in zip(self.classes, present) if here))
        return np.array(cells, dtype=str)

    def target_as_annotation(self, target: Tensor) -> Annotation:
        """Return the names of the present and the unknown labels, (B,). target: (B, L)."""
        cells: list[str] = []
        for labels in target.tolist():
            present = [name for name, value in zip(self.classes, labels) if value == 1]
            unknown = [name for name, value in zip(self.classes, labels) if value == _UNKNOWN]
            cells.append(join_names(present, unknown))
        return np.array(cells, dtype=str)

    def answer_format(self) -> AnswerFormat:
        return AnswerFormat("labels", self.classes)

    def metrics(self) -> dict[str, Metric]:
        """Return macro_map, the mean average precision over the labels, and thresholded metrics.

        The others count a label as present from a probability of 0.5 on. A label that does not
        occur is left out of macro_map and macro_f1.
        """
        from torchmetrics.classification import MultilabelExactMatch, MultilabelF1Score

        from .multilabel_metrics import BELOW_PRESENT, MeanAveragePrecision, MeanF1

        n = len(self.classes)
        return {
            "macro_map": MeanAveragePrecision(n, _UNKNOWN),
            "macro_f1": MeanF1(n, _UNKNOWN),
            "micro_f1": MultilabelF1Score(n, BELOW_PRESENT, average="micro", ignore_index=_UNKNOWN),
            "exact_match": MultilabelExactMatch(n, BELOW_PRESENT, ignore_index=_UNKNOWN),
        }

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """Write the present labels on an image (3, H, W). decoded: (L,) probabilities."""
        present = [name for name, p in zip(self.classes, decoded.tolist()) if p >= PRESENT]
        return draw_text(image, ", ".join(present) or "-")


class MultilabelHead(Head):
    """Dropout and ONE linear layer: pooled features (B, D) -> logits (B, L)."""

    def __init__(self, dim: int, task: Multilabel) -> None:
        super().__init__()
        self.answer = nn.Sequential(nn.Dropout(task.dropout), nn.Linear(dim, len(task.classes)))

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean binary cross-entropy over the known labels of each sample, (B,)."""
        known = (target != _UNKNOWN).float()
        per_label = F.binary_cross_entropy_with_logits(
            output.float(), target.clamp_min(0).float(), reduction="none"
        )
        return (per_label * known).sum(1) / known.sum(1).clamp_min(1)

    def ideal(self, target: Tensor) -> Tensor:
        """Return logits (B, L) that are nearly certain of each label."""
        return CONFIDENT_LOGIT * (2 * target.clamp_min(0).float() - 1)


def _present(cell: str) -> list[str]:
    return [name for name in _names(cell) if not name.startswith(UNKNOWN)]


def _unknown(cell: str) -> list[str]:
    return [name[len(UNKNOWN) :] for name in _names(cell) if name.startswith(UNKNOWN)]


def _names(cell: str) -> list[str]:
    names = [name.strip() for name in str(cell).split(SEPARATOR)]
    return [name for name in names if name]
