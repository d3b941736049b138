"""Calibration: are predicted probabilities as often right as they say?

The expected calibration error (Naeini et al., "Obtaining Well Calibrated Probabilities Using
Bayesian Binning", AAAI 2015; Guo et al., ICML 2017) is the mean distance between probability and
share of right answers over equal bins of [0, 1], weighted by their answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from .answers import Answers
from .blocks import Block, Charts, Missing, Text
from .charts import reliability_chart
from .numbers import percent

BINS = 10


@frozen(eq=False)
class Calibration:
    """Bins of [0, 1] that hold an answer: mean probability, share that is right, answers.

    error: the expected calibration error, in [0, 1].
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    n: np.ndarray
    error: float


def calibration_of(confidence: np.ndarray, is_right: np.ndarray, bins: int = BINS) -> Calibration:
    """Bin answers. confidence: (n,) probabilities. is_right: (n,) bool."""
    position = np.minimum((confidence * bins).astype(int), bins - 1)
    n = np.bincount(position, minlength=bins)
    used = n > 0
    means = np.bincount(position, confidence, bins)[used] / n[used]
    shares = np.bincount(position, is_right.astype(float), bins)[used] / n[used]
    error = float((np.abs(means - shares) * n[used]).sum() / max(n.sum(), 1))
    return Calibration(means, shares, n[used], error)


def answered(answers: Answers) -> tuple[np.ndarray, np.ndarray] | None:
    """The probability of each answer, and whether it is right; None for tasks without any.

    Of classes, the most likely one is the answer: (n,). Of yes-or-no labels, each is an answer,
    "yes" with its probability; labels that are not known are left out.
    """
    form = answers.format.form
    if answers.predictions is None or form == "values":
        return None
    probabilities = answers.numbers(answers.predictions)
    truth = answers.numbers(answers.truth())
    if form == "label":
        chosen = probabilities.argmax(1)
        return probabilities.max(1), chosen == truth.argmax(1)
    known = known_labels(answers, truth)
    return probabilities[known], truth[known] > 0.5


def known_labels(answers: Answers, truth: np.ndarray) -> np.ndarray:
    """(n, k) bool: labels that the annotators gave. A target that `as_answer` changes has none."""
    assert answers.targets is not None
    targets = answers.targets.double().numpy(force=True)
    if targets.shape != truth.shape:
        return np.ones(truth.shape, dtype=bool)
    known: np.ndarray = targets == truth
    return known


def calibration(all_answers: Sequence[Answers]) -> list[Block]:
    """A reliability diagram for each task that predicts probabilities."""
    charts, lines = [], []
    for answers in all_answers:
        pairs = answered(answers)
        if pairs is None or not len(pairs[0]):
            continue
        found = calibration_of(*pairs)
        title = f"{answers.label} on {answers.split}"
        charts.append(
            reliability_chart(
                title, found.confidence.tolist(), found.accuracy.tolist(), found.n.tolist()
            )
        )
        lines.append(f"{answers.label}: expected calibration error {percent(found.error)}")
    if not charts:
        return [Missing("calibration", "No task predicts probabilities.")]
    text = f"{'; '.join(lines)} ({BINS} equal bins). Points below the diagonal are too confident."
    return [Text(text), Charts(charts)]
