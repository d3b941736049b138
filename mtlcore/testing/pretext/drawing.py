"""Checks of a pretext's `draw`: valid images that show the prediction, not the target."""

from __future__ import annotations

import torch
from attrs import evolve
from torch import Tensor

from ...contracts import PretextTask
from ..kit import Group
from ..requirements import (
    Skip,
    Unproven,
    require,
    require_finite,
    require_shape,
    require_unit_range,
)
from ..subject import Drawn
from ..trees import equal, equal_samples
from .harness import PretextBatch, PretextSubject
from .loss import LOWEST, STEADY, ideal_output, of_other_samples
from .targets import EXACT_SIZE

SAMPLES = 8

DRAWING_CHECKS = Group()


@DRAWING_CHECKS.check(
    "draw",
    why="`mtl preview` shows these images: the first look at a run.",
    mend="Let draw(images, target, output) return (N, 3, h, w) floats in [0, 1].",
    needs=STEADY,
)
def draws_images(subject: PretextSubject, drawn: Drawn) -> None:
    """draw() returns one image (3, h, w) in [0, 1] for each sample."""
    _skip_without_draw(subject)
    batch, model = subject.batch(drawn), subject.model(drawn.size)
    with torch.no_grad():
        output = subject.output(model, batch)
        images = subject.component.draw(batch.images[0], batch.target, output)
    valid = images.ndim == 4 and images.shape[:2] == (drawn.samples, 3)
    require(valid, f"it returns {tuple(images.shape)}; expected ({drawn.samples}, 3, h, w)")
    require(images.is_floating_point(), f"it returns {images.dtype}")
    require_finite(images, "the drawing")
    require_unit_range(images, "the drawing")


@DRAWING_CHECKS.check(
    "draw",
    why="a drawing that ignores the prediction does not show what the network has learned.",
    mend="Draw what `output` predicts, not `target`. Is an axis, a sign or the argmax wrong?",
    needs=("draws_images", LOWEST),
    must_prove=True,
)
def draws_right_and_wrong_predictions_differently(subject: PretextSubject, drawn: Drawn) -> None:
    """The drawing of the ideal output differs from that of another sample's ideal output."""
    batch, right = _draw_ideal(subject, evolve(drawn, samples=SAMPLES))
    wrong_target = of_other_samples(subject.component, batch.target, SAMPLES)
    wrong_output = ideal_output(subject, batch.with_target(wrong_target))
    if equal(wrong_output, ideal_output(subject, batch)):
        raise Skip("its ideal output is the same for all targets")
    wrong = subject.component.draw(batch.images[0], batch.target, wrong_output)
    require_shape(wrong, tuple(right.shape), "the drawing of a wrong prediction")
    if torch.equal(right, wrong):
        raise Unproven("right and wrong predictions look the same")


@DRAWING_CHECKS.check(
    "draw",
    why="a drawing that reassembles the image must look right for a right prediction.",
    mend="Compare `draw` with `undo`: the same pieces, in the same order, turned by the same "
    "angles.",
    needs=("draws_images", "undo_restores_the_image", LOWEST),
)
def draws_a_right_prediction_as_the_clean_image(subject: PretextSubject, drawn: Drawn) -> None:
    """If the ideal drawing consists of the clean image's pixels, it is that image or the view."""
    batch, right = _draw_ideal(subject, evolve(drawn, size=EXACT_SIZE))
    clean, view = batch.augmented.clean.images, batch.images[0]
    if right.shape != clean.shape or not bool(_same_pixels(right, clean).any()):
        raise Unproven("its drawings do not consist of the clean image's pixels")

    is_right = equal_samples(right, clean)
    if view.shape == clean.shape:
        is_right |= equal_samples(right, view)
    scrambled = _same_pixels(right, clean) & ~is_right
    found = "the clean image's pixels are in other places, though the prediction is right"
    require(not bool(scrambled.any()), found)


# ---------------------------------------------------------------------------------------- helpers


def _skip_without_draw(subject: PretextSubject) -> None:
    if type(subject.component).draw is PretextTask.draw:
        raise Skip("it does not override `draw`")


def _draw_ideal(subject: PretextSubject, drawn: Drawn) -> tuple[PretextBatch, Tensor]:
    """A batch, and the drawing of its ideal output."""
    _skip_without_draw(subject)
    batch = subject.batch(drawn)
    ideal = ideal_output(subject, batch)
    return batch, subject.component.draw(batch.images[0], batch.target, ideal)


def _same_pixels(a: Tensor, b: Tensor) -> Tensor:
    """(B,) bool: both images (B, 3, H, W) hold the same numbers in each channel, in any order."""
    return equal_samples(a.flatten(2).sort(2).values, b.flatten(2).sort(2).values)
