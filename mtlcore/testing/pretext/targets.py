"""Checks of a pretext's targets: they describe their views, and can be permuted for a control."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import evolve
from torch import Tensor
from torch.utils._pytree import tree_structure

from ...errors import MtlError
from ..kit import Group
from ..requirements import Skip, require, require_finite, require_shape
from ..subject import Drawn
from ..trees import equal, tensors
from .harness import PretextSubject
from .views import REPEATABLE

EXACT_SIZE = 48  # pixels, divisible by 2, 3, 4, 6 and 8: grids can be undone exactly
MOST_TOLERANCE = 0.05  # of an `undo`, in an image from 0 to 1

TARGETS_CHECKS = Group()


@TARGETS_CHECKS.check(
    "truth",
    why="a target that does not describe its view teaches noise.",
    mend="Let `undo` invert exactly what views() did to the FIRST view. Set `undo_tolerance` if "
    "rounding prevents that (a gamma). Return None if no inverse exists.",
    needs=REPEATABLE,
)
def undo_restores_the_image(subject: PretextSubject, drawn: Drawn) -> None:
    """`undo(view, target)` returns the clean image: bit for bit, or within `undo_tolerance`."""
    undo = getattr(subject.component, "undo", None)
    if undo is None:
        raise Skip("it has no `undo`")
    batch = subject.batch(evolve(drawn, size=EXACT_SIZE))
    restored = undo(batch.images[0], batch.target)
    if restored is None:
        raise Skip("its `undo` has no exact inverse with these fields")
    clean = batch.augmented.clean.images
    require_shape(restored, tuple(clean.shape), "the restored image")
    tolerance = subject.component.undo_tolerance
    require(0 <= tolerance <= MOST_TOLERANCE, f"undo_tolerance = {tolerance}")
    share = float(((restored - clean).abs() > tolerance).float().mean())
    require(not share, f"{share:.1%} of the numbers differ from the clean image")


@TARGETS_CHECKS.check(
    "truth",
    why="damaged pixels outside the mask count as true ones in the loss.",
    mend="Paint inside the mask only: torch.where(mask, painted, images).",
    needs=REPEATABLE,
)
def pixels_outside_the_mask_are_untouched(subject: PretextSubject, drawn: Drawn) -> None:
    """A mask in the target, or its inverse, covers all changed pixels, and there are some."""
    batch = subject.batch(drawn)
    clean, view = batch.augmented.clean.images, batch.images[0]
    masks = [x for x in tensors(batch.target) if is_mask(x, view)]
    if not masks or view.shape != clean.shape:
        raise Skip("its target holds no mask of the view's size")
    for flat in masks:
        mask = flat.view(drawn.samples, 1, *view.shape[-2:])
        share = mask.float().mean((1, 2, 3))
        partial = bool(((share > 0) & (share < 1)).all())
        require(partial, f"a mask covers {share.tolist()} of its images")

        changed = view != clean
        inside, outside = (int((changed & m).any(1).sum()) for m in (mask, ~mask))
        least = min(inside, outside)
        require(not least, f"{least} pixels outside the mask differ from the clean image")
        require(max(inside, outside) > 0, "no pixel differs from the clean image")


@TARGETS_CHECKS.check(
    "truth",
    why="a class number out of range crashes a GPU without a clear message. NaN ruins all weights.",
    mend="Use classes 0 ... K - 1 if the head has choices = K. All other numbers are finite.",
    needs=(REPEATABLE, "builds_a_head"),
)
def targets_are_valid(subject: PretextSubject, drawn: Drawn) -> None:
    """Numbers are finite, and class numbers are within the head's `choices`."""
    target = subject.batch(drawn).target
    if not tensors(target):
        raise Skip("its views are its target")
    require_finite(target, "the target")
    for name, classes, choices in _classes(target, getattr(subject.built, "choices", None)):
        low, high = int(classes.min()), int(classes.max())
        valid = 0 <= low <= high < choices
        require(valid, f"{name} holds classes from {low} to {high}, with {choices} choices")


@TARGETS_CHECKS.check(
    "control",
    why="the control `random_target` would learn the truth, or crash. It would control nothing.",
    mend="permute(target, order) gives sample i the target of sample order[i]. Inputs that the "
    "target also holds (a mask) stay.",
    needs=REPEATABLE,
)
def targets_can_be_permuted(subject: PretextSubject, drawn: Drawn) -> None:
    """A permuted target has the same shapes, differs, and the inverse order restores it."""
    target, permute = subject.batch(drawn).target, subject.component.permute
    if not tensors(target):
        refused = _refuses_random_target(subject, drawn)
        require(refused, 'control = "random_target" is accepted without a target')
        return

    order = torch.arange(drawn.samples).roll(1)
    permuted = permute(target, order)
    same_form = tree_structure(target) == tree_structure(permuted)
    same_shapes = _shapes(target) == _shapes(permuted)
    require(same_form and same_shapes, "the shapes change")
    restored = permute(permuted, order.argsort())
    require(equal(restored, target), "the inverse order does not restore the target")

    constant = all(torch.equal(x, x[:1].expand_as(x)) for x in tensors(target))
    require(constant or not equal(permuted, target), "no target changes")


# ---------------------------------------------------------------------------------------- helpers


def is_mask(x: Tensor, view: Tensor) -> bool:
    """True if a leaf of the target is a mask of the view's pixels."""
    same_size = x.shape[-2:] == view.shape[-2:]
    return x.dtype == torch.bool and same_size and x.numel() == view[:, :1].numel()


def _classes(target: object, choices: object) -> list[tuple[str, Tensor, int]]:
    """(what, class numbers, choices) of each leaf that certainly holds classes."""
    if isinstance(choices, Mapping) and isinstance(target, Mapping):
        return [(repr(key), target[key], k) for key, k in choices.items() if key in target]
    if isinstance(target, Mapping):
        only = next(iter(target.values())) if len(target) == 1 else None
        target = target.get("answer", only)
    if isinstance(choices, int) and isinstance(target, Tensor) and not target.is_floating_point():
        return [("the target", target, choices)]
    return []


def _shapes(tree: object) -> list[tuple[torch.Size, torch.dtype]]:
    return [(x.shape, x.dtype) for x in tensors(tree)]


def _refuses_random_target(subject: PretextSubject, drawn: Drawn) -> bool:
    try:
        subject.prepared(drawn, control="random_target")
    except MtlError:
        return True
    return False
