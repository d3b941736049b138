"""Checks that labels follow their images through turns and mirrors."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from ..kit import Group
from ..requirements import require, require_finite, require_shape
from ..subject import Drawn
from .decoding import DECODES
from .harness import TaskSubject, relative_error
from .labels import TARGETS

UNMOVED = "unmoved_images_keep_their_labels"
MIRRORED_TWICE = "mirroring_twice_changes_nothing"

MOVEMENT_CHECKS = Group()


@MOVEMENT_CHECKS.check(
    "movement",
    why="`move` is called for every view. All labels are wrong if it changes unmoved ones.",
    mend="Keep the label if the matrix is the identity.",
    needs=TARGETS,
    core=True,
)
def unmoved_images_keep_their_labels(subject: TaskSubject, drawn: Drawn) -> None:
    """The identity keeps targets, with their shape and dtype."""
    target = subject.truth(drawn.samples, drawn.seed)
    moved = subject.task.move(target, subject.movement(drawn.samples))
    _require_close(moved, target, "unmoved")


@MOVEMENT_CHECKS.check(
    "movement",
    why="the same targets are moved for each view. The second view would move them twice.",
    mend="Work on a copy of the target.",
    needs=UNMOVED,
    core=True,
)
def move_leaves_targets_unchanged(subject: TaskSubject) -> None:
    """`move` does not edit its targets."""
    target = subject.truth(4)
    before = target.clone()
    subject.task.move(target, subject.movement(4, 90, mirrored=True))
    require(torch.equal(target, before), "they are edited in place")


@MOVEMENT_CHECKS.check(
    "movement",
    why="half of all views are mirrored. Their labels would be wrong.",
    mend="Check what left and right mean in the label. mtlcore.orthogonal separates mirrors from "
    "turns.",
    needs="move_leaves_targets_unchanged",
    core=True,
)
def mirroring_twice_changes_nothing(subject: TaskSubject, drawn: Drawn) -> None:
    """Moving targets by a mirror twice restores them."""
    target = subject.truth(drawn.samples, drawn.seed)
    mirror = subject.movement(drawn.samples, mirrored=True)
    once = subject.task.move(target, mirror)
    _require_close(subject.task.move(once, mirror), target, "mirrored twice")


@MOVEMENT_CHECKS.check(
    "movement",
    why="a view's geometry is a product of movements. The label must follow the product.",
    mend="Compute the moved label from the matrix only, turns after mirrors.",
    needs=MIRRORED_TWICE,
    core=True,
)
def movements_compose(subject: TaskSubject) -> None:
    """Two movements in turn have the effect of their product (quarter turns and mirrors)."""
    target, task = subject.truth(4), subject.task
    movements = [(90.0, False), (180.0, False), (0.0, True), (90.0, True)]
    for one, other in product(movements, movements):
        first, second = subject.movement(4, *one), subject.movement(4, *other)
        matrix, steps = second.matrix @ first.matrix, first.steps + second.steps
        composed = type(first)(matrix, steps)
        in_turn = task.move(task.move(target, first), second)
        at_once = task.move(target, composed)
        _require_close(in_turn, at_once, f"(turn, mirror) {one}, then {other}")


@MOVEMENT_CHECKS.check(
    "movement",
    why="absent labels hold zeros and are moved too. NaN would reach the loss.",
    mend="Do not divide by the label's own length, or clamp the divisor.",
    needs=UNMOVED,
    core=True,
)
def absent_labels_stay_finite(subject: TaskSubject, drawn: Drawn) -> None:
    """Targets of zeros stay finite under turns and mirrors."""
    zeros = torch.zeros_like(subject.truth(drawn.samples, drawn.seed))
    unit = drawn.rng().rand(2, drawn.samples)
    moved = subject.task.move(zeros, subject.movements(6.28 * unit[0], unit[1] < 0.5))
    require_shape(moved, tuple(zeros.shape), "the moved target")
    require_finite(moved.float(), "moved zeros")


@MOVEMENT_CHECKS.check(
    "predictions",
    why="evaluation averages the predictions for an image and its mirror image.",
    mend="Override `average`: mirror the second prediction back, then take the mean.",
    needs=(DECODES, MIRRORED_TWICE),
)
def averaging_with_the_mirror_keeps_the_target(subject: TaskSubject) -> None:
    """average(the truth, the truth of the mirrored image) is the truth."""
    target, task = subject.truth(6), subject.task
    mirrored = task.move(target, subject.movement(6, mirrored=True))
    right = task.as_answer(target)
    found = task.average(right, task.as_answer(mirrored))
    require_shape(found, tuple(right.shape), "the average")
    error = relative_error(found, right)
    require(error < 1e-3, f"it differs by {error:.3g} of the largest value")


def _require_close(found: Tensor, wanted: Tensor, what: str) -> None:
    require_shape(found, tuple(wanted.shape), f"{what}: the target")
    require(found.dtype == wanted.dtype, f"{what}: {wanted.dtype} becomes {found.dtype}")
    difference = float((found.double() - wanted.double()).abs().max())
    require(difference < 1e-3, f"{what}: a target differs by {difference:.3g}")
