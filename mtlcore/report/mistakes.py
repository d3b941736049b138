"""The mistakes that a run is most sure of: often wrong labels, or what the model misses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .answers import Answers
from .blocks import Block, Gallery, Heading, Image, Text
from .calibration import known_labels
from .metrics import main_metric
from .numbers import percent, shown
from .tiles import captioned, draws_answers, tile, words, words_with_probability

SHOWN = 12  # mistakes of a task
CANDIDATES = 100  # samples with a large error, of which the worst are shown


def mistakes(all_answers: Sequence[Answers]) -> list[Block]:
    """A gallery for each task."""
    found: list[Block] = []
    for answers in all_answers:
        if answers.predictions is None or answers.targets is None:
            continue
        found.append(Heading(f"{answers.label} on {answers.split}"))
        form = answers.format.form
        if answers.is_map:
            found += _of_maps(answers)
        elif form == "label":
            found += _of_classes(answers)
        elif form == "labels":
            found += _of_labels(answers)
        else:
            found += _of_numbers(answers)
    return found or [Text("There is no task whose mistakes could be shown.")]


def _of_classes(answers: Answers) -> list[Block]:
    """Wrong answers, the most probable ones first."""
    assert answers.predictions is not None
    probabilities = answers.numbers(answers.predictions)
    truth = answers.numbers(answers.truth())
    wrong = np.flatnonzero(probabilities.argmax(1) != truth.argmax(1))
    worst = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:SHOWN]
    if not len(worst):
        return [Text("No answer is wrong.")]
    caption = (
        f"{len(wrong):,} of {answers.n:,} answers are wrong. "
        f"These are the {len(worst)} with the highest probability."
    )
    return [Gallery(caption, [_tile(answers, position) for position in worst])]


def _of_labels(answers: Answers) -> list[Block]:
    """Samples with the yes-or-no label that is the furthest from the truth."""
    assert answers.predictions is not None
    probabilities = answers.numbers(answers.predictions)
    truth = answers.numbers(answers.truth())
    distance = np.abs(probabilities - truth)
    distance[~known_labels(answers, truth)] = 0
    worst = np.argsort(-distance.max(1), kind="stable")[:SHOWN]
    images = []
    for position in worst:
        which = int(distance[position].argmax())
        names = answers.format.names
        name = names[which] if names else str(which)
        label = "yes" if truth[position, which] > 0.5 else "no"
        said = percent(float(probabilities[position, which]))
        image = tile(None, answers.views(np.array([position]))[0], None)
        caption = f"{name}: labeled {label}, predicted {said}\n{_key(answers, position)}"
        images.append(captioned(image, caption, f"Labeled {name}: {label}. Predicted {said}."))
    return [Gallery("The labels whose probability is the furthest from the truth.", images)]


def _of_numbers(answers: Answers) -> list[Block]:
    """Samples with the largest error, with both answers drawn."""
    worst, errors = _largest_errors(answers)
    name, _ = main_metric(answers)
    notes = [f"{name} {shown(error)}\n" for error in errors] or [""] * len(worst)
    images = [_tile(answers, position, note) for position, note in zip(worst, notes)]
    caption = f"The {len(worst)} largest errors of {answers.n:,}."
    if draws_answers(answers.task):
        caption += " Left: the label; right: the prediction."
    return [Gallery(caption, images, pairs=draws_answers(answers.task))]


def _largest_errors(answers: Answers) -> tuple[np.ndarray, list[float]]:
    """Positions of the samples with the largest errors, and the main metric of each alone.

    No metrics if the main one is not an error: then the largest difference of a number decides, in
    standard deviations of the labels.
    """
    assert answers.predictions is not None
    assert answers.targets is not None
    distance = answers.numbers(answers.predictions) - answers.numbers(answers.truth())
    spread = np.maximum(answers.numbers(answers.truth()).std(0), 1e-9)
    order = np.argsort(-np.abs(distance / spread).max(1), kind="stable")[:CANDIDATES]
    _name, metric = main_metric(answers)
    if metric is None or metric.higher_is_better is not False:
        return order[:SHOWN], []
    errors = []
    for position in order:
        one = slice(position, position + 1)
        metric.reset()
        metric.update(answers.predictions[one], answers.targets[one])
        errors.append(float(metric.compute()))
    by_error = np.argsort(-np.array(errors), kind="stable")[:SHOWN]
    return order[by_error], [errors[i] for i in by_error]


def _of_maps(answers: Answers) -> list[Block]:
    """Samples that are evenly spaced: maps and points have no probability to sort by."""
    positions = np.unique(np.linspace(0, answers.n - 1, SHOWN // 2).astype(int))
    images = [_tile(answers, position) for position in positions]
    return [
        Gallery(
            "Evenly spaced samples. Left: the label; right: the prediction.", images, pairs=True
        )
    ]


def _tile(answers: Answers, position: int, note: str = "") -> Image:
    """One sample with its label and its prediction."""
    assert answers.predictions is not None
    view = answers.views(np.array([position]))[0]
    one = slice(position, position + 1)
    truth, predicted = answers.truth()[one], answers.predictions[one]
    image = tile(answers.task, view, predicted[0])
    key = _key(answers, position)
    if answers.is_map:
        caption, alt = f"{note}{key}", f"Label and prediction of {answers.label}, drawn."
        return captioned(_beside(tile(answers.task, view, truth[0]), image), caption, alt)
    label = words(answers.task, truth)
    said = words_with_probability(answers.task, predicted)
    if draws_answers(answers.task):
        image = _beside(tile(answers.task, view, truth[0]), image)
    caption = f"{note}label: {label}\nsays: {said}\n{key}"
    return captioned(image, caption, f"Labeled {label}, predicted {said}.")


def _beside(left: Tensor, right: Tensor) -> Tensor:
    """Two images (3, H, W) side by side."""
    return torch.cat([left, right], 2)


def _key(answers: Answers, position: int) -> str:
    """The key of a sample, without its folders."""
    (key,) = answers.data.keys(answers.indices[position : position + 1])
    return str(key).rsplit("/", 1)[-1]
