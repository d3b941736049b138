"""Regression: one or several numbers for each image.

The head is a linear layer on the pooled features. It learns numbers that are standardized by the
mean and the standard deviation of the training samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from attrs import Attribute, evolve, field, frozen
from torch import Tensor, nn

from ..contracts import (
    Annotation,
    AnswerFormat,
    BuildContext,
    Features,
    Head,
    SupervisedTask,
)
from ..errors import MtlError
from ..rng import Rng
from .classification import fraction
from .draw_text import draw_text, in_digits

if TYPE_CHECKING:
    from torchmetrics import Metric

_LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "huber": F.huber_loss,
}
SHOWN_CHARACTERS = 40  # of a text in a message


def _positive(_: object, attribute: Attribute[tuple[float, ...]], value: tuple[float, ...]) -> None:
    if any(not number > 0 for number in value):
        raise ValueError(f"'{attribute.name}' must be above 0: {value}")


@frozen
class Regression(SupervisedTask):
    """D numbers for each image, from an annotation (N,) or (N, D).

    A sample that lacks one of its numbers (NaN) counts as lacking all of them.

    reads: the annotation (default: the task's label).
    loss: "l1", "l2" (squared error) or "huber" (squared up to one standard deviation, then linear).
    It is computed on the standardized numbers, so that it does not depend on their unit.
    outputs: the names of the numbers (default: "0", "1", ...), for metrics and drawings.
    mean, std: the standardization of each number (default: of the training samples; a constant
    number gets std 1).
    dropout: before the linear layer, in [0, 1).
    """

    reads: str = ""
    loss: Literal["l1", "l2", "huber"] = "l2"
    outputs: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = field(default=(), validator=_positive)
    dropout: float = field(default=0.0, validator=fraction)

    def __attrs_post_init__(self) -> None:
        lengths = {key: len(values) for key, values in self._per_output().items() if values}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"outputs, mean and std differ in length: {lengths}")
        if len(set(self.outputs)) != len(self.outputs):
            raise ValueError(f"outputs has a name twice: {self.outputs}")

    def fit(self, annotation: Annotation) -> Regression:
        """Set outputs, mean and std from the labeled training samples, unless they are set.

        Raises MtlError if the annotation does not hold numbers, or if no sample has a number.
        """
        if self.outputs and self.mean and self.std:
            return self
        values = self._values(annotation)
        values = values[self.known(values)]
        if not len(values):
            raise MtlError(
                f"no training sample has numbers in the annotation {self.reads!r}: "
                f"there is nothing to learn"
            )
        mean = self.mean or tuple(values.mean(0).tolist())
        deviations = values.std(0)
        # Rounding alone gives a constant number a deviation of about 1e-16 of its size.
        varies = deviations > 1e-12 * np.abs(values).max(0)
        std = self.std or tuple(np.where(varies, deviations, 1.0).tolist())
        outputs = self.outputs or tuple(map(str, range(len(mean))))
        return evolve(self, outputs=outputs, mean=mean, std=std)

    def known(self, values: np.ndarray) -> np.ndarray:
        """Return which samples (N, D) have a label, (N,) bool.

        Override it if a dataset writes a special number for a missing label.
        """
        return np.isfinite(values).all(1)

    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """Convert (N,) or (N, D) numbers to targets (N, D) float32 and present (N,) bool.

        Targets have the unit of the annotation.
        """
        values = self._values(annotation)
        present = self.known(values)
        targets = np.where(present[:, None], values, 0).astype(np.float32)
        return torch.from_numpy(targets), torch.from_numpy(present)

    def examples(self, n: int, rng: Rng) -> Annotation:
        """Draw (n,) numbers for the conformance kit, or (n, D) if a field determines D."""
        width = len(self.outputs or self.mean or self.std)
        unit = (2 * rng.rand(n, max(width, 1)) - 1).double().numpy()
        std = np.array(self.std) if self.std else 1.0
        mean = np.array(self.mean) if self.mean else 0.0
        numbers: np.ndarray = unit * std + mean
        return numbers if width else numbers[:, 0]

    def _per_output(self) -> dict[str, tuple[object, ...]]:
        """The fields with one entry for each output. Empty ones are not set."""
        return {"outputs": self.outputs, "mean": self.mean, "std": self.std}

    def _values(self, annotation: Annotation) -> np.ndarray:
        """Return (N, D) float64.

        Raises MtlError if the annotation does not hold numbers, or if D contradicts the fields.
        """
        if annotation.dtype.kind not in "fiub":
            raise MtlError(
                f"the annotation {self.reads!r} holds text{_first_text(annotation)}; "
                f"regression needs numbers"
            )
        values = annotation.astype(np.float64)
        values = values[:, None] if values.ndim == 1 else values.reshape(len(values), -1)
        d = values.shape[1]
        for key, per_output in self._per_output().items():
            if per_output and len(per_output) != d:
                raise MtlError(
                    f"the annotation {self.reads!r} has {d} numbers per sample, "
                    f"but {key} = {per_output}"
                )
        return values

    def build(self, context: BuildContext) -> Head:
        return RegressionHead(context.info.dim, self)

    def decode(self, output: Tensor) -> Tensor:
        """Convert standardized numbers (B, D) to the unit of the annotation."""
        std = output.new_tensor(self.std).float()
        mean = output.new_tensor(self.mean).float()
        return output.float() * std + mean

    def as_answer(self, target: Tensor) -> Tensor:
        """Return the targets (B, D) themselves: they have the form of `decode`."""
        return target

    def as_annotation(self, decoded: Tensor) -> Annotation:
        """Return the numbers (B, D) themselves; (B,) if there is one output."""
        numbers = decoded.numpy(force=True)
        return numbers[:, 0] if numbers.shape[1] == 1 else numbers

    def answer_format(self) -> AnswerFormat:
        """Return the names of several outputs; one output is named "value"."""
        return AnswerFormat("values", self.outputs if len(self.outputs) > 1 else ())

    def metrics(self) -> dict[str, Metric]:
        """Return mae and rmse over samples and outputs, and r2, the mean over outputs.

        mae and rmse have the unit of the annotation. With several outputs, there is also the mae of
        each.
        """
        from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

        from .regression_metrics import ColumnError, Determination

        found: dict[str, Metric] = {
            "mae": MeanAbsoluteError(),
            "rmse": MeanSquaredError(squared=False),
            "r2": Determination(self.mean, self.std),
        }
        if len(self.outputs) > 1:
            for i, name in enumerate(self.outputs):
                found[f"mae_{name}"] = ColumnError(i)
        return found

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """Write the numbers on an image (3, H, W). decoded: (D,)."""
        if len(self.outputs) == 1:
            return draw_text(image, in_digits(float(decoded)))
        pairs = zip(self.outputs, decoded.tolist())
        return draw_text(image, *(f"{name} {in_digits(number, 3)}" for name, number in pairs))


def _first_text(annotation: Annotation) -> str:
    """Return the first value that is not a number, as the middle of a message.

    Returns "" if every value is a number that is stored as text.
    """
    for value in annotation.astype(str).ravel().tolist():
        try:
            float(value or "nan")
        except ValueError:
            shown = value[:SHOWN_CHARACTERS]
            return f", such as {shown!r} (in a csv: list it in `numeric` to skip such samples)"
    return ""


class RegressionHead(Head):
    """Dropout and ONE linear layer: pooled features (B, D') -> standardized numbers (B, D)."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, task: Regression) -> None:
        super().__init__()
        self.answer = nn.Sequential(nn.Dropout(task.dropout), nn.Linear(dim, len(task.mean)))
        self.kind = task.loss
        # Not in checkpoints: the saved configuration holds mean and std.
        self.register_buffer("mean", torch.tensor(task.mean), persistent=False)
        self.register_buffer("std", torch.tensor(task.std), persistent=False)

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the D standardized numbers, (B,)."""
        loss = _LOSSES[self.kind](output.float(), self.ideal(target), reduction="none")
        return loss.mean(1)

    def ideal(self, target: Tensor) -> Tensor:
        """Return the standardized targets (B, D)."""
        return (target - self.mean) / self.std
