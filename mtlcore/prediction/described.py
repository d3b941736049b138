"""What the numbers of each task mean, as data: in packages, exported files and `/metadata`."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..contracts import AlignedTask, AnswerFormat, SupervisedTask
from ..contracts.task import are_points
from ..evaluation.decoded import decoded_predictions
from .predictor import Predictor


def described_answers(predictor: Predictor, exported: bool = False) -> dict[str, dict[str, Any]]:
    """Return task label -> form, names and unit of its numbers, and their shape.

    shape: "map", "points", or "" for neither. names: of a map of classes, these classes.
    exported: of the tensors of an exported file: it has probabilities where `predictor` answers
        with classes, and points in pixels of the input of the encoder.
    """
    columns = predictor.columns()
    decoded = _decoded(predictor)
    found: dict[str, dict[str, Any]] = {}
    for label, task in predictor.tasks.items():
        own = [name.removeprefix(f"{label}/") for name in columns if name.startswith(f"{label}/")]
        form, shape, names = task.answer_format(), "", list(task.answer_format().names) or own
        unit = _unit(form)
        if isinstance(task, AlignedTask):
            shape = "points" if are_points(decoded[label]) else "map"
            names = list(task.classes)
            has_shares = any(name.startswith("shares/") for name in own)
            unit = _unit_of_pixels(task, decoded[label], has_shares, exported)
        found[label] = {"form": form.form, "names": names, "unit": unit, "shape": shape}
    return found


def _decoded(predictor: Predictor) -> dict[str, Tensor]:
    """Return the predictions for one gray image, task label -> (1, ...)."""
    preprocess = predictor.preprocess
    gray = np.full((*preprocess.stored, 3), 128, dtype=np.uint8)
    device = next(predictor.net.parameters()).device
    view = preprocess.view(preprocess.stack([gray]).to(device))
    return decoded_predictions(predictor.net, predictor.tasks, view.images, predictor.precision)


def _unit(answer_format: AnswerFormat) -> str:
    """Return the unit of the numbers of a task, in words."""
    if answer_format.form != "values":
        return "probability"
    return answer_format.unit or "as in the labels of the training data"


def _unit_of_pixels(task: SupervisedTask, decoded: Tensor, has_shares: bool, exported: bool) -> str:
    """Return the unit of points, or of the pixels of a map. has_shares: it answers with classes."""
    if are_points(decoded):
        return "pixels of input.size" if exported else "pixels of the image"
    if exported and task.classes and decoded.shape[1] == len(task.classes):
        return "probability"
    return "number of the class, from 0" if has_shares else _unit(task.answer_format())
