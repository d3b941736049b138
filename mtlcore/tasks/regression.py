"""Regression: one number or several an image, learned from the pooled features and standardized by the training split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from attrs import Attribute, evolve, field, frozen
from torch import Tensor, nn

from ..contracts import Annotation, BuildContext, Features, Head, SupervisedTask
from ..errors import MtlError
from ..rng import Rng
from .classification import fraction
from .draw_text import written

_LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "huber": F.huber_loss,
}


def _positive(_: Any, attribute: Attribute[Any], value: tuple[float, ...]) -> None:
    if any(not number > 0 for number in value):
        raise ValueError(f"'{attribute.name}' must be above 0: {value}")


@frozen
class Regression(SupervisedTask):
    """D numbers an image, from an annotation (N,) or (N, D). A sample that lacks one of them (NaN) lacks all.

    reads: the annotation (default: the task's label). loss: l1, l2 (squared) or huber (squared up to one standard deviation,
    then straight), on the standardized numbers, so that its size does not hang on their unit. outputs: their names (default:
    "0", "1", ...), used in metrics and images. mean, std: of each of them (default: of the training samples; a constant one gets
    std 1). dropout: before the linear layer, in [0, 1).
    """

    reads: str = ""
    loss: Literal["l1", "l2", "huber"] = "l2"
    outputs: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = field(default=(), validator=_positive)
    dropout: float = field(default=0.0, validator=fraction)

    def __attrs_post_init__(self) -> None:
        given = {
            key: len(getattr(self, key)) for key in ("outputs", "mean", "std") if getattr(self, key)
        }
        if len(set(given.values())) > 1:
            raise ValueError(f"outputs, mean and std differ in length: {given}")
        if len(set(self.outputs)) != len(self.outputs):
            raise ValueError(f"outputs holds a name twice: {self.outputs}")

    def fit(self, annotation: Annotation) -> Regression:
        """Names, mean and standard deviation of these labeled samples, where they are not given."""
        if self.outputs and self.mean and self.std:
            return self
        values = self._values(annotation)
        values = values[self.known(values)]
        if not len(values):
            raise MtlError(
                f"no training sample has numbers in the annotation {self.reads!r}: there is nothing to learn"
            )
        mean = self.mean or tuple(values.mean(0).tolist())
        std = self.std or tuple(float(s) if s > 0 else 1.0 for s in values.std(0))
        return evolve(
            self, outputs=self.outputs or tuple(map(str, range(len(mean)))), mean=mean, std=std
        )

    def known(self, values: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,) bool: the samples that are labels. Override where a set writes a number for "none"."""
        return np.isfinite(values).all(1)

    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """(N,) or (N, D) numbers -> (N, D) float32, in their own unit; present (N,) bool."""
        values = self._values(annotation)
        present = self.known(values)
        return torch.from_numpy(
            np.where(present[:, None], values, 0).astype(np.float32)
        ), torch.from_numpy(present)

    def examples(self, n: int, rng: Rng) -> Annotation:
        """(n,) or (n, D) drawn numbers, D as the fields say, for the conformance kit."""
        width = len(self.outputs or self.mean or self.std)
        unit = (2 * rng.rand(n, max(width, 1)) - 1).double().numpy()
        numbers: np.ndarray = unit * (np.array(self.std) if self.std else 1.0) + (
            np.array(self.mean) if self.mean else 0.0
        )
        return numbers if width else numbers[:, 0]

    def _values(self, annotation: Annotation) -> np.ndarray:
        """-> (N, D) float64, D as the fields say. Raises MtlError where it can't be."""
        if annotation.dtype.kind not in "fiub":
            raise MtlError(
                f"the annotation {self.reads!r} holds text{_first_text(annotation)}; regression needs numbers"
            )
        values = annotation.astype(np.float64)
        values = values[:, None] if values.ndim == 1 else values.reshape(len(values), -1)
        for key in ("outputs", "mean", "std"):
            if getattr(self, key) and len(getattr(self, key)) != values.shape[1]:
                d = values.shape[1]
                raise MtlError(
                    f"the annotation {self.reads!r} has {d} numbers a sample, but {key} = {getattr(self, key)}"
                )
        return values

    def build(self, context: BuildContext) -> Head:
        return RegressionHead(context.info.dim, self)

    def decode(self, output: Tensor) -> Tensor:
        """(B, D) standardized -> (B, D) in the annotation's unit."""
        return (
            output.float() * output.new_tensor(self.std).float()
            + output.new_tensor(self.mean).float()
        )

    def as_answer(self, target: Tensor) -> Tensor:
        """(B, D) -> (B, D): a target is an answer."""
        return target

    def metrics(self) -> dict[str, Any]:
        """mae, rmse (in the annotation's unit, over samples and outputs), r2 (mean over outputs); mae of each of several outputs."""
        from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

        from .regression_metrics import ColumnError, Determination

        found: dict[str, Any] = {
            "mae": MeanAbsoluteError(),
            "rmse": MeanSquaredError(squared=False),
            "r2": Determination(self.mean, self.std),
        }
        if len(self.outputs) > 1:
            found |= {f"mae_{name}": ColumnError(i) for i, name in enumerate(self.outputs)}
        return found

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """(3, H, W) in [0, 1], (D,) numbers -> the image with the numbers on it."""
        if len(self.outputs) == 1:
            return written(image, f"{float(decoded):.4g}")
        return written(
            image, *(f"{name} {number:.3g}" for name, number in zip(self.outputs, decoded.tolist()))
        )


def _first_text(annotation: Annotation) -> str:
    """What keeps a column from being numbers, and how a table leaves it out; "" where each value would do."""
    for value in annotation.astype(str).ravel().tolist():
        try:
            float(value or "nan")
        except ValueError:
            return f", such as {value[:40]!r} (in a csv: list it in `numeric` to leave such samples out)"
    return ""


class RegressionHead(Head):
    """Dropout and ONE linear layer: (B, D') -> (B, D) standardized numbers."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, task: Regression) -> None:
        super().__init__()
        self.answer = nn.Sequential(nn.Dropout(task.dropout), nn.Linear(dim, len(task.mean)))
        self.kind = task.loss
        self.register_buffer("mean", torch.tensor(task.mean), persistent=False)
        self.register_buffer("std", torch.tensor(task.std), persistent=False)

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,): the mean over the D standardized numbers."""
        return _LOSSES[self.kind](output.float(), self.ideal(target), reduction="none").mean(1)

    def ideal(self, target: Tensor) -> Tensor:
        """The standardized target."""
        return (target - self.mean) / self.std
