"""Checks that labels follow their images through turns and mirrors."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from ...contracts import AlignedTask
from ...contracts.task import are_points
from ...geometry import Geometry
from ..kit import Group
from ..requirements import require, require_finite, require_shape, require_unit_range
from ..subject import Drawn
from ..trees import same_values
from .decoding import DECODES
from .harness import SIZE, TaskSubject, absent, relative_error
from .labels import HEAD, TARGETS

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
    moved = subject.moved(target, subject.movement(drawn.samples))
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
    subject.moved(target, subject.movement(4, 90, mirrored=True))
    require(same_values(target, before), "they are edited in place")


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
    once = subject.moved(target, mirror)
    _require_close(subject.moved(once, mirror), target, "mirrored twice")


@MOVEMENT_CHECKS.check(
    "movement",
    why="a view's geometry is a product of movements. The label must follow the product.",
    mend="Compute the moved label from the matrix only, turns after mirrors.",
    needs=MIRRORED_TWICE,
    core=True,
)
def movements_compose(subject: TaskSubject) -> None:
    """Two movements in turn have the effect of their product (quarter turns and mirrors)."""
    target = subject.truth(4)
    movements = [(90.0, False), (180.0, False), (0.0, True), (90.0, True)]
    for one, other in product(movements, movements):
        first, second = subject.movement(4, *one), subject.movement(4, *other)
        matrix, steps = second.matrix @ first.matrix, first.steps + second.steps
        composed = type(first)(matrix, steps)
        in_turn = subject.moved(subject.moved(target, first), second)
        at_once = subject.moved(target, composed)
        _require_close(in_turn, at_once, f"(turn, mirror) {one}, then {other}")


@MOVEMENT_CHECKS.check(
    "movement",
    why="absent labels hold zeros and are moved too. NaN would reach the loss.",
    mend="Do not divide by the label's own length, or clamp the divisor.",
    needs=UNMOVED,
    core=True,
)
def absent_labels_stay_finite(subject: TaskSubject, drawn: Drawn) -> None:
    """Targets of absent labels stay finite when rotated and mirrored; points stay NaN."""
    nothing = absent(subject.truth(drawn.samples, drawn.seed))
    unit = drawn.rng().rand(2, drawn.samples)
    moved = subject.moved(nothing, subject.movements(6.28 * unit[0], unit[1] < 0.5))
    require_shape(moved, tuple(nothing.shape), "the moved target")
    if bool(nothing.isnan().any()):
        require(bool(moved.isnan().all()), "unknown points become known")
        return
    require_finite(moved.float(), "moved zeros")


@MOVEMENT_CHECKS.check(
    "movement",
    why="a map shifted by two pixels teaches wrong borders, without an error.",
    mend="Move maps with geometry.warp(target), and points with geometry.points(target).",
    needs=UNMOVED,
    core=True,
)
def aligned_labels_follow_shifts(subject: TaskSubject, drawn: Drawn) -> None:
    """Shifted by whole pixels, maps and points of images that are not square move as they do."""
    subject.require_aligned()
    size = (SIZE, SIZE + 8)
    target = subject.maps_or_points(drawn.samples, size, drawn.seed)
    shift = torch.eye(3).repeat(drawn.samples, 1, 1)
    shift[:, 0, 2], shift[:, 1, 2] = 3, -5
    geometry = Geometry.affine(shift, size)
    _require_close(subject.moved(target, geometry), _as_pixels(target, geometry), "shifted")


@MOVEMENT_CHECKS.check(
    "movement",
    why="a head computes its loss on the pixels of the view, whose size differs from the image's.",
    mend="Let `move` return maps of the view's size: geometry.warp does.",
    needs="aligned_labels_follow_shifts",
    core=True,
)
def aligned_labels_have_the_form_of_the_view(subject: TaskSubject, drawn: Drawn) -> None:
    """In a view of another size, maps have its height and width; dtype and channels stay."""
    subject.require_aligned()
    size = (SIZE, SIZE + 8)
    target = subject.maps_or_points(drawn.samples, size, drawn.seed)
    smaller = Geometry.resize(size, (24, 20), target)
    moved = subject.moved(target, smaller)
    require_shape(moved, tuple(_as_pixels(target, smaller).shape), "the target")
    require(moved.dtype == target.dtype, f"{target.dtype} becomes {moved.dtype}")


@MOVEMENT_CHECKS.check(
    "movement",
    why="points are unknown after tiles were shuffled. NaN in the loss would end the run.",
    mend="Return (target, share) with a share of 0 for samples whose label can't be moved, and "
    "keep the loss finite for points that are NaN.",
    needs=(UNMOVED, HEAD),
    core=True,
)
def shuffled_images_leave_a_finite_loss(subject: TaskSubject) -> None:
    """After a rearrangement without a matrix, the loss is finite; shares are in [0, 1]."""
    subject.require_aligned()
    target, head = subject.truth(4), subject.head()
    shuffled = subject.movement(4).moved(lambda maps: maps.roll(5, -1))
    found = subject.task.move(target, shuffled)
    moved, share = found if isinstance(found, tuple) else (found, torch.ones(4))
    require_shape(share, (4,), "the share")
    require_unit_range(share, "the share", 0.0)
    output = head(subject.detached_features(4))
    require_finite(subject.loss(head, output, moved), "the loss")


@MOVEMENT_CHECKS.check(
    "predictions",
    why="evaluation averages the predictions for an image and its mirror image.",
    mend="Override `average`: mirror the second prediction back, then take the mean. For maps and "
    "points, override `mirror_back`.",
    needs=(DECODES, MIRRORED_TWICE),
)
def averaging_with_the_mirror_keeps_the_target(subject: TaskSubject) -> None:
    """average(the truth, the truth of the mirrored image) is the truth."""
    target, task = subject.truth(6), subject.task
    mirrored = subject.moved(target, subject.movement(6, mirrored=True))
    right = task.as_answer(target)
    back = task.as_answer(mirrored)
    if isinstance(task, AlignedTask):
        back = task.mirror_back(back, (SIZE, SIZE))
    found = task.average(right, back)
    require_shape(found, tuple(right.shape), "the average")
    error = relative_error(found, right)
    require(error < 1e-3, f"it differs by {error:.3g} of the largest value")


def _as_pixels(target: Tensor, geometry: Geometry) -> Tensor:
    """Maps or points, moved as the pixels of their images."""
    return geometry.points(target) if are_points(target) else geometry.warp(target)


def _require_close(found: Tensor, wanted: Tensor, what: str) -> None:
    require_shape(found, tuple(wanted.shape), f"{what}: the target")
    require(found.dtype == wanted.dtype, f"{what}: {wanted.dtype} becomes {found.dtype}")
    same_unknown = torch.equal(found.isnan(), wanted.isnan())
    require(same_unknown, f"{what}: other values are NaN")
    difference = float((found.double() - wanted.double()).nan_to_num().abs().max())
    require(difference < 1e-3, f"{what}: a target differs by {difference:.3g}")
