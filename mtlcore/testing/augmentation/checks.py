"""All checks of augmentations."""

from __future__ import annotations

import torch
from torch import Tensor

from ...contracts import View
from ..common import COMMON
from ..generators import require_no_global_draws
from ..kit import CheckList, Group
from ..requirements import Skip, require, require_finite, require_shape, require_unit_range
from ..subject import Drawn, batches, coordinates, patterns
from .harness import (
    AugmentationSubject,
    expected_images,
    geometry_of,
    marks,
    require_in_place,
)

SHAPE = "view_has_its_shape"
REPEATABLE = "same_draws_same_view"
FINISHED = "finish_keeps_shape_and_range"
ROUNDING = 1e-5  # interpolation of white gives 1.0000001
FIRST_ID = 2**40  # of a mask: float32 can't hold this id and the next ones exactly
DISC_PX = 4

AUGMENTATION_CHECKS = Group()

# ------------------------------------------------------------------------------------------ views


@AUGMENTATION_CHECKS.check(
    "views",
    why="all later code expects whole images of the requested size with a known geometry.",
    mend="Return mtlcore.View(images (B, 3, h, w) float, Geometry.affine(matrix, size)).",
    needs="builds_from_its_name",
    core=True,
)
def view_has_its_shape(subject: AugmentationSubject, drawn: Drawn) -> None:
    """A View: float32 images (B, 3, h, w) of the requested size, and a matrix (B, 3, 3)."""
    view = subject.view(drawn.images(), drawn.seed, (36, 36))
    require(isinstance(view, View), f"it returns {type(view).__name__}")
    require(view.images.dtype == torch.float32, f"the images are {view.images.dtype}")
    require_shape(view.images, (drawn.samples, 3, 36, 36), "the view")
    require(view.geometry is not None, "its geometry is None: supervised heads cannot read it")
    declared = view.mixed is None or subject.component.mixes
    require(declared, "it mixes samples, and its class does not set `mixes = True`")
    require_shape(geometry_of(view).matrix, (drawn.samples, 3, 3), "the geometry's matrix")


@AUGMENTATION_CHECKS.check(
    "views",
    why="images are in [0, 1] everywhere, and the encoder normalizes them for that range.",
    mend="Divide uint8 by 255, and clamp to [0, 1] after noise and color changes.",
    needs=SHAPE,
    core=True,
)
def view_stays_between_0_and_1(subject: AugmentationSubject) -> None:
    """Views of black, white and drawn images are finite and in [0, 1]."""
    plain = torch.stack([torch.full((3, 40, 40), v, dtype=torch.uint8) for v in (0, 255)])
    raw = torch.cat([plain, patterns(6, 40, 0)])
    for seed in range(8):
        images = subject.view(raw, seed).images
        require_finite(images, "the view")
        require_unit_range(images, "the view", ROUNDING)


@AUGMENTATION_CHECKS.check(
    "views",
    why="an evaluation may end with a batch of one sample, and a preview may show one.",
    mend="Avoid squeeze() without a dimension, and statistics over the samples.",
    needs=SHAPE,
)
def accepts_a_single_sample(subject: AugmentationSubject) -> None:
    """A batch of one image gives a view and a finished image of one sample."""
    view = subject.view(patterns(1, 40, 0))
    require_shape(view.images, (1, 3, 32, 32), "the view")
    require_shape(subject.finished(view.images), (1, 3, 32, 32), "the finished image")


@AUGMENTATION_CHECKS.check(
    "views",
    why="cached images and requested views need not be square.",
    mend='Do not confuse height and width, or declare it: lacks = {"any_shape": "..."}.',
    needs=SHAPE,
    capability="any_shape",
)
def accepts_images_that_are_not_square(subject: AugmentationSubject) -> None:
    """Raw images and views may have different heights and widths."""
    for (height, width), size in (((40, 56), (24, 32)), ((56, 40), (32, 24)), ((40, 40), (24, 48))):
        square = patterns(2, max(height, width), 0)
        raw = square[..., :height, :width].contiguous()
        view = subject.view(raw, 0, size)
        require_shape(view.images, (2, 3, *size), f"the view of {height} x {width} pixels")


@AUGMENTATION_CHECKS.check(
    "views",
    why="others read the raw batch and the shared view too. They would see the edited pixels.",
    mend="Work on a copy (`images.float()` makes one). Functions that end in _ overwrite.",
    needs=SHAPE,
    core=True,
)
def leaves_its_inputs_unchanged(subject: AugmentationSubject) -> None:
    """`view` does not edit the raw images, and `finish` does not edit its images."""
    raw = patterns(3, 32, 0)
    raw_before = raw.clone()
    view = subject.view(raw)
    require(torch.equal(raw, raw_before), "`view` edits the raw images")
    view_before = view.images.clone()
    subject.finished(view.images)
    require(torch.equal(view.images, view_before), "`finish` edits the images of the view")


# ------------------------------------------------------------------------------------- randomness


@AUGMENTATION_CHECKS.check(
    "randomness",
    why="draws are keyed by (seed, step, micro-batch). Global generators break resumed runs.",
    mend="Draw from the `rng` argument: rng.rand, rng.randn, rng.randint, rng.permutations.",
    needs=SHAPE,
    core=True,
)
def leaves_global_generators_alone(subject: AugmentationSubject) -> None:
    """`view` and `finish` use no global generator of torch, numpy or Python."""
    raw = patterns(3, 40, 0)
    require_no_global_draws(lambda: subject.finished(subject.view(raw).images), "it")


@AUGMENTATION_CHECKS.check(
    "randomness",
    why="ranks, resumed runs and paired runs must see the same views for the same key.",
    mend="Draw from the `rng` argument only, and keep no state between calls.",
    needs="leaves_global_generators_alone",
    core=True,
)
def same_draws_same_view(subject: AugmentationSubject, drawn: Drawn) -> None:
    """The same generator gives the same view and the same finished images."""
    one, other = subject.drawn(drawn), subject.drawn(drawn)
    require(torch.equal(one.images, other.images), "the views differ")
    finished = [subject.finished(view.images, drawn.seed) for view in (one, other)]
    require(torch.equal(*finished), "the finished images differ")


@AUGMENTATION_CHECKS.check(
    "views",
    why="images may come in the faster channels_last. `view` on the input then raises.",
    mend="Use reshape or einops on the input, or call .contiguous() first.",
    needs=REPEATABLE,
)
def accepts_channels_last(subject: AugmentationSubject) -> None:
    """The memory format of the raw images does not change the view."""
    raw = patterns(3, 40, 0)
    plain = subject.view(raw)
    other = subject.view(raw.contiguous(memory_format=torch.channels_last))
    difference = float((plain.images - other.images).abs().max())
    require(difference < 1e-4, f"pixels differ by {difference:.3g}")


@AUGMENTATION_CHECKS.check(
    "randomness",
    why="the model memorizes images that look the same in every epoch.",
    mend="Draw something from `rng`. If the augmentation is fixed on purpose, declare it: lacks = "
    '{"random": "for evaluation"}.',
    needs=REPEATABLE,
    capability="random",
)
def other_draws_other_view(subject: AugmentationSubject) -> None:
    """Other seeds give other views."""
    raw = patterns(4, 40, 0)
    first = subject.view(raw, 0).images
    same = all(torch.equal(subject.view(raw, seed).images, first) for seed in range(1, 9))
    require(not same, "nine seeds give the same view")


@AUGMENTATION_CHECKS.check(
    "randomness",
    why="a sample's view must not depend on ranks or on a pretext's additional samples.",
    mend="Draw parameters (B,) for each sample, and use no statistics over samples. Use View.mix "
    "if samples are mixed.",
    needs=REPEATABLE,
    core=True,
)
def view_of_a_sample_depends_on_it_alone(subject: AugmentationSubject, drawn: Drawn) -> None:
    """Other images in the batch do not change an image's view, unless it mixes them by View.mix."""
    raw = drawn.images()
    changed = _with_other_images(raw, drawn)
    one, other = subject.view(raw, drawn.seed), subject.view(changed, drawn.seed)
    if one.mixed is not None:
        raise Skip("it mixes samples, and declares it")
    require(torch.equal(one.images[0], other.images[0]), "sample 0 changes with the others")


# --------------------------------------------------------------------------------------- geometry


@AUGMENTATION_CHECKS.check(
    "geometry",
    why="interpolation of a class map invents classes.",
    mend="Pass the `mode` on: a step of a geometry is a function of (maps, mode), with mode "
    '"nearest" for class maps.',
    needs=SHAPE,
    core=True,
)
def class_maps_keep_their_classes(subject: AugmentationSubject, drawn: Drawn) -> None:
    """`geometry.warp(maps, "nearest")` adds no class and returns maps of the view's size."""
    raw, view = subject.framed(drawn)
    classes = (raw[:, :1] // 64).float() * 10
    moved = geometry_of(view).warp(classes, "nearest")
    size, found = tuple(view.images.shape[-2:]), tuple(moved.shape[-2:])
    require(found == size, f"the maps are {found}, the view is {size}")
    new = set(moved.flatten().tolist()) - set(classes.flatten().tolist())
    require(not new, f"new classes: {sorted(new)[:3]}")


@AUGMENTATION_CHECKS.check(
    "geometry",
    why="poses and landmarks follow the matrix, dense labels the warp. One of them is wrong if "
    "these differ.",
    mend="Build both from one matrix with Geometry.affine. If no matrix describes the movement, "
    'give the geometry a Bend, which moves points, and declare it: lacks = {"affine": "an elastic '
    'warp"}.',
    needs="class_maps_keep_their_classes",
    capability="affine",
)
def matrix_and_warp_agree(subject: AugmentationSubject, drawn: Drawn) -> None:
    """A warped map of coordinates holds, at each pixel, what the inverse matrix gives."""
    raw, view = subject.framed(drawn)
    geometry, (height, width) = geometry_of(view), raw.shape[-2:]
    warped = geometry.warp(coordinates(drawn.samples, height, width), "bilinear")
    here = coordinates(drawn.samples, *warped.shape[-2:])
    inverse = torch.linalg.inv(geometry.matrix.double()).float()
    rotated = torch.einsum("bij,bjhw->bihw", inverse[:, :2, :2], here)
    origin = rotated + inverse[:, :2, 2, None, None]

    last = torch.tensor([width, height])[:, None, None] - 1.5  # away from the border
    inside = ((origin > 1.5) & (origin < last)).all(1)
    error = (warped - origin).norm(dim=1)[inside]
    require(error.numel() > 0, "no pixel of the view is inside the raw image")
    largest = float(error.max())
    require(largest < 0.1, f"a pixel is {largest:.3g} raw pixels from its matrix's place")


@AUGMENTATION_CHECKS.check(
    "geometry",
    why="landmarks next to their pixels, or masks with wrong ids, are wrong labels.",
    mend="Return Geometry.affine(matrix, size): it moves masks by its warp, points by its matrix. "
    "If no matrix describes the movement, give the geometry a Bend. If points can't follow, "
    'declare it: lacks = {"points": "..."}.',
    needs="matrix_and_warp_agree",
    capability="points",
)
def marked_pixels_keep_their_mask_and_point(subject: AugmentationSubject, drawn: Drawn) -> None:
    """The center of a disc, moved as a point, lies in the disc, moved as a mask."""
    raw, view = subject.framed(drawn)
    height, width = raw.shape[-2:]
    unit = 0.3 + 0.4 * drawn.rng("middle").rand(drawn.samples, 2)
    middle = unit * torch.tensor([width, height])
    number = FIRST_ID + torch.arange(drawn.samples)
    away = coordinates(drawn.samples, height, width) - middle[:, :, None, None]
    disc = torch.where(away.norm(dim=1) < DISC_PX, number[:, None, None], 0)

    geometry = geometry_of(view)
    moved = geometry.warp(disc)
    x, y = geometry.points(middle[:, None])[:, 0].unbind(1)
    lost = x.isnan()
    if geometry.bend is not None:  # its points may leave the image, with a part of their discs
        lost = lost & _is_whole(moved == number[:, None, None])
    require(not bool(lost.any()), "points become unknown")
    height, width = moved.shape[-2:]
    inside = (x >= 1) & (x < width - 1) & (y >= 1) & (y < height - 1)
    found = moved[inside, y[inside].long(), x[inside].long()]
    wrong = int((found != number[inside]).sum())
    require(not wrong, f"{wrong} of {len(found)} points lie outside of their masks")


def _is_whole(masks: Tensor) -> Tensor:
    """(B, h, w) bool -> (B,): True if a mask is in the image and does not touch its border."""
    inner = masks[:, 1:-1, 1:-1].sum((1, 2))
    return (inner > 0) & (inner == masks.sum((1, 2)))


@AUGMENTATION_CHECKS.check(
    "geometry",
    why="labels follow the geometry. If the pixels do not, poses, landmarks and masks are wrong.",
    mend="Make the images with the geometry that you return: "
    "geometry.warp(images.float(), 'bilinear'). If noise or drops hide nearly all of an image, "
    "check a weaker setting: nothing shows where its pixels are.",
    needs="class_maps_keep_their_classes",
    core=True,
)
def pixels_lie_where_the_geometry_says(subject: AugmentationSubject, drawn: Drawn) -> None:
    """The view resembles the warped raw image more than a shifted, mirrored or turned one."""
    frame, size = subject.frames(drawn)
    raw = marks(drawn.samples, frame, drawn.seed)
    view = subject.view(raw, drawn.seed, size)
    require_in_place(view.images, expected_images(view, raw), 0.3)


# ----------------------------------------------------------------------------------------- finish


@AUGMENTATION_CHECKS.check(
    "finish",
    why="the encoder reads the result of `finish`. Heads are built for its size and range.",
    mend="Return images of the same shape, in [0, 1].",
    needs="view_stays_between_0_and_1",
    core=True,
)
def finish_keeps_shape_and_range(subject: AugmentationSubject, drawn: Drawn) -> None:
    """Finished images keep their shape and dtype, and stay in [0, 1]."""
    images = subject.drawn(drawn).images.clone()
    images[0] = 1.0  # white shows when `finish` brightens
    finished = subject.finished(images, drawn.seed)
    require_shape(finished, tuple(images.shape), "the finished images")
    require(finished.dtype == images.dtype, f"{images.dtype} becomes {finished.dtype}")
    require_unit_range(finished, "the finished images", ROUNDING)


@AUGMENTATION_CHECKS.check(
    "finish",
    why="labels have moved already. Pixels that move in `finish` leave them behind.",
    mend="Move pixels in `view`, with its geometry. `finish` hides, darkens or blurs.",
    needs=FINISHED,
    core=True,
)
def finish_keeps_pixels_in_place(subject: AugmentationSubject, drawn: Drawn) -> None:
    """A finished image resembles itself more than it resembles a shifted or turned copy."""
    images = marks(drawn.samples, (40, 40), drawn.seed).float() / 255
    require_in_place(subject.finished(images, drawn.seed), images, 0.2)


@AUGMENTATION_CHECKS.check(
    "finish",
    why="the finished samples of a rank must equal those of a single process.",
    mend="Draw parameters (B,) for each sample, and use no statistics over samples.",
    needs=(FINISHED, REPEATABLE),
    core=True,
)
def finished_sample_depends_on_itself_alone(subject: AugmentationSubject, drawn: Drawn) -> None:
    """Other images in the batch do not change a finished image."""
    raw = drawn.images()
    changed = _with_other_images(raw, drawn)
    one, other = (subject.finished(x.float() / 255, drawn.seed)[0] for x in (raw, changed))
    require(torch.equal(one, other), "sample 0 changes with the others")


def _with_other_images(raw: Tensor, drawn: Drawn) -> Tensor:
    """The same first image, with other images in the rest of the batch."""
    others = patterns(drawn.samples - 1, drawn.size, drawn.seed + 1)
    return torch.cat([raw[:1], others])


CHECKS = CheckList("augmentation", batches, (COMMON, AUGMENTATION_CHECKS))
HARNESS = AugmentationSubject
