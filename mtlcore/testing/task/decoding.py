"""Checks of what a task's outputs become: answers, figures, images."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kit import Group, require
from ..pretext.harness import require_finite
from ..subject import Drawn, patterns
from .harness import ROUNDING, TaskSubject, ideal_output

ANSWERS_CHECKS = Group()


@ANSWERS_CHECKS.check(
    "answers",
    why="metrics and people read the decoded answer, sample by sample.",
    mend="decode outputs (B, ...) to a tensor (B, ...).",
    needs="head_keeps_no_encoder",
    core=True,
)
def decodes_each_sample(subject: TaskSubject, drawn: Drawn) -> None:
    """Decoded answers are a finite tensor of B samples, shaped like `as_answer` of the targets."""
    decoded = subject.task.decode(subject.head()(subject.fixed(drawn.samples, drawn.seed)))
    truth = subject.task.as_answer(subject.truth(drawn.samples, drawn.seed))
    require(isinstance(decoded, Tensor), f"decode gives {type(decoded).__name__}")
    require(
        decoded.shape == truth.shape,
        f"an answer is {tuple(decoded.shape)}, the truth {tuple(truth.shape)}",
    )
    require_finite(decoded, "the answers")


@ANSWERS_CHECKS.check(
    "answers",
    why="figures would be computed of something else than what the loss trains.",
    mend="let `decode` undo what `ideal` does: decode(ideal(target)) is as_answer(target).",
    needs="decodes_each_sample",
)
def a_perfect_output_is_a_perfect_answer(subject: TaskSubject) -> None:
    """decode(ideal(target)) is as_answer(target)."""
    head, target = subject.head(), subject.truth(16)
    found, wanted = subject.task.decode(ideal_output(head, target)), subject.task.as_answer(target)
    apart = float(
        (found.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp_min(1)
    )
    require(apart < 1e-2, f"an answer is {apart:.3g} away, in units of the largest")


@ANSWERS_CHECKS.check(
    "metrics",
    why='"best" is chosen by the first metric: without one, by the validation loss, which compares with nothing.',
    mend='give `metrics`, or say why not: lacks = {"metrics": "..."}.',
    needs="decodes_each_sample",
    capability="metrics",
)
def has_a_main_metric(subject: TaskSubject) -> None:
    """`metrics` gives at least one, and says of the first whether higher is better."""
    metrics = subject.task.metrics()
    require(bool(metrics), "there is none")
    name, main = next(iter(metrics.items()))
    require(
        isinstance(main.higher_is_better, bool),
        f"{name}.higher_is_better = {main.higher_is_better!r}",
    )


@ANSWERS_CHECKS.check(
    "metrics",
    why="a figure that a perfect network can't reach misleads everyone who reads it.",
    mend="look at what the metric is updated with: (decoded, target), as `decode` and `target` give them.",
    needs="has_a_main_metric",
)
def the_truth_scores_best(subject: TaskSubject) -> None:
    """as_answer(target) reaches each metric's declared bound, and beats other samples' truths in the main one."""
    target = subject.truth(32)
    right = subject.scores(subject.task.as_answer(target), target)
    wrong = subject.scores(subject.task.as_answer(target.flip(0)), target)
    for place, (name, metric) in enumerate(subject.task.metrics().items()):
        if right[name].ndim or not isinstance(metric.higher_is_better, bool):
            continue
        best = metric.plot_upper_bound if metric.higher_is_better else metric.plot_lower_bound
        value, other = float(right[name]), float(wrong[name])
        require(
            best is None or abs(value - best) < 1e-3,
            f"{name} of the truth is {value:.4g}; its best is {best}",
        )
        better = value > other if metric.higher_is_better else value < other
        require(
            place > 0 or better,
            f"{name} of the truth is {value:.4g}, of other samples' truths {other:.4g}",
        )


@ANSWERS_CHECKS.check(
    "metrics",
    why="figures would hang on the batch size of the evaluation.",
    mend="keep sums over samples and divide in `compute`; do not average values of batches.",
    needs="has_a_main_metric",
    core=True,
)
def metrics_do_not_hang_on_batches(subject: TaskSubject) -> None:
    """32 samples at once, or as 1, 7 and 24 samples: the same values."""
    target, parts = subject.truth(32), (1, 7, 24)
    decoded = subject.task.as_answer(torch.cat([target[:10], target[10:].flip(0)]))
    whole, split = subject.scores(decoded, target), subject.scores(decoded, target, parts)
    for name, value in whole.items():
        close = torch.allclose(value, split[name], rtol=1e-3, atol=1e-4, equal_nan=True)
        require(close, f"{name}: {value.tolist()} at once, {split[name].tolist()} in parts")


@ANSWERS_CHECKS.check(
    "images",
    why="`mtl preview` and reports put images side by side.",
    mend="return a tensor of the image's shape, in [0, 1].",
    needs="decodes_each_sample",
)
def draws_a_image(subject: TaskSubject) -> None:
    """`draw` gives an image of the same shape, with values in [0, 1]."""
    for answer in subject.task.as_answer(subject.truth(3)):
        image = patterns(1, 64, 0)[0].float() / 255
        drawn = subject.task.draw(image, answer)
        require(drawn.shape == image.shape, f"{tuple(image.shape)} becomes {tuple(drawn.shape)}")
        low, high = float(drawn.min()), float(drawn.max())
        require(
            low > -ROUNDING and high < 1 + ROUNDING, f"the values lie in [{low:.4g}, {high:.4g}]"
        )


@ANSWERS_CHECKS.check(
    "images",
    why="the same image is drawn on by every task of a run.",
    mend="draw on a copy: image.clone().",
    needs="draws_a_image",
)
def drawing_leaves_its_image_alone(subject: TaskSubject) -> None:
    """`draw` does not edit the image that it is given."""
    image = patterns(1, 64, 0)[0].float() / 255
    kept = image.clone()
    subject.task.draw(image, subject.task.as_answer(subject.truth(1))[0])
    require(torch.equal(image, kept), "it is edited in place")
