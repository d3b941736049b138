"""Multilabel: several named labels an image, each there or not; binary cross-entropy on the pooled features.

An annotation takes one of two forms:

    (N,) strings, the names that an image has, joined by "|":  "smile|glasses". All others are absent; "|" alone has none of
        them, "" is a missing annotation, and "?hat" says that of this one label nothing is known. The form of a csv column
        that holds a list, and of datasets (`join_names`): names travel, so two sets with other orders can't be mixed up.
    (N, L) numbers, 1 there, 0 not there, NaN unknown: several 0 / 1 columns of a csv. Their names are `classes`, which then
        must be given, in the order of the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from torch import Tensor, nn

from ..contracts import Annotation, BuildContext, Features, Head, SupervisedTask
from ..errors import MtlError
from ..rng import Rng
from .classification import fraction
from .draw_text import written

SEPARATOR, UNKNOWN = "|", "?"
_UNKNOWN = -1  # in a target


def join_names(present: Iterable[str], unknown: Iterable[str] = ()) -> str:
    """The annotation of one image: these labels are there, of those nothing is known, every other one is absent."""
    names = [*present, *(UNKNOWN + name for name in unknown)]
    return SEPARATOR.join(names) if names else SEPARATOR


@frozen
class Multilabel(SupervisedTask):
    """Several named labels, each there or not; a label that is unknown in an image is left out of its loss and its metrics.

    reads: the annotation (default: the task's label). classes: the labels' names, in the order of the outputs (default: those
    of the training samples, sorted); names that are not among them are passed over. dropout: before the linear layer, in [0, 1).
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "one_of": "a name that is not among its classes says nothing of those that are"
    }
    reads: str = ""
    classes: tuple[str, ...] = ()
    dropout: float = field(default=0.3, validator=fraction)

    def __attrs_post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes holds a name twice: {self.classes}")
        wrong = [
            name
            for name in self.classes
            if not name or SEPARATOR in name or name.startswith(UNKNOWN)
        ]
        if wrong:
            raise ValueError(
                f"classes holds {wrong[0]!r}: a name has letters, no {SEPARATOR!r}, and no {UNKNOWN!r} in front"
            )

    def fit(self, annotation: Annotation) -> Multilabel:
        """The names in these labeled samples, where `classes` is not given."""
        if self.classes:
            return self
        if annotation.dtype.kind in "fiub":
            raise MtlError(
                f"the annotation {self.reads!r} holds numbers, which have no names: give the task `classes`, in the "
                f"order of the columns"
            )
        names = {
            name for cell in np.unique(annotation) for name in (*_present(cell), *_unknown(cell))
        }
        if not names:
            raise MtlError(
                f"no training sample has a label in the annotation {self.reads!r}: there are no classes to learn"
            )
        return evolve(self, classes=tuple(sorted(names)))

    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """(N,) strings or (N, L) numbers -> (N, L) int64: 1 there, 0 not there, -1 unknown; present (N,) bool."""
        flags = (
            self._of_numbers(annotation)
            if annotation.dtype.kind in "fiub"
            else self._of_names(annotation)
        )
        present = (flags != _UNKNOWN).any(1)
        return torch.from_numpy(np.where(present[:, None], flags, 0)), torch.from_numpy(present)

    def examples(self, n: int, rng: Rng) -> Annotation:
        """(n,) drawn strings, for the conformance kit: each of the classes (of three where none are given) there, not there, or in
        one of eight samples unknown.
        """
        names = self.classes or ("one", "three", "two")
        kinds = rng.randint(8, n, len(names)).tolist()
        samples = ([name for name, k in zip(names, sample) if k > 3] for sample in kinds)
        unknown = ([name for name, k in zip(names, sample) if k == 0] for sample in kinds)
        return np.array([join_names(*pair) for pair in zip(samples, unknown)])

    def _of_numbers(self, annotation: Annotation) -> np.ndarray:
        numbers = annotation.reshape(len(annotation), -1).astype(np.float64)
        if numbers.shape[1] != len(self.classes):
            raise MtlError(
                f"the annotation {self.reads!r} has {numbers.shape[1]} columns, but the task has {len(self.classes)} classes: "
                f"{', '.join(self.classes)}"
            )
        known = ~np.isnan(numbers)
        strange = numbers[known & (numbers != 0) & (numbers != 1)]
        if len(strange):
            raise MtlError(
                f"the annotation {self.reads!r} holds {strange[0]:g}; expected 0, 1, or nothing"
            )
        return np.where(known, numbers, _UNKNOWN).astype(np.int64)

    def _of_names(self, annotation: Annotation) -> np.ndarray:
        place = {name: i for i, name in enumerate(self.classes)}
        cells, which = np.unique(annotation, return_inverse=True)
        flags = np.zeros((len(cells), len(self.classes)), dtype=np.int64)
        for sample, cell in enumerate(cells):
            flags[sample, [place[name] for name in _present(cell) if name in place]] = 1
            flags[sample, [place[name] for name in _unknown(cell) if name in place]] = _UNKNOWN
            if not cell:
                flags[sample] = _UNKNOWN
        return flags[which]

    def build(self, context: BuildContext) -> Head:
        return MultilabelHead(context.info.dim, self)

    def decode(self, output: Tensor) -> Tensor:
        """(B, L) logits -> (B, L) probabilities."""
        return output.float().sigmoid()

    def as_answer(self, target: Tensor) -> Tensor:
        """(B, L) target -> (B, L) probabilities that are sure of it; an unknown label counts as absent."""
        return target.clamp_min(0).float()

    def metrics(self) -> dict[str, Any]:
        """macro_map: mean over the labels of the average precision. The others call a label present from 0.5 on."""
        from torchmetrics.classification import (
            MultilabelAveragePrecision,
            MultilabelExactMatch,
            MultilabelF1Score,
        )

        n = len(self.classes)
        return {
            "macro_map": MultilabelAveragePrecision(n, average="macro", ignore_index=_UNKNOWN),
            "macro_f1": MultilabelF1Score(n, average="macro", ignore_index=_UNKNOWN),
            "micro_f1": MultilabelF1Score(n, average="micro", ignore_index=_UNKNOWN),
            "exact_match": MultilabelExactMatch(n, ignore_index=_UNKNOWN),
        }

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """(3, H, W) in [0, 1], (L,) probabilities -> the image with the names of the labels that are there."""
        return written(
            image,
            ", ".join(name for name, p in zip(self.classes, decoded.tolist()) if p >= 0.5) or "-",
        )


class MultilabelHead(Head):
    """Dropout and ONE linear layer: (B, D) -> (B, L) logits."""

    def __init__(self, dim: int, task: Multilabel) -> None:
        super().__init__()
        self.answer = nn.Sequential(nn.Dropout(task.dropout), nn.Linear(dim, len(task.classes)))

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,): the mean over the labels that are known."""
        known = (target != _UNKNOWN).float()
        each = F.binary_cross_entropy_with_logits(
            output.float(), target.clamp_min(0).float(), reduction="none"
        )
        return (each * known).sum(1) / known.sum(1).clamp_min(1)

    def ideal(self, target: Tensor) -> Tensor:
        """Logits that are sure of each label."""
        return 20.0 * (2 * target.clamp_min(0).float() - 1)


def _present(cell: str) -> list[str]:
    return [name for name in _names(cell) if not name.startswith(UNKNOWN)]


def _unknown(cell: str) -> list[str]:
    return [name[len(UNKNOWN) :] for name in _names(cell) if name.startswith(UNKNOWN)]


def _names(cell: str) -> list[str]:
    return [name for name in (part.strip() for part in str(cell).split(SEPARATOR)) if name]
