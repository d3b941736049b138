"""Metrics of segmentation: torchmetrics on pixels that have a class.

Import this module late: torchmetrics takes a second to load.
"""

from __future__ import annotations

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassJaccardIndex,
)

from ..class_metrics import MeanClassAccuracy


class _OnClasses:
    """Updates a metric with probabilities (B, C, H, W) and class numbers (B, H, W)."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.argmax(1), target.long())  # type: ignore[misc]


class MeanIou(_OnClasses, MulticlassJaccardIndex):
    """The mean of the classes' intersections over unions. Classes without pixels are left out."""

    plot_upper_bound = 1.0


class PixelAccuracy(_OnClasses, MulticlassAccuracy):
    """The share of pixels whose class is right."""


class ClassAccuracy(_OnClasses, MeanClassAccuracy):
    """The mean of the classes' shares of pixels that are right. Absent classes are left out."""


class Confusion(_OnClasses, MulticlassConfusionMatrix):
    """The number of pixels of each class (row) that are predicted as each class (column)."""


def segmentation_metrics(c: int, ignore_index: int) -> dict[str, Metric]:
    """Return miou, pixel_accuracy, mean_class_accuracy and confusion of c classes."""
    return {
        "miou": MeanIou(c, ignore_index=ignore_index),
        "pixel_accuracy": PixelAccuracy(c, average="micro", ignore_index=ignore_index),
        "mean_class_accuracy": ClassAccuracy(c, ignore_index=ignore_index),
        "confusion": Confusion(c, ignore_index=ignore_index),
    }
