"""Checks of how labels follow their images."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kit import Group, require
from ..pretext.harness import require_finite
from ..subject import Drawn
from .harness import TaskSubject

MOVEMENT_CHECKS = Group()


@MOVEMENT_CHECKS.check(
    "movement",
    why="`move` is called for every view: what changes a label without a movement makes all labels wrong.",
    mend="let the identity's matrix leave the label as it is.",
    needs="gives_targets_and_presence",
    core=True,
)
def unmoved_images_keep_their_labels(subject: TaskSubject, drawn: Drawn) -> None:
    """Moved by the identity, targets stay as they are, with their shape and dtype."""
    target = subject.truth(drawn.samples, drawn.seed)
    _require_equal(subject.task.move(target, subject.movement(drawn.samples)), target, "unmoved")


@MOVEMENT_CHECKS.check(
    "movement",
    why="the same targets are moved for each view in turn: the second would be moved twice.",
    mend="work on a copy of the target.",
    needs="unmoved_images_keep_their_labels",
    core=True,
)
def move_leaves_its_target_alone(subject: TaskSubject) -> None:
    """`move` does not edit the targets that it is given."""
    target = subject.truth(4)
    kept = target.clone()
    subject.task.move(target, subject.movement(4, 90, mirrored=True))
    require(torch.equal(target, kept), "they are edited in place")


@MOVEMENT_CHECKS.check(
    "movement",
    why="a label that a mirror changes for good is wrong in half of all views.",
    mend="look at what left and right mean in the label; mtlcore.orthogonal tells mirrors from turns.",
    needs="move_leaves_its_target_alone",
    core=True,
)
def mirrored_twice_is_unmoved(subject: TaskSubject, drawn: Drawn) -> None:
    """Moved by a mirror twice, targets are as they were."""
    target, mirror = (
        subject.truth(drawn.samples, drawn.seed),
        subject.movement(drawn.samples, mirrored=True),
    )
    _require_equal(
        subject.task.move(subject.task.move(target, mirror), mirror), target, "mirrored twice"
    )


@MOVEMENT_CHECKS.check(
    "movement",
    why="a view's geometry is the product of several movements: the label must follow their product.",
    mend="compute the moved label from the matrix alone, turns after mirrors.",
    needs="mirrored_twice_is_unmoved",
    core=True,
)
def movements_compose(subject: TaskSubject) -> None:
    """Moved by one movement and then another, targets are as if moved by their product (quarter turns and mirrors)."""
    target, ways = subject.truth(4), [(90.0, False), (180.0, False), (0.0, True), (90.0, True)]
    for one in ways:
        for other in ways:
            first, second = (subject.movement(4, *way) for way in (one, other))
            product = subject.movement(4)
            product = type(product)(second.matrix @ first.matrix, first.steps + second.steps)
            apart = subject.task.move(subject.task.move(target, first), second)
            _require_equal(
                apart, subject.task.move(target, product), f"(turn, mirror) {one}, then {other}"
            )


@MOVEMENT_CHECKS.check(
    "movement",
    why="samples without a label hold zeros and are moved with the others: NaN would reach the loss.",
    mend="do not divide by the label's own size; clamp the divisor.",
    needs="unmoved_images_keep_their_labels",
    core=True,
)
def absent_labels_stay_finite(subject: TaskSubject, drawn: Drawn) -> None:
    """Targets of zeros stay finite under turns and mirrors."""
    zeros = torch.zeros_like(subject.truth(drawn.samples, drawn.seed))
    unit = drawn.rng().rand(2, drawn.samples)
    moved = subject.task.move(zeros, subject.movements(6.28 * unit[0], unit[1] < 0.5))
    require(moved.shape == zeros.shape, f"{tuple(zeros.shape)} becomes {tuple(moved.shape)}")
    require_finite(moved.float(), "moved zeros")


@MOVEMENT_CHECKS.check(
    "answers",
    why="evaluation on an image and its mirror image would spoil answers that both are right.",
    mend="override `average`: mirror the second answer back, then take the mean.",
    needs=("decodes_each_sample", "mirrored_twice_is_unmoved"),
)
def two_right_answers_average_to_a_right_one(subject: TaskSubject) -> None:
    """average(the truth, the truth of the mirrored image) is the truth."""
    target = subject.truth(6)
    mirrored = subject.task.move(target, subject.movement(6, mirrored=True))
    right = subject.task.as_answer(target)
    found = subject.task.average(right, subject.task.as_answer(mirrored))
    require(found.shape == right.shape, f"{tuple(right.shape)} becomes {tuple(found.shape)}")
    apart = float(
        (found.float() - right.float()).abs().max() / right.float().abs().max().clamp_min(1)
    )
    require(apart < 1e-3, f"an answer is {apart:.3g} away")


def _require_equal(found: Tensor, wanted: Tensor, what: str) -> None:
    require(
        found.shape == wanted.shape, f"{what}: {tuple(wanted.shape)} becomes {tuple(found.shape)}"
    )
    require(found.dtype == wanted.dtype, f"{what}: {wanted.dtype} becomes {found.dtype}")
    apart = float((found.double() - wanted.double()).abs().max())
    require(apart < 1e-3, f"{what}: a target differs by {apart:.3g}")
