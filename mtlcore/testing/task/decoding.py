"""Checks of a task's decoded outputs: predictions, metrics, drawings."""

from __future__ import annotations

import json
import math
from itertools import combinations

import torch
from torch import Tensor, nn

from ...contracts import SupervisedTask
from ..kit import Group
from ..requirements import Skip, require, require_finite, require_shape, require_unit_range
from ..subject import Drawn, patterns
from .harness import TaskSubject, ideal_output, known, reads_names, relative_error
from .labels import HEAD

DECODES = "decodes_each_sample"
ROUNDING = 1e-5  # of images in [0, 1]
DRAWINGS = 12
MOST_DRAWINGS = 0.8  # of pairs of different answers: numbers may be rounded

DECODING_CHECKS = Group()


@DECODING_CHECKS.check(
    "predictions",
    why="metrics and users read the decoded output of each sample.",
    mend="Decode outputs (B, ...) to a tensor (B, ...).",
    needs=HEAD,
    core=True,
)
def decodes_each_sample(subject: TaskSubject, drawn: Drawn) -> None:
    """Decoded outputs are a finite tensor with the shape of `as_answer` of the targets."""
    output = subject.head()(subject.detached_features(drawn.samples, drawn.seed))
    decoded = subject.task.decode(output)
    truth = subject.task.as_answer(subject.truth(drawn.samples, drawn.seed))
    require(isinstance(decoded, Tensor), f"decode returns {type(decoded).__name__}")
    require_shape(decoded, tuple(truth.shape), "the decoded output")
    require_finite(decoded, "the decoded output")


@DECODING_CHECKS.check(
    "answers",
    why="`mtl predict`, tables and the web page read one answer for each image.",
    mend="Name each number of `answer_numbers` in `answer_format`, or let `answer` return a dict "
    "of JSON values for each sample.",
    needs=DECODES,
    core=True,
)
def answers_in_words(subject: TaskSubject) -> None:
    """`answer` returns one dict of JSON values for each sample, with a name for each number."""
    decoded = _decoded(subject, 3)
    task = subject.task
    numbers = task.answer_numbers(decoded).reshape(3, -1)
    require_finite(numbers, "answer_numbers")
    names, count = task.answer_format().names, numbers.shape[1]
    named = not names or len(names) == count
    require(named, f"answer_format has {len(names)} names for {count} numbers")
    require(len(set(names)) == len(names), f"answer_format has a name twice: {names}")
    answers = task.answer(decoded)
    require(len(answers) == 3, f"{len(answers)} answers for 3 samples")
    for answer in answers:
        require(isinstance(answer, dict), f"an answer is {type(answer).__name__}")
        require(bool(answer), "an answer is empty")
        try:
            text = json.dumps(answer, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"an answer is not JSON: {error}") from error
        require(json.loads(text) == answer, "a key or a value changes in JSON: keys are strings")


@DECODING_CHECKS.check(
    "answers",
    why="an exported model computes the same numbers, in one graph with the network.",
    mend="Use only torch operations in `answer_numbers`: no numpy, no float(), no len().",
    needs="answers_in_words",
)
def answer_numbers_can_be_exported(subject: TaskSubject) -> None:
    """torch.export traces `answer_numbers` for any batch size, with equal results."""
    example, other = _decoded(subject, 3), _decoded(subject, 5)
    batch = torch.export.Dim("batch", min=2)
    module = _AnswerNumbers(subject.task)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    wanted, found = module(other), program.module()(other)
    require_shape(found, tuple(wanted.shape), "the exported answer")
    error = relative_error(found, wanted)
    require(error < 1e-4, f"the exported answer differs by {error:.3g} of the largest value")


class _AnswerNumbers(nn.Module):
    def __init__(self, task: SupervisedTask) -> None:
        super().__init__()
        self.task = task

    def forward(self, decoded: Tensor) -> Tensor:
        return self.task.answer_numbers(decoded)


def _decoded(subject: TaskSubject, samples: int) -> Tensor:
    with torch.no_grad():
        return subject.task.decode(subject.head()(subject.detached_features(samples)))


@DECODING_CHECKS.check(
    "predictions",
    why="metrics would measure something else than the loss trains.",
    mend="Let `decode` invert `ideal`: decode(ideal(target)) equals as_answer(target).",
    needs=DECODES,
)
def ideal_output_decodes_to_the_target(subject: TaskSubject) -> None:
    """decode(ideal(target)) equals as_answer(target), apart from unknown points (NaN)."""
    target = subject.truth(16)
    found = subject.task.decode(ideal_output(subject.head(), target))
    truth = subject.task.as_answer(target)
    error = relative_error(torch.where(truth.isnan(), truth, found), truth)
    require(error < 1e-2, f"it differs by {error:.3g} of the largest value")


@DECODING_CHECKS.check(
    "predictions",
    why="`run.evaluate(per_sample=True)` and `run.features` return predictions in this form.",
    mend="Let `as_annotation` invert `target`: the same names, the same unit, the same order.",
    needs=DECODES,
)
def answers_convert_back_to_annotations(subject: TaskSubject) -> None:
    """as_annotation of true answers and of predicted numbers is an annotation with that answer."""
    subject.require_annotations()
    if type(subject.task).as_annotation is SupervisedTask.as_annotation:
        raise Skip("it does not override `as_annotation`")
    answers = {"the answer": subject.task.as_answer(subject.truth(16))}
    if not reads_names(subject.annotation()):
        answers["a prediction"] = _decoded(subject, 16)
    for what, answer in answers.items():
        again, present = subject.task.target(subject.task.as_annotation(answer))
        lost = int((~present).sum())
        require(not lost, f"{what}: {lost} of {len(present)} are missing annotations")
        error = relative_error(subject.task.as_answer(again), answer)
        require(error < 1e-3, f"{what} differs by {error:.3g} of the largest value")


@DECODING_CHECKS.check(
    "metrics",
    why="the first metric selects the best checkpoint. The validation loss is no substitute: it "
    "does not compare between runs.",
    mend='Implement `metrics`, or declare it: lacks = {"metrics": "..."}.',
    needs=DECODES,
    capability="metrics",
)
def has_a_main_metric(subject: TaskSubject) -> None:
    """`metrics` returns at least one metric, and the first one defines higher_is_better."""
    metrics = subject.task.metrics()
    require(bool(metrics), "there is none")
    name, main = next(iter(metrics.items()))
    direction = main.higher_is_better
    require(isinstance(direction, bool), f"{name}.higher_is_better = {direction!r}")


@DECODING_CHECKS.check(
    "metrics",
    why="a metric that a perfect network cannot reach misleads its readers.",
    mend="Check what updates the metric: (decoded, target), as `decode` and `target` return them.",
    needs="has_a_main_metric",
)
def true_targets_reach_the_best_metric(subject: TaskSubject) -> None:
    """as_answer(target) reaches each metric's bound. Wrong answers change it, the main one down."""
    target = subject.truth(32)
    truths = (target, target.flip(0), target[:1].expand_as(target))
    answers = [known(subject.task.as_answer(truth)) for truth in truths]
    right, wrong, same = (subject.scores(answer, target) for answer in answers)
    for position, (name, metric) in enumerate(subject.task.metrics().items()):
        higher = metric.higher_is_better
        if right[name].ndim or not isinstance(higher, bool):
            continue
        value, other = float(right[name]), float(wrong[name])
        require(not math.isnan(value), f"{name} of the truth is NaN")
        best = metric.plot_upper_bound if higher else metric.plot_lower_bound
        reached = best is None or abs(value - best) < 1e-3
        require(reached, f"{name} of the truth is {value:.4g}; its best is {best}")

        is_main = position == 0
        better = value > other if higher else value < other
        found = f"{name} of the truth is {value:.4g}, of other samples' truths {other:.4g}"
        require(better or not is_main, found)
        differs = value not in (other, float(same[name]))
        require(differs, f"{name} is {value:.4g} for right and for wrong answers")


@DECODING_CHECKS.check(
    "metrics",
    why="metrics would depend on the batch size of the evaluation.",
    mend="Store sums over samples and divide in `compute`. Do not average values of batches.",
    needs="has_a_main_metric",
    core=True,
)
def metrics_do_not_depend_on_batches(subject: TaskSubject) -> None:
    """Metrics of 32 samples are the same in one batch and in batches of 1, 7 and 24."""
    target = subject.truth(32)
    partly_wrong = torch.cat([target[:10], target[10:].flip(0)])
    decoded = known(subject.task.as_answer(partly_wrong))
    whole = subject.scores(decoded, target)
    split = subject.scores(decoded, target, (1, 7, 24))
    for name, value in whole.items():
        close = torch.allclose(value, split[name], rtol=1e-3, atol=1e-4, equal_nan=True)
        require(close, f"{name}: {value.tolist()} in one batch, {split[name].tolist()} in three")


@DECODING_CHECKS.check(
    "images",
    why="`mtl preview` and reports place images side by side.",
    mend="Return a tensor of the image's shape, in [0, 1].",
    needs=DECODES,
)
def draws_an_image(subject: TaskSubject) -> None:
    """`draw` returns an image of the same shape, in [0, 1]."""
    image = patterns(1, subject.drawing_size, 0)[0].float() / 255
    for prediction in subject.task.as_answer(subject.truth(3)):
        drawn = subject.task.draw(image.clone(), prediction)
        require_shape(drawn, tuple(image.shape), "the drawing")
        require_unit_range(drawn, "the drawing", ROUNDING)


@DECODING_CHECKS.check(
    "images",
    why="a drawing that does not depend on the prediction shows nothing.",
    mend="Draw what `decoded` predicts. Is an axis, a sign or the argmax wrong?",
    needs="draws_an_image",
)
def draws_different_answers_differently(subject: TaskSubject) -> None:
    """On one image, `draw` shows different true answers differently."""
    if type(subject.task).draw is SupervisedTask.draw:
        raise Skip("it does not override `draw`")
    image = patterns(1, subject.drawing_size, 0)[0].float() / 255
    answers = subject.task.as_answer(subject.truth(DRAWINGS))
    drawings = [subject.task.draw(image.clone(), answer) for answer in answers]
    pairs = combinations(range(len(answers)), 2)
    different = [(i, j) for i, j in pairs if not torch.equal(answers[i], answers[j])]
    shown = sum(not torch.equal(drawings[i], drawings[j]) for i, j in different)
    enough = shown >= MOST_DRAWINGS * len(different)
    require(enough, f"{len(different) - shown} of {len(different)} pairs look the same")


@DECODING_CHECKS.check(
    "images",
    why="every task of a run draws on the same image.",
    mend="Draw on a copy: image.clone().",
    needs="draws_an_image",
)
def drawing_leaves_its_image_unchanged(subject: TaskSubject) -> None:
    """`draw` does not edit its image."""
    image = patterns(1, subject.drawing_size, 0)[0].float() / 255
    before = image.clone()
    subject.task.draw(image, subject.task.as_answer(subject.truth(1))[0])
    require(torch.equal(image, before), "it is edited in place")
