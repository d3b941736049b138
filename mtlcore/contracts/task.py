"""The base classes of supervised tasks, and what their methods receive and return.

Shapes: B samples of a micro-batch, N samples of a dataset, (H, W) pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..geometry import Geometry
from .answers import AnswerFormat
from .components import BuildContext, Component, Head
from .samples import Annotation, Answer, Output

if TYPE_CHECKING:
    from torchmetrics import Metric

Moved = Tensor | tuple[Tensor, Tensor]
"""What `SupervisedTask.move` returns: targets (B, ...), or these and the shares (B,)."""


class SupervisedTask(Component):
    """A task that learns from labels.

    reads: name of the annotation that it needs ("emotion", "pose_deg"). It is a class attribute or
    a field. An empty field gets the task's label from the configuration.
    by: names of attributes. The metrics are also computed for each of their values
    ("gender/accuracy[race=white]"), with the number of labeled samples ("gender/n[race=white]").
    It is a class attribute or a field. Attributes that the data lack are skipped.
    classes: names of its classes, in the order of the rows and columns of its confusion matrix. It
    is a class attribute or a field. It is empty for a task without classes.
    stratifies: whether splits and shares of the labels are stratified by the annotation: by its
    names, or the deciles of its first number. False if most of its values are rare, such as sets of
    names.

    The conformance kit uses one optional member:

    - `examples(n, rng) -> Annotation`: n annotations as a dataset could have them.
    """

    kind = "task"
    reads: str
    by: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    stratifies: ClassVar[bool] = True

    def fit(self, annotation: Annotation) -> SupervisedTask:
        """Return a copy whose fields are all explicit (classes, class weights, mean and std).

        Called ONCE, on the annotations of the labeled training samples, as a numpy array. The saved
        configuration holds the copy, so evaluation uses the same values. Default: the task itself.
        """
        return self

    @abstractmethod
    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """Convert N annotations to targets (N, ...) and present (N,) bool.

        A missing or unknown value (such as a class that the task does not have) is not present.
        Its target holds zeros. Sample i of the result must depend on annotation i alone: the core
        passes each DISTINCT string once, and copies its target to all samples that have it.
        """

    @abstractmethod
    def build(self, context: BuildContext) -> Head:
        """Return the head of this task."""

    def move(self, target: Tensor, geometry: Geometry) -> Moved:
        """Move targets (B, ...) as `geometry` moved the images.

        Called for each view that the head receives. Default: the target does not move.

        Return (target, share) if some labels can't be moved. share: (B,) in [0, 1], the weight of
        each sample's loss in this view; 0 removes it. The loss is still divided by the number of
        labeled samples of the step, which is known before anything moves.
        """
        return target

    def decode(self, output: Output) -> Tensor:
        """Convert an output of the head to predictions (B, ...), as metrics and users read them.

        Default: the output itself.
        """
        return output

    def as_answer(self, target: Tensor) -> Tensor:
        """Convert targets (B, ...) to the form of `decode`, so that `draw` can show the truth.

        Default: the targets themselves.
        """
        return target

    def as_annotation(self, decoded: Tensor) -> Annotation:
        """Convert predictions (B, ...), as `decode` returns them, to the form of the annotation.

        The result is names (B,), or numbers (B, ...) in the unit of the annotation. Default: the
        predictions themselves.
        """
        return decoded.numpy(force=True)

    def target_as_annotation(self, target: Tensor) -> Annotation:
        """Convert targets (B, ...) to the form of the annotation, as `as_annotation` does.

        Override it if a target says more than an answer, such as "unknown". Default: the
        annotation of `as_answer`.
        """
        return self.as_annotation(self.as_answer(target))

    def answer_format(self) -> AnswerFormat:
        """Return how users read the numbers of `answer_numbers`.

        Default: the probabilities of `classes` if the task has any, or numbers without names.
        """
        return AnswerFormat("label", self.classes) if self.classes else AnswerFormat("values")

    def answer_numbers(self, decoded: Tensor) -> Tensor:
        """Convert predictions (B, ...), as `decode` returns them, to numbers (B, n) in real units.

        It is a part of exported graphs: use torch operations alone, and `shape[0]` instead of
        `len`. Default: the predictions themselves.
        """
        return decoded

    def answer(self, decoded: Tensor) -> list[Answer]:
        """Convert predictions (B, ...) to one answer for each sample, in words and real units.

        Default: the numbers of `answer_numbers`, read as `answer_format` says.
        """
        return self.answer_format().answers(self.answer_numbers(decoded))

    def average(self, decoded: Tensor, mirrored: Tensor) -> Tensor:
        """Combine the predictions for an image and for its mirror image, each (B, ...).

        `mirrored` is as predicted: values with a direction must be mirrored back. Default: the
        mean of both.
        """
        return (decoded + mirrored) / 2

    def metrics(self) -> dict[str, Metric]:
        """Return name -> new torchmetrics.Metric, updated with (decoded, target).

        Only present samples are passed. The first metric is the main one of the task.

        A scalar metric appears in tables and JSON. A matrix (a confusion matrix) is reported beside
        them. A metric whose `higher_is_better` is a bool can select the best checkpoint. Perfect
        predictions must reach the bound that a metric declares: `plot_upper_bound`, or
        `plot_lower_bound` if lower is better. The conformance kit checks this. A metric that is a
        mean over samples may have `errors(decoded, target)`, the error of each sample, (n,): a
        report then finds its interval without an update for each resample.
        """
        return {}

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """Draw one prediction on an image (3, H, W) in [0, 1]. Default: the image itself."""
        return image


class AlignedTask(SupervisedTask):
    """A supervised task with labels in pixel coordinates: a map or points.

    reads: name of a map or of points of the datasets (`Index.maps`, `Index.points`).

    Its targets are not kept in memory as other targets are: the image cache holds the maps and
    points, or decodes them on demand. They come with each batch, cropped and shrunk with its
    images. A target is one of

    - (B, H, W) or (B, C, H, W) integers or bool: a map;
    - (B, C, H, W) float32: a map; C = 1 if the dataset's map has no channels;
    - (B, K, 2) float32: points, x and y in pixels; NaN if unknown.

    uint16 maps become int32, and uint32 maps int64. Targets of samples without a label are zeros,
    or NaN for points. `Index` declares which samples have a label. `fit` and `target` are not
    called.

    The conformance kit uses one optional member:

    - `examples(n, size, rng) -> Tensor`: n targets for images of `size` (h, w), which is (32, 32)
      or (32, 40).
    """

    @abstractmethod
    def move(self, target: Tensor, geometry: Geometry) -> Moved:
        """Move maps or points to the view: `geometry.warp(target)` or `geometry.points(target)`.

        The result has the form of the target, in the pixels of the view. Directions must change
        too: swap left and right points in a mirrored image, rotate normals in a rotated one. See
        `SupervisedTask.move` for labels that can't be moved.
        """

    def fault(self, label: np.ndarray, size: tuple[int, int]) -> str | None:
        """Return why a decoded label can't be one of this task, None if it can.

        label: a map or points as the dataset returns them (`Sample`). size: (h, w) of its image.
        Called when a sample is read, on the host. The text stands in a message after the sample's
        name: what was found, and what was expected. Default: every label can.
        """
        return None

    def mirror_back(self, decoded: Tensor, size: tuple[int, int]) -> Tensor:
        """Convert predictions (B, ...) for mirrored views to predictions for the views.

        size: (h, w) of the views. Called before `average`. Override it if the label has
        directions. Default: maps are mirrored, and x of points becomes the width - x.
        """
        if not are_points(decoded):
            return decoded.flip(-1)
        x, y = decoded.unbind(-1)
        return torch.stack([size[1] - x, y], -1)

    def average(self, decoded: Tensor, mirrored: Tensor) -> Tensor:
        """Combine the predictions for an image and for its mirror image, each (B, ...).

        `mirrored` is mirrored back already, by `mirror_back`. Default: the mean of both.
        """
        return (decoded + mirrored) / 2

    def answer_format(self) -> AnswerFormat:
        """Return that of numbers without names: `answer` says what a map or points mean."""
        return AnswerFormat("values")

    def answer(self, decoded: Tensor) -> list[Answer]:
        """Return {"points": [[x, y], ...]}, or {"map": nested lists}, for each sample.

        A map of classes (B, H, W), integers, has also {"shares": {name: share of its pixels}}, if
        the task has `classes`. Prediction passes points in pixels of the image.
        """
        if are_points(decoded):
            return [{"points": points} for points in decoded.tolist()]
        answers: list[Answer] = [{"map": values} for values in decoded.tolist()]
        if self.classes and decoded.ndim == 3:
            for answer, values in zip(answers, decoded):
                counts = values.flatten().long().bincount(minlength=len(self.classes))
                shares = (counts / values.numel()).tolist()
                answer["shares"] = dict(zip(self.classes, shares))
        return answers

    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """Raise TypeError: the labels come with each batch."""
        raise TypeError(f"{type(self).__name__}.target is not used: {self.reads!r} is in the batch")


def are_points(target: Tensor) -> bool:
    """Return whether the targets of an `AlignedTask` are points, and not maps."""
    return target.ndim == 3 and target.is_floating_point()
