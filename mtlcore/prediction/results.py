"""What a prediction is: the answers for one image or region, as a row, as data, and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import field, frozen
from torch import Tensor

from ..contracts import Answer, SupervisedTask
from ..evaluation.drawing import drawing
from ..tasks.draw_text import in_digits
from .drawn import Box, page, with_caption


@frozen
class Prediction:
    """The answers of a run for one image, or for one region that a detector found in it.

    file: the path of the image, "" for an image in memory.
    answers: task label -> answer (`SupervisedTask.answer`). Empty if there is an error.
    frame: the number of the frame in a video, from 0. None for other images.
    box: left, top, right, bottom of the region in pixels of the upright image. None for the whole
    image.
    score: the detector's score of the region, in [0, 1]. None for the whole image.
    error: why there is no answer; "" if there is one.
    """

    file: str
    answers: Mapping[str, Answer] = field(factory=dict)
    frame: int | None = None
    box: Box | None = None
    score: float | None = None
    error: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return the prediction as JSON-compatible data."""
        return {
            "file": self.file,
            "frame": self.frame,
            "box": self.box,
            "score": self.score,
            "answers": dict(self.answers),
            "error": self.error,
        }

    def as_row(self) -> dict[str, object]:
        """Return the prediction as one flat row of a table.

        The columns of an answer are "<task>/<name>", such as "fer/label" and
        "fer/probabilities/fear". Lists are joined by "|".
        """
        row: dict[str, object] = {"file": self.file, "frame": self.frame}
        sides = self.box or (None,) * 4
        row |= dict(zip(("left", "top", "right", "bottom"), sides)) | {"score": self.score}
        for label, answer in self.answers.items():
            row |= _flat(label, answer)
        return row | {"error": self.error}


@frozen(eq=False)
class PredictedRegion:
    """One predicted region.

    view: (3, h, w) float in [0, 1], what the network read. decoded: task label -> its prediction.
    Both are kept only for drawing.
    """

    prediction: Prediction
    view: Tensor | None = None
    decoded: Mapping[str, Tensor] = field(factory=dict)


@frozen(eq=False)
class PredictedImage:
    """One image and the predictions for its regions, at least one.

    image: (H, W, 3) uint8, upright. None if it was not kept or can't be read.
    tasks: label -> task. regions: in the order of the detector, the best first.
    """

    image: np.ndarray | None
    tasks: Mapping[str, SupervisedTask]
    regions: Sequence[PredictedRegion]

    def draw(self) -> np.ndarray | None:
        """Return a page (H, W, 3) uint8: the image with its boxes, and what each task draws.

        None for an image that can't be read, or was not kept.
        """
        if self.image is None:
            return None
        predictions = [region.prediction for region in self.regions]
        drawings = [self._drawings(region) for region in self.regions]
        return page(
            self.image,
            [prediction.box for prediction in predictions],
            drawings,
            next((prediction.error for prediction in predictions if prediction.error), ""),
        )

    def _drawings(self, region: PredictedRegion) -> list[Tensor]:
        """What each task draws on what the network read, (3, h, w) in [0, 1]."""
        if region.view is None:
            return []
        drawings: list[Tensor] = []
        for name, task in self.tasks.items():
            drawn = drawing(task, region.view, region.decoded[name])
            words = answer_in_words(region.prediction.answers[name])
            drawings.append(with_caption(drawn, f"{name}: {words}"))
        return drawings


def answer_in_words(answer: Answer) -> str:
    """Return the label, the labels or the numbers of an answer as one line."""
    # By the form of the values: a number may be named "label", too.
    label, labels = answer.get("label"), answer.get("labels")
    if isinstance(label, str):
        probability = answer.get("probability")
        shown = f" {probability:.2f}" if isinstance(probability, float) else ""
        return f"{label}{shown}"
    if isinstance(labels, list):
        return ", ".join(labels) or "none"
    return ", ".join(_named(name, value) for name, value in answer.items())


def _named(name: str, value: object) -> str:
    if isinstance(value, float | int):
        return f"{name} {in_digits(value)}"
    if isinstance(value, Mapping):  # the shares of classes in a map
        return ", ".join(_named(*one) for one in value.items())
    if isinstance(value, list):
        return f"{name} ({len(value)})"
    return f"{name} {value}"


def _flat(prefix: str, value: object) -> dict[str, object]:
    """Flatten nested dicts to "<prefix>/<name>" columns. A map fits into no row: it is left out."""
    if isinstance(value, Mapping):
        found: dict[str, object] = {}
        for name, inner in value.items():
            found |= _flat(f"{prefix}/{name}", inner)
        return found
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return {prefix: "|".join(value)}
    if isinstance(value, list):
        return _columns_of_points(prefix, value) if prefix.endswith("/points") else {}
    return {prefix: value}


def _columns_of_points(prefix: str, points: list[tuple[float, float]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for number, (x, y) in enumerate(points):
        found |= {f"{prefix}/{number}/x": x, f"{prefix}/{number}/y": y}
    return found
