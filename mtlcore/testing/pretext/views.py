"""Checks of what a pretext asks: its views, where their pixels come from, its draws, its answers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...augment.levels import Validation, Weak
from ...contracts import AugmentedBatch, View
from ...geometry import inverse_affine
from ..generators import touched
from ..kit import Group, Skip, Unproven, require
from ..subject import Drawn, patterns
from .harness import (
    Asked,
    ChannelsLast,
    PretextSubject,
    floats,
    images_of,
    raw,
    require_finite,
    same,
    tensors,
)

STILL = Validation()  # nothing random
MOVING = Weak(
    crop=(0.6, 0.69), contrast=(1.0, 1.0)
)  # turned, mirrored, cut out of the inside: each pixel comes from one place
CHANGED, FEW = 0.02, 0.002  # a pixel that differs by more; the share of pixels that may
CHANNELS = 5  # of a dense label, to see that steps do not take it for an image or a mask
EDGE_PX = 2  # pixels at edges, which interpolation mixes
WHOLE_PX, OFF_PX = (
    0.5,
    0.25,
)  # an image moved as a whole to this exactness; its matrix may be off by so much
EXACT_SIDE = 48  # pixels: divided by grids of 2, 3, 4, 6, 8, so the way back can be exact
VIEWS, TARGETS, PURE = (
    "views_are_images",
    "targets_hold_one_entry_a_sample",
    "global_generators_are_left_alone",
)
TWICE = "same_seed_asks_the_same"  # what everything needs that asks twice


VIEWS_CHECKS = Group()


@VIEWS_CHECKS.check(
    "views",
    why="the encoder reads RGB floats in one batch; any other shape stops the run, or trains on garbage.",
    mend="return View objects made from augmented.clean or augmented.augment(), with images (B, 3, H, W) in float32.",
    needs="builds_from_its_name",
    core=True,
)
def views_are_images(subject: PretextSubject, drawn: Drawn) -> None:
    """At least one view, and each is a View of float32 images (B, 3, H, W) on the augmented's device."""
    asked = subject.ask(drawn)
    require(bool(asked.views), "it makes no view")
    for i, view in enumerate(asked.views):
        require(isinstance(view, View), f"view {i} is a {type(view).__name__}")
        x, clean = view.images, asked.augmented.clean.images
        held = (
            x.ndim == 4
            and x.shape[:2] == (drawn.samples, 3)
            and x.dtype == clean.dtype
            and x.device == clean.device
        )
        require(
            held,
            f"view {i} holds {tuple(x.shape)}, {x.dtype}, {x.device}; expected ({drawn.samples}, 3, H, W)",
        )


@VIEWS_CHECKS.check(
    "views",
    why="targets are cut and permuted along their samples; a leaf without samples is given to the wrong images.",
    mend="make each leaf of the target a tensor (B, ...); keep settings of the head in the head. None: no target.",
    needs=VIEWS,
    core=True,
)
def targets_hold_one_entry_a_sample(subject: PretextSubject, drawn: Drawn) -> None:
    """The target is None, or tensors (B, ...) in tuples, lists and dicts."""
    target = subject.ask(drawn).target
    for leaf in tree_leaves(target) if target is not None else []:
        require(isinstance(leaf, Tensor), f"a leaf of the target is a {type(leaf).__name__}")
        require(
            leaf.ndim > 0 and len(leaf) == drawn.samples,
            f"a leaf of {tuple(leaf.shape)} for {drawn.samples} samples",
        )


@VIEWS_CHECKS.check(
    "views",
    why="draws of a global generator depend on what else ran: paired runs are not paired, resumed runs differ.",
    mend="draw with the rng that views() is given: rng.rand, rng.randint, rng.permutations, rng.randn, rng.integer.",
    needs=TARGETS,
    core=True,
)
def global_generators_are_left_alone(subject: PretextSubject, drawn: Drawn) -> None:
    """views() neither draws from nor seeds the global generators of torch, numpy and Python."""
    augmented = subject.augmented(raw(drawn), drawn.size, drawn.keyed_rng())
    moved = touched(lambda: subject.component.views(augmented, drawn.rng()))
    require(not moved, f"the global generator of {' and '.join(moved)} has moved")


@VIEWS_CHECKS.check(
    "views",
    why="a run must be repeatable: the same seed, the same questions; else arms of an experiment can't be paired.",
    mend="let views() depend on its arguments alone: no counters, no clock, no state kept between calls.",
    needs=PURE,
    core=True,
)
def same_seed_asks_the_same(subject: PretextSubject, drawn: Drawn) -> None:
    """Asked twice about the same images with the same seed, views and targets are bit-equal."""
    one, two = subject.ask(drawn), subject.ask(drawn)
    require(same(images_of(one), images_of(two)), "the views differ")
    require(same(one.target, two.target), "the targets differ")


@VIEWS_CHECKS.check(
    "views",
    why="all heads of a step read the clean view: edited in place, the supervised ones train on the pretext's damage.",
    mend="never write into augmented.clean.images: masked_fill instead of masked_fill_, clone() before indexed writes.",
    needs=TWICE,
    core=True,
)
def the_batch_is_left_alone(subject: PretextSubject, drawn: Drawn) -> None:
    """Every view that the augmented has given, and the raw images, hold the same after views() as in a fresh augmented."""
    images = raw(drawn)
    augmented = Noted(subject.augmented(images, drawn.size, drawn.keyed_rng()))
    subject.component.views(augmented, drawn.rng())
    fresh = subject.augmented(raw(drawn), drawn.size, drawn.keyed_rng())
    require(same(images, raw(drawn)), "the raw images were changed in place")
    require(
        same(_held(augmented.clean), _held(fresh.clean)), "augmented.clean was changed in place"
    )
    for (number, augmentation), view in augmented.given.items():
        kept = same(_held(view), _held(fresh.augment(number, augmentation)))
        require(kept, f"augmented.augment({number}, {augmentation!r}) was changed in place")


@VIEWS_CHECKS.check(
    "views",
    why="the encoder's normalization expects [0, 1]; other ranges shift BatchNorm's statistics for all heads.",
    mend="clamp what you paint: images.clamp(0, 1).",
    needs=TWICE,
)
def values_stay_in_range(subject: PretextSubject, drawn: Drawn) -> None:
    """Every pixel of every view is finite and in [0, 1]."""
    for i, x in enumerate(images_of(subject.ask(drawn))):
        require_finite(x, f"view {i}")
        low, high = float(x.min()), float(x.max())
        require(low >= -1e-4 and high <= 1 + 1e-4, f"view {i} reaches from {low:.3g} to {high:.3g}")


@VIEWS_CHECKS.check(
    "views",
    why="augmentations and encoders may keep images in channels_last, which is faster: such a run would stop.",
    mend="use reshape, flatten or einops instead of view() on images.",
    needs=TWICE,
)
def reads_channels_last(subject: PretextSubject, drawn: Drawn) -> None:
    """Images whose memory is laid out as channels_last give the same question."""
    plain, last = (subject.ask(drawn, augmentation=r) for r in (Weak(), ChannelsLast(Weak())))
    for i, (a, b) in enumerate(zip(images_of(plain), images_of(last))):
        off = float((a - b).abs().max())
        require(off < 1e-5, f"view {i} differs by {off:.3g}")
    require(_close(plain.target, last.target), "the targets differ")


@VIEWS_CHECKS.check(
    "views",
    why="supervised heads may read this view: dense labels (masks, keypoint maps) then lie on the wrong pixels.",
    mend="`repaint` is for colors alone; pixels that move go through `rearrange(move)`; a patch is View(images), no geometry.",
    needs=TWICE,
    core=True,
)
def pixels_lie_where_the_geometry_says(subject: PretextSubject, drawn: Drawn) -> None:
    """Where other colors are put into the raw image, a view changes only where geometry.warp puts them."""
    images, marks = raw(drawn), _marks(drawn)
    asked = subject.ask(drawn, augmentation=MOVING)
    marked = subject.ask(
        drawn, images=torch.where(marks, images + 128, images), augmentation=MOVING
    )
    for i, view in _whole(asked):
        claimed = view.geometry.warp(marks.float(), "bilinear")  # type: ignore[union-attr]
        size = tuple(view.images.shape[-2:])
        require(
            claimed.shape[-2:] == size,
            f"view {i} is {size}, its geometry makes {tuple(claimed.shape[-2:])}",
        )
        if (
            view.mix is not None
        ):  # the augmented mixes nothing here: the pretext did, and its partners lie there too
            claimed = torch.maximum(claimed, claimed[view.mix[0]])
        untouched = F.max_pool2d(claimed, 2 * EDGE_PX + 1, 1, EDGE_PX) < 1e-3
        moved = (marked.views[i].images - view.images).abs().amax(1, keepdim=True) > CHANGED
        share = float((moved & untouched).float().mean())
        require(
            share <= FEW,
            f"view {i}: {share:.1%} of the pixels come from elsewhere than its geometry says",
        )


@VIEWS_CHECKS.check(
    "views",
    why="class maps, heat maps of many landmarks and images have more channels: each must move as the pixels did.",
    mend="let `move` act on the last two dimensions alone, whatever stands before them.",
    needs="pixels_lie_where_the_geometry_says",
    core=True,
)
def dense_labels_follow_the_pixels(subject: PretextSubject, drawn: Drawn) -> None:
    """Maps of several channels, read by the nearest pixel, are moved as one channel is."""
    maps = torch.cat([_marks(drawn, f"marks {i}") for i in range(CHANNELS)], 1).float()
    for i, view in _whole(subject.ask(drawn, augmentation=MOVING)):
        warp = view.geometry.warp  # type: ignore[union-attr]
        found = warp(maps, "nearest")
        for channel, alone in enumerate(maps.split(1, 1)):
            expected = warp(alone, "bilinear")
            wrong = float(
                (_inside(expected) & (found[:, channel : channel + 1] != expected.round()))
                .float()
                .mean()
            )
            said = f"channel {channel} of {CHANNELS}: {wrong:.1%} of the pixels lie elsewhere than those of one channel"
            require(wrong <= FEW, f"view {i}, {said}")


@VIEWS_CHECKS.check(
    "views",
    why="labels that turn with the image (head pose, landmarks) stay where they were, and teach the wrong angle.",
    mend="give `rearrange(move, matrix)` the (B, 3, 3) matrix, old pixels -> new, where the image moves as a whole.",
    needs=("pixels_lie_where_the_geometry_says",),
    core=True,
)
def rigid_labels_follow_the_image(subject: PretextSubject, drawn: Drawn) -> None:
    """Of a view that shows the image moved as a whole, the matrix tells the same movement as the pixels."""
    moved = False
    for i, view in _whole(subject.ask(drawn, augmentation=MOVING)):
        matrix = view.geometry.matrix  # type: ignore[union-attr]
        require(
            matrix.shape == (drawn.samples, 3, 3),
            f"view {i}: the matrix has the shape {tuple(matrix.shape)}",
        )
        last = matrix.new_tensor([0.0, 0.0, 1.0]).expand(drawn.samples, 3)
        require(
            torch.equal(matrix[:, 2], last),
            f"view {i}: the matrix's last sample is {matrix[0, 2].tolist()}",
        )
        off = _off_px(view, drawn.size * 5 // 4)
        held = bool((off < OFF_PX).all())
        require(
            held,
            f"view {i}: its pixels lie up to {float(off.max()):.1f} px from where the matrix puts them",
        )
        moved |= bool((off >= 0).any())
    if not moved:
        raise Unproven("no view shows the image moved as a whole: parts of it move, or go")


DRAWS_CHECKS = Group()


@DRAWS_CHECKS.check(
    "randomness",
    why="the same question at every step teaches its answer by heart.",
    mend="draw from the rng that views() is given; do not make or seed a generator of your own.",
    needs=TWICE,
    core=True,
)
def another_seed_asks_something_else(subject: PretextSubject) -> None:
    """Where anything is drawn, other seeds give another view or target of the same image."""
    images = patterns(1, 40, 0).expand(4, -1, -1, -1).contiguous()
    asked = [
        subject.ask(Drawn(4, 32, 0), images=images, augmentation=STILL, seed=seed)
        for seed in range(8)
    ]
    drawn = any(a.drew for a in asked) or _samples_differ(asked[0])
    if not drawn:
        raise Skip("it draws nothing: its question is a function of the image")
    questions = [(images_of(a), a.target) for a in asked]
    require(not all(same(q, questions[0]) for q in questions), "eight seeds ask the same question")


@DRAWS_CHECKS.check(
    "truth",
    why="an answer that does not describe its view teaches noise.",
    mend="let `undo` invert exactly what views() did to the FIRST view; return None where no exact way back exists.",
    needs=TWICE,
)
def undo_gives_the_image_back(subject: PretextSubject, drawn: Drawn) -> None:
    """`undo(view, target)` gives the clean image back, bit for bit."""
    undo = getattr(subject.component, "undo", None)
    if undo is None:
        raise Skip("it has no `undo`")
    asked = subject.ask(evolve(drawn, size=EXACT_SIDE))
    back = undo(asked.views[0].images, asked.target)
    if back is None:
        raise Skip("its `undo` knows no exact way back with these fields")
    clean = asked.augmented.clean.images
    require(
        back.shape == clean.shape,
        f"it gives {tuple(back.shape)} back; the image is {tuple(clean.shape)}",
    )
    wrong = float((back != clean).float().mean())
    require(not wrong, f"{wrong:.1%} of the numbers differ from the clean image's")


@DRAWS_CHECKS.check(
    "truth",
    why="pixels that are damaged though the mask calls them whole are judged as if they were true.",
    mend="paint where the mask says and nowhere else: torch.where(mask, painted, images).",
    needs=TWICE,
)
def pixels_outside_the_mask_are_untouched(subject: PretextSubject, drawn: Drawn) -> None:
    """On one side of each mask in the target, the view's pixels are the clean image's, and neither side is empty."""
    asked = subject.ask(drawn)
    clean, view = asked.augmented.clean.images, asked.views[0].images
    masks = [x for x in tensors(asked.target) if _is_mask(x, view)]
    if not masks or view.shape != clean.shape:
        raise Skip("its target holds no mask of the view's size")
    for mask in masks:
        mask = mask.view(drawn.samples, 1, *view.shape[-2:])
        share = mask.float().mean((1, 2, 3))
        require(
            bool(((share > 0) & (share < 1)).all()), f"a mask covers {share.tolist()} of its images"
        )
        kept = min(int(((view != clean) & side).any(1).sum()) for side in (mask, ~mask))
        require(not kept, f"{kept} pixels outside the mask differ from the clean image's")


@DRAWS_CHECKS.check(
    "truth",
    why="class numbers out of range stop the run on a GPU without a word of sense; NaN poisons every weight.",
    mend="answers of a K-way question are 0 ... K - 1, where the head says choices = K; all others are finite.",
    needs=(TWICE, "builds_a_head"),
)
def targets_are_valid(subject: PretextSubject, drawn: Drawn) -> None:
    """Numbers are finite; class numbers lie in the range of the head's `choices`."""
    target = subject.ask(drawn).target
    if not tensors(target):
        raise Skip("its views are its target")
    require_finite(target, "the target")
    for name, answer, choices in _asked_classes(target, getattr(subject.built, "choices", None)):
        low, high = int(answer.min()), int(answer.max())
        require(
            0 <= low <= high < choices,
            f"{name} holds classes from {low} to {high}, of {choices} choices",
        )


# ---------------------------------------------------------------------------------------------------- helpers


def _whole(asked: Asked) -> list[tuple[int, View]]:
    """The views that tell where their pixels come from."""
    found = [(i, v) for i, v in enumerate(asked.views) if v.geometry is not None]
    if not found:
        raise Skip("none of its views is a whole image")
    return found


class Noted:
    """A augmented that keeps the views that it has given, by (number, augmentation)."""

    def __init__(self, augmented: AugmentedBatch) -> None:
        self.augmented, self.given = augmented, dict[tuple[int, str | None], View]()

    @property
    def clean(self) -> View:
        return self.augmented.clean

    @property
    def progress(self) -> float:
        return self.augmented.progress

    def augment(self, number: int = 1, augmentation: str | None = None) -> View:
        return self.given.setdefault(
            (number, augmentation), self.augmented.augment(number, augmentation)
        )


def _held(view: View) -> Any:
    """All tensors of a view that somebody might write into."""
    return view.images, view.mix, view.geometry and view.geometry.matrix


def _inside(soft: Tensor) -> Tensor:
    """Where a map in [0, 1] is the same all around: no edge, whose pixels interpolation may round either way."""
    around = 2 * EDGE_PX + 1
    return (
        F.max_pool2d(soft, around, 1, EDGE_PX) - -F.max_pool2d(-soft, around, 1, EDGE_PX) < CHANGED
    )


def _marks(drawn: Drawn, purpose: str = "marks") -> Tensor:
    """(B, 1, R, R) bool: about a third of 5 x 5 blocks of the raw image."""
    blocks = drawn.rng(purpose).rand(drawn.samples, 1, 5, 5) < 0.33
    side = drawn.size * 5 // 4
    return F.interpolate(blocks.float(), (side, side)).bool()


def _off_px(view: View, side: int) -> Tensor:
    """(B,) the most, in raw pixels, by which the matrix misses the places that a sample shows; -1 of one not moved as a whole."""
    ramp = torch.arange(side) + 0.5
    places = torch.stack(torch.meshgrid(ramp, ramp, indexing="xy")).expand(
        len(view.images), -1, -1, -1
    )
    assert view.geometry is not None
    shown = (
        _inner(view.geometry.warp(places.contiguous(), "bilinear")).flatten(2).mT.double()
    )  # (B, pixels, 2)
    x, y = (
        torch.arange(n, dtype=torch.float64) + 0.5
        for n in (view.images.shape[-1], view.images.shape[-2])
    )
    grid = (
        _inner(torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(len(y), len(x))]))
        .flatten(1)
        .T
    )
    fit = grid @ torch.linalg.lstsq(grid.expand(len(shown), -1, -1), shown).solution
    rigid = (fit - shown).abs().amax((1, 2)) < WHOLE_PX
    said = grid @ inverse_affine(view.geometry.matrix.double())[:, :2].mT
    return torch.where(rigid, (said - shown).abs().amax((1, 2)), -1.0)


def _inner(x: Tensor) -> Tensor:
    return x[..., EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX]


def _samples_differ(asked: Asked) -> bool:
    return any(
        not torch.equal(x[:1].expand_as(x), x) for x in tensors((images_of(asked), asked.target))
    )


def _is_mask(x: Tensor, view: Tensor) -> bool:
    return (
        x.dtype == torch.bool
        and x.shape[-2:] == view.shape[-2:]
        and x.numel() == view[:, :1].numel()
    )


def _asked_classes(target: Any, choices: Any) -> list[tuple[str, Tensor, int]]:
    """(what, class numbers, how many) where it is plain which leaf of the target answers a K-way question."""
    if isinstance(choices, dict) and isinstance(target, dict):
        return [(repr(key), target[key], k) for key, k in choices.items() if key in target]
    if isinstance(target, dict):
        target = target.get("answer", next(iter(target.values())) if len(target) == 1 else None)
    known = (
        isinstance(choices, int) and isinstance(target, Tensor) and not target.is_floating_point()
    )
    return [("the target", target, choices)] if known else []


def _close(a: Any, b: Any) -> bool:
    """Floats to rounding, all else exactly."""
    near = all(
        x.shape == y.shape and torch.allclose(x, y, atol=1e-5) for x, y in zip(floats(a), floats(b))
    )
    return near and same(*(tree_map(_without_floats, t) for t in (a, b)))


def _without_floats(x: Any) -> Any:
    return None if isinstance(x, Tensor) and x.is_floating_point() else x
