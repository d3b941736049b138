"""Samples as small images with their labels and answers in words."""

from __future__ import annotations

from torch import Tensor

from ..contracts import Answer, SupervisedTask
from ..evaluation.augmented import in_words
from ..evaluation.decoded import failures_named
from ..evaluation.drawing import drawing, enlarged
from .blocks import Image
from .html import data_url
from .numbers import percent

SIDE = 136  # CSS pixels of an image in a gallery


def draws_answers(task: SupervisedTask) -> bool:
    """Whether the task draws what words don't say: a pose, points, a map; not a class name."""
    has_own = type(task).draw is not SupervisedTask.draw
    return has_own and task.answer_format().form == "values"


def tile(task: SupervisedTask | None, image: Tensor, decoded: Tensor | None) -> Tensor:
    """An image (3, h, w) in [0, 1], enlarged, with an answer drawn on it if the task draws any."""
    if task is None or decoded is None or not draws_answers(task):
        return enlarged(image)
    with failures_named("`draw` of a task"):
        return drawing(task, image, decoded)


def words(task: SupervisedTask, decoded: Tensor) -> str:
    """One prediction, or one label in its form, in words. decoded: (1, ...)."""
    with failures_named("`answer` of a task"):
        return in_words(task.answer(decoded)[0])


def words_with_probability(task: SupervisedTask, decoded: Tensor) -> str:
    """A prediction in words, with its probability if it is a class."""
    with failures_named("`answer` of a task"):
        answer: Answer = task.answer(decoded)[0]
    probability = answer.get("probability")
    said = in_words(answer)
    return said if probability is None else f"{said} ({percent(float(probability))})"


def captioned(image: Tensor, caption: str, alt: str) -> Image:
    """An image of a gallery; one that shows two side by side is twice as wide."""
    pair = image.shape[-1] > 1.5 * image.shape[-2]
    return Image(data_url(image), alt, caption, SIDE * 2 if pair else SIDE)
