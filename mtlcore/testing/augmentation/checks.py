"""What every augmentation must hold."""

from __future__ import annotations

import torch

from ...contracts import View
from ..common import COMMON
from ..generators import touched
from ..kit import CheckList, Group, Skip, require
from ..subject import Drawn, draws, patterns
from .harness import AugmentationSubject, alike, coordinates, displaced, expected, marks

AUGMENTATION_CHECKS = Group()

ROUNDING = 1e-5  # of images in [0, 1]: interpolation of white gives 1.0000001

# ---------------------------------------------------------------------------------------------------- views


@AUGMENTATION_CHECKS.check(
    "views",
    why="everything behind the augmentation takes a whole image of the asked size, whose pixels' way is known.",
    mend="return mtlcore.View(images (B, 3, h, w) float, Geometry.affine(matrix, size)).",
    needs="builds_from_its_name",
    core=True,
)
def view_has_its_shape(subject: AugmentationSubject, drawn: Drawn) -> None:
    """A View with float32 images (B, 3, h, w) of the asked size and a geometry with a matrix (B, 3, 3)."""
    size = (36, 36)
    view = subject.view(drawn.images(), drawn.seed, size)
    require(isinstance(view, View), f"it gives {type(view).__name__}")
    require(view.images.dtype == torch.float32, f"the images are {view.images.dtype}")
    require(
        view.images.shape == (drawn.samples, 3, *size),
        f"asked for {size}, the images are {tuple(view.images.shape)}",
    )
    require(view.geometry is not None, "its geometry is None: supervised heads could not read it")
    assert view.geometry is not None
    found = view.geometry.matrix.shape
    require(found == (drawn.samples, 3, 3), f"the geometry's matrix is {tuple(found)}")


@AUGMENTATION_CHECKS.check(
    "views",
    why="images are in [0, 1] everywhere: the encoder normalizes by mean and std for that range.",
    mend="divide uint8 by 255, and clamp to [0, 1] after noise and color.",
    needs="view_has_its_shape",
    core=True,
)
def view_stays_between_0_and_1(subject: AugmentationSubject) -> None:
    """Views of black, white and drawn images are finite and within [0, 1]."""
    plain = torch.stack([torch.full((3, 40, 40), v, dtype=torch.uint8) for v in (0, 255)])
    raw = torch.cat([plain, patterns(6, 40, 0)])
    for seed in range(8):
        images = subject.view(raw, seed).images
        require(bool(images.isfinite().all()), "not all values are finite")
        low, high = float(images.min()), float(images.max())
        require(
            low > -ROUNDING and high < 1 + ROUNDING,
            f"the values lie in [{low:.4g}, {high:.4g}]",
        )


@AUGMENTATION_CHECKS.check(
    "views",
    why="batches of one sample come at the end of an evaluation, and in a preview.",
    mend="avoid squeeze() without a dimension, and statistics over the samples.",
    needs="view_has_its_shape",
)
def takes_a_single_sample(subject: AugmentationSubject) -> None:
    """A batch of one image gives a view, and a finished image, of one sample."""
    view = subject.view(patterns(1, 40, 0))
    require(view.images.shape == (1, 3, 32, 32), f"the view is {tuple(view.images.shape)}")
    found = subject.finished(view.images).shape
    require(found == (1, 3, 32, 32), f"the finished image is {tuple(found)}")


@AUGMENTATION_CHECKS.check(
    "views",
    why="samples may be kept, and views asked for, that are not square.",
    mend='use height and width where they belong, or say why not: lacks = {"any_shape": "..."}.',
    needs="view_has_its_shape",
    capability="any_shape",
)
def takes_images_that_are_not_square(subject: AugmentationSubject) -> None:
    """A raw image and a view may have sides of different length."""
    for raw_size, size in (((40, 56), (24, 32)), ((56, 40), (32, 24)), ((40, 40), (24, 48))):
        side = max(raw_size)
        raw = patterns(2, side, 0)[..., : raw_size[0], : raw_size[1]].contiguous()
        found = tuple(subject.view(raw, 0, size).images.shape)
        require(found == (2, 3, *size), f"of {raw_size}, asked for {size}: {found}")


@AUGMENTATION_CHECKS.check(
    "views",
    why="the raw batch, and a view that several heads share, are read by others: they would see the touched pixels.",
    mend="work on a copy (`images.float()` makes one); functions that end in _ overwrite.",
    needs="view_has_its_shape",
    core=True,
)
def leaves_what_it_reads_alone(subject: AugmentationSubject) -> None:
    """Neither the raw images nor the images given to `finish` are edited in place."""
    raw = patterns(3, 32, 0)
    kept = raw.clone()
    view = subject.view(raw)
    require(torch.equal(raw, kept), "`view` edits the raw images")
    before = view.images.clone()
    subject.finished(view.images)
    require(torch.equal(view.images, before), "`finish` edits the images of the view")


# ---------------------------------------------------------------------------------------------------- randomness


@AUGMENTATION_CHECKS.check(
    "randomness",
    why="global generators are not part of the key (seed, step, micro-batch): a resumed run would go on otherwise.",
    mend="draw from the `rng` that is given: rng.rand, rng.randn, rng.randint, rng.permutations.",
    needs="view_has_its_shape",
    core=True,
)
def leaves_global_generators_alone(subject: AugmentationSubject) -> None:
    """Neither `view` nor `finish` draws from, or seeds, the generators of torch, numpy or Python."""
    raw = patterns(3, 40, 0)
    found = touched(lambda: subject.finished(subject.view(raw).images))
    require(not found, f"it draws from {', '.join(found)}")


@AUGMENTATION_CHECKS.check(
    "randomness",
    why="two ranks, a resumed run and paired arms must see the same views for the same key.",
    mend="draw from the `rng` that is given alone, and keep no state between calls.",
    needs="leaves_global_generators_alone",
    core=True,
)
def same_draws_same_view(subject: AugmentationSubject, drawn: Drawn) -> None:
    """The same generator gives the same view and the same finished images."""
    one, other = subject.drawn(drawn), subject.drawn(drawn)
    require(torch.equal(one.images, other.images), "the views differ")
    finished = (subject.finished(view.images, drawn.seed) for view in (one, other))
    require(torch.equal(*finished), "the finished images differ")


@AUGMENTATION_CHECKS.check(
    "views",
    why="images come in channels_last where that is faster; a `view` of the input then raises.",
    mend="use reshape or einops on the input, or call .contiguous() first.",
    needs="same_draws_same_view",
)
def reads_channels_last(subject: AugmentationSubject) -> None:
    """The view does not depend on the memory layout of the raw images."""
    raw = patterns(3, 40, 0)
    one, other = subject.view(raw), subject.view(raw.contiguous(memory_format=torch.channels_last))
    apart = float((one.images - other.images).abs().max())
    require(apart < 1e-4, f"pixels differ by {apart:.3g}")


@AUGMENTATION_CHECKS.check(
    "randomness",
    why="an image that looks the same in every epoch is learned by heart.",
    mend='draw something from `rng`; an augmentation that is meant to be fixed says lacks = {"random": "for evaluation"}.',
    needs="same_draws_same_view",
    capability="random",
)
def other_draws_other_view(subject: AugmentationSubject) -> None:
    """Other seeds give other views."""
    raw = patterns(4, 40, 0)
    first = subject.view(raw, 0).images
    require(
        any(not torch.equal(subject.view(raw, seed).images, first) for seed in range(1, 9)),
        "nine seeds, one view",
    )


@AUGMENTATION_CHECKS.check(
    "randomness",
    why="a rank's samples would be augmented otherwise than the same samples in one process, and a pretext's samples than without it.",
    mend="give each sample its own parameters, (B,), and use no statistics over samples; an augmentation that mixes samples sets View.mix.",
    needs="same_draws_same_view",
    core=True,
)
def a_sample_of_the_view_depends_on_itself_alone(
    subject: AugmentationSubject, drawn: Drawn
) -> None:
    """Other images in the batch do not change an image's view, unless the view says how samples are mixed."""
    raw = drawn.images()
    others = torch.cat([raw[:1], patterns(drawn.samples - 1, drawn.size, drawn.seed + 1)])
    one, other = subject.view(raw, drawn.seed), subject.view(others, drawn.seed)
    if one.mix is not None:
        raise Skip("it mixes samples, and says so")
    require(torch.equal(one.images[0], other.images[0]), "sample 0 changes with the others")


# ---------------------------------------------------------------------------------------------------- geometry


@AUGMENTATION_CHECKS.check(
    "geometry",
    why="a map of classes that is interpolated holds classes that nobody gave.",
    mend='hand the `mode` on: a step of a geometry is a function of (maps, mode), with mode "nearest" for class maps.',
    needs="view_has_its_shape",
    core=True,
)
def class_maps_keep_their_classes(subject: AugmentationSubject, drawn: Drawn) -> None:
    """`geometry.warp(maps, "nearest")` makes no class that was not there, and gives maps of the view's size."""
    view = subject.drawn(drawn)
    assert view.geometry is not None
    classes = (drawn.images()[:, :1] // 64).float() * 10
    moved = view.geometry.warp(classes, "nearest")
    require(
        moved.shape[-2:] == view.images.shape[-2:], f"the maps become {tuple(moved.shape[-2:])}"
    )
    strange = sorted(set(moved.flatten().tolist()) - set(classes.flatten().tolist()))
    require(not strange, f"new classes: {strange[:3]}")


@AUGMENTATION_CHECKS.check(
    "geometry",
    why="poses and landmarks follow the matrix, dense labels the warp: where they differ, one of them is wrong.",
    mend='build both from one matrix by Geometry.affine, or say why not: lacks = {"affine": "an elastic warp"}.',
    needs="class_maps_keep_their_classes",
    capability="affine",
)
def matrix_and_warp_agree(subject: AugmentationSubject, drawn: Drawn) -> None:
    """A ramp of coordinates, warped, holds at each pixel what the inverse matrix says of it."""
    geometry = subject.drawn(drawn).geometry
    assert geometry is not None
    ramp = geometry.warp(coordinates(drawn.samples, drawn.size, drawn.size), "bilinear")
    here = coordinates(drawn.samples, *ramp.shape[-2:])
    inverse = torch.linalg.inv(geometry.matrix.double()).float()
    wanted = (
        torch.einsum("bij,bjhw->bihw", inverse[:, :2, :2], here) + inverse[:, :2, 2, None, None]
    )
    inside = ((wanted > 1.5) & (wanted < drawn.size - 1.5)).all(1)
    apart = (ramp - wanted).norm(dim=1)[inside]
    require(apart.numel() > 0, "no pixel of the view lies inside of the raw image")
    require(
        float(apart.max()) < 0.1,
        f"a pixel lies {float(apart.max()):.3g} raw pixels from where the matrix says",
    )


@AUGMENTATION_CHECKS.check(
    "geometry",
    why="labels move as the geometry says: where the pixels went elsewhere, poses, landmarks and masks are wrong.",
    mend="make the images by the same geometry that you return: geometry.warp(images.float(), 'bilinear').",
    needs="class_maps_keep_their_classes",
    core=True,
)
def pixels_lie_where_the_geometry_says(subject: AugmentationSubject, drawn: Drawn) -> None:
    """The view looks like the raw image warped by its geometry, and less like one shifted, mirrored or turned from there."""
    raw, side = marks(drawn.samples, drawn.size, drawn.seed), 32 + 8 * (drawn.seed % 3)
    view = subject.view(raw, drawn.seed, (side, side))
    _require_in_place(view.images, expected(view, raw), 0.3)


# ---------------------------------------------------------------------------------------------------- finish


@AUGMENTATION_CHECKS.check(
    "finish",
    why="the encoder reads what `finish` gives: another size or range is not what the heads were built for.",
    mend="return images of the same shape, in [0, 1].",
    needs="view_stays_between_0_and_1",
    core=True,
)
def finish_keeps_shape_and_range(subject: AugmentationSubject, drawn: Drawn) -> None:
    """Finished images have the shape and dtype that they had, and stay within [0, 1]."""
    images = subject.drawn(drawn).images.clone()
    images[0] = 1.0  # white: where a touch too bright shows
    finished = subject.finished(images, drawn.seed)
    require(
        finished.shape == images.shape, f"{tuple(images.shape)} becomes {tuple(finished.shape)}"
    )
    require(finished.dtype == images.dtype, f"{images.dtype} becomes {finished.dtype}")
    low, high = float(finished.min()), float(finished.max())
    require(low > -ROUNDING and high < 1 + ROUNDING, f"the values lie in [{low:.4g}, {high:.4g}]")


@AUGMENTATION_CHECKS.check(
    "finish",
    why="labels have moved already: pixels that move after the pretexts leave all of them behind.",
    mend="move pixels in `view`, where the geometry says so; `finish` hides, darkens or blurs.",
    needs="finish_keeps_shape_and_range",
    core=True,
)
def finish_keeps_pixels_in_place(subject: AugmentationSubject, drawn: Drawn) -> None:
    """A finished image looks more like itself than like itself shifted, mirrored or turned."""
    images = marks(drawn.samples, 40, drawn.seed).float() / 255
    _require_in_place(subject.finished(images, drawn.seed), images, 0.2)


@AUGMENTATION_CHECKS.check(
    "finish",
    why="a rank's samples would be finished otherwise than the same samples in one process.",
    mend="give each sample its own parameters, (B,), and use no statistics over samples.",
    needs=("finish_keeps_shape_and_range", "same_draws_same_view"),
    core=True,
)
def a_finished_sample_depends_on_itself_alone(subject: AugmentationSubject, drawn: Drawn) -> None:
    """Other images in the batch do not change a finished image."""
    images = drawn.images().float() / 255
    others = torch.cat(
        [images[:1], patterns(drawn.samples - 1, drawn.size, drawn.seed + 1).float() / 255]
    )
    one, other = (subject.finished(x, drawn.seed)[0] for x in (images, others))
    require(torch.equal(one, other), "sample 0 changes with the others")


def _require_in_place(images: torch.Tensor, wanted: torch.Tensor, least: float) -> None:
    """(B, 3, H, W): each sample's correlation with its own place is at least `least`, and the best there is."""
    here = alike(images, wanted)
    require(
        float(here.min()) > least,
        f"an image correlates by only {float(here.min()):.2f} with what it should show",
    )
    for name, moved in displaced(wanted).items():
        better = alike(images, moved) > here
        require(not bool(better.any()), f"it looks more like the image {name}")


CHECKS, HARNESS = (
    CheckList("augmentation", draws(), (COMMON, AUGMENTATION_CHECKS)),
    AugmentationSubject,
)
