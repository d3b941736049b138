"""Images of a checked data set with their labels drawn on them, since a wrong label order is seen in a second.

A class a strip, or numbers in rising order; then the first groups of copies that have different labels. The task that reads
an annotation draws it, as it draws its own answers; without one, the value is written.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..config.experiment import Experiment
from ..contracts import SupervisedTask
from ..data.check import Report
from ..data.copies import disagree
from ..data.images import shrink
from ..data.splits import given
from ..errors import MtlError
from ..tasks.draw_text import written
from .preview import Strip, sheet

SIDE, COLUMNS = 128, 8  # pixels of an image; images side by side
MOST_CLASSES, NUMERIC_ROWS, MOST_GROUPS = 16, 3, 4


def check_sheet(experiment: Experiment, report: Report) -> np.ndarray:
    """-> (H, W, 3) uint8. Images that can't be read are passed over."""
    strips = [strip for name in report.reads for strip in _strips(experiment, report, name)]
    strips += _conflicts(experiment, report)
    return sheet(
        strips
        or [Strip("no labels", _images(experiment, report, _spread(np.arange(len(report.index)))))],
        SIDE,
    )


def _strips(experiment: Experiment, report: Report, name: str) -> Iterator[Strip]:
    values = report.index.annotations[name]
    known = np.flatnonzero(given(values))
    if values.dtype.kind in "fiub":
        order = (
            known[np.argsort(values[known].reshape(len(known), -1)[:, 0], kind="stable")]
            if len(known)
            else known
        )
        indices = _spread(order, COLUMNS * NUMERIC_ROWS)
        for start in range(0, len(indices), COLUMNS):
            yield _strip(
                experiment,
                report,
                name,
                indices[start : start + COLUMNS],
                name if not start else "",
            )
        return
    classes, counts = np.unique(values[known].astype(str), return_counts=True)
    for label, number in list(zip(classes.tolist(), counts.tolist()))[:MOST_CLASSES]:
        indices = _spread(np.flatnonzero(values == label))
        yield _strip(experiment, report, name, indices, f"{label[:24]}\n{number} samples")


def _conflicts(experiment: Experiment, report: Report) -> Iterator[Strip]:
    place = {str(key): index for index, key in enumerate(report.index.keys)}
    for keys in report.conflicting[:MOST_GROUPS]:
        indices = np.array([place[key] for key in keys])
        name = next(n for n in report.reads if disagree(indices, [report.index.annotations[n]]))
        yield _strip(
            experiment, report, name, indices[:COLUMNS], f"{len(keys)} copies,\nlabels differ"
        )


def _strip(
    experiment: Experiment, report: Report, name: str, indices: np.ndarray, label: str
) -> Strip:
    """One strip of images, the annotation of each drawn on it."""
    indices = indices[[_is_readable(report, index) for index in indices]]
    images = _images(experiment, report, indices)
    values = report.index.annotations[name]
    task = next((e.component for e in experiment.tasks.values() if e.component.reads == name), None)
    drawn = _by_task(task, images, values, indices) if task is not None and _draws(task) else None
    if drawn is None:
        drawn = [written(image, _text(value)) for image, value in zip(images, values[indices])]
    return Strip(label, torch.stack(drawn) if drawn else images)


def _by_task(
    task: SupervisedTask, images: Tensor, values: np.ndarray, indices: np.ndarray
) -> list[Tensor] | None:
    """None where the task makes nothing of these labels."""
    try:
        fitted = task.fit(values[given(values)])
        target, present = fitted.target(values[indices])
    except MtlError:
        return None
    answers = fitted.as_answer(target)  # `_draws` has looked
    return [
        fitted.draw(image, answer) if here else written(image, "no label")
        for image, answer, here in zip(images, answers, present.tolist())
    ]


def _draws(task: SupervisedTask) -> bool:
    return hasattr(task, "as_answer") and type(task).draw is not SupervisedTask.draw


def _images(experiment: Experiment, report: Report, indices: np.ndarray) -> Tensor:
    """(N, 3, SIDE, SIDE) float in [0, 1]."""
    dataset = experiment.data[report.label].component
    squares = [
        shrink(dataset.decode(report.index, int(index)), SIDE, enlarge=True) for index in indices
    ]
    return (
        torch.from_numpy(np.array(squares, dtype=np.uint8).reshape(-1, SIDE, SIDE, 3)).permute(
            0, 3, 1, 2
        )
        / 255
    )


def _is_readable(report: Report, index: int) -> bool:
    key = str(report.index.keys[index])
    return key not in report.missing and key not in report.unreadable


def _spread(indices: np.ndarray, number: int = COLUMNS) -> np.ndarray:
    """Up to so many of them, evenly spaced."""
    return indices[
        np.unique(
            np.linspace(0, len(indices) - 1, min(number, len(indices))).round().astype(np.int64)
        )
    ]


def _text(value: object) -> str:
    if isinstance(value, np.ndarray):
        return ", ".join(f"{number:.3g}" for number in value.ravel()[:4])
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:24]
