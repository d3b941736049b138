"""A right task, and for each check of the kit one that fails this check only.

BROKEN: check -> class.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from broken_plugins import Broken
from mtlcore import (
    AlignedTask,
    AnswerFormat,
    Classification,
    Head,
    MtlError,
    SupervisedTask,
    orthogonal,
)
from mtlcore.tasks.classification import ClassificationHead

BROKEN = Broken()


class RightHead(Head):
    """One linear layer, and the mean squared error."""

    def __init__(self, context):
        super().__init__()
        self.answer = nn.Linear(context.info.dim, 2)

    def forward(self, features):
        return self.answer(features.pooled)

    def loss(self, output, target):
        return (output - target).square().mean(1)

    def ideal(self, target):
        return target


@frozen
class Right(SupervisedTask):
    """Gaze: a direction in the image (N, 2), which turns and mirrors with the image."""

    reads = "gaze"
    mean: tuple[float, ...] = ()

    def fit(self, annotation):
        if self.mean:
            return self
        return evolve(self, mean=tuple(float(m) for m in np.nanmean(annotation, 0)))

    def target(self, annotation):
        if annotation.shape[1:] != (2,):
            raise MtlError("gaze reads two numbers per sample")
        present = np.isfinite(annotation).all(1)
        values = np.where(present[:, None], annotation, 0).astype(np.float32)
        return torch.from_numpy(values), torch.from_numpy(present)

    def build(self, context):
        return self.head(context)

    def head(self, context):
        return RightHead(context)

    def move(self, target, geometry):
        return (orthogonal(geometry.matrix)[0] @ target[:, :, None])[:, :, 0]

    def average(self, decoded, mirrored):
        return (decoded + mirrored * torch.tensor([-1.0, 1.0])) / 2

    def metrics(self):
        return {"mae": MeanAbsoluteError()}

    def draw(self, image, decoded):
        return with_spot(image.clone(), decoded)


def with_spot(image, decoded):
    """Two pixels whose brightness shows the two numbers."""
    image[:, 0, :2] = decoded.sigmoid()
    return image


@frozen
class Concordant(Right):
    """The same task with a coupled loss: one minus a correlation, weighted by the shares."""

    def head(self, context):
        return ConcordantHead(context)


class ConcordantHead(RightHead):
    coupled = True

    def loss(self, output, target, share):
        share = share[:, None] / share.sum().clamp_min(1e-6)
        x, y = (z - (share * z).sum(0) for z in (output, target))
        apart = ((share * output).sum(0) - (share * target).sum(0)).square()
        size = (share * x * x).sum(0) + (share * y * y).sum(0) + apart
        return (1 - 2 * (share * x * y).sum(0) / size.clamp_min(1e-6)).mean()


@frozen
class Parsing(SupervisedTask):
    """A class for each pixel: maps (N, 1, S, S) that move with the image."""

    reads = "parsing"

    def examples(self, n, rng):
        return (
            rng.randint(3, n, 1, 5, 5)
            .repeat_interleave(8, -1)
            .repeat_interleave(8, -2)
            .double()
            .numpy()
        )

    def target(self, annotation):
        present = np.isfinite(annotation).all((1, 2, 3))
        kept = np.where(present[:, None, None, None], annotation, 0)
        return torch.from_numpy(kept.astype(np.int64)), torch.from_numpy(present)

    def build(self, context):
        return ParsingHead(context)

    def move(self, target, geometry):
        return geometry.warp(target.float(), "nearest").long()

    def decode(self, output):
        return output.argmax(1, keepdim=True)

    def average(self, decoded, mirrored):
        return torch.where(decoded == mirrored.flip(-1), decoded, 0)

    def metrics(self):
        return {"accuracy": PixelAccuracy()}


class PixelAccuracy(MeanMetric):
    higher_is_better = True

    def update(self, decoded, target):
        super().update((decoded == target).float())


class ParsingHead(Head):
    def __init__(self, context):
        super().__init__()
        self.answer = nn.Conv2d(context.info.channels[0], 3, 1)

    def forward(self, features):
        return F.interpolate(
            self.answer(features.maps[0]), features.images.shape[-2:], mode="bilinear"
        )

    def loss(self, output, target):
        return F.cross_entropy(output, target[:, 0], reduction="none").mean((1, 2))

    def ideal(self, target):
        return 20.0 * F.one_hot(target[:, 0], 3).movedim(-1, 1).float()


@frozen
class Segments(AlignedTask):
    """A class for each pixel: maps (B, H, W) of the dataset that come with each batch."""

    reads = "segments"

    def build(self, context):
        return SegmentsHead(context)

    def move(self, target, geometry):
        return geometry.warp(target)

    def decode(self, output):
        return output.argmax(1)

    def average(self, decoded, mirrored):
        return torch.where(decoded == mirrored, decoded, 0)

    def metrics(self):
        return {"accuracy": PixelAccuracy()}


class SegmentsHead(ParsingHead):
    def loss(self, output, target):
        return super().loss(output, target[:, None])

    def ideal(self, target):
        return super().ideal(target[:, None])


@frozen
class Corners(AlignedTask):
    """Two points, in pixels of an image of 32 pixels. Those that are NaN have no loss."""

    reads = "corners"

    def examples(self, n, size, rng):
        return rng.rand(n, 2, 2) * torch.tensor([size[1], size[0]])

    def build(self, context):
        return CornersHead(context)

    def move(self, target, geometry):
        moved = geometry.points(target)
        return moved, (~moved.isnan().all((1, 2))).float()

    def metrics(self):
        return {"mae_px": MeanAbsoluteError()}


class CornersHead(Head):
    def __init__(self, context):
        super().__init__()
        self.answer = nn.Linear(context.info.dim, 4)

    def forward(self, features):
        return self.answer(features.pooled).unflatten(1, (2, 2))

    def loss(self, output, target):
        known = torch.where(target.isnan(), output, target)
        return ((output - known) / 32).square().mean((1, 2))

    def ideal(self, target):
        return target


@frozen
class Occluded(Corners):
    """The same. A third of the points are unknown."""

    def examples(self, n, size, rng):
        points = super().examples(n, size, rng)
        unknown = rng.rand(n, 2, 1) < 1 / 3
        return torch.where(unknown, torch.nan, points)

    def metrics(self):
        return {"mae_px": KnownError()}


@frozen
class Measured(Right):
    """The same. Its setting selects the main metric."""

    main_metric: Literal["mae", "mse"] = "mae"

    def metrics(self):
        metrics = {"mae": MeanAbsoluteError(), "mse": MeanSquaredError()}
        return {self.main_metric: metrics[self.main_metric], **metrics}


class KnownError(MeanAbsoluteError):
    """The error of known points."""

    def update(self, decoded, target):
        there = ~target.isnan()
        super().update(decoded[there], target[there])


# ------------------------------------------------------------------------------------------- labels


@BROKEN.fails("returns_targets_and_presence")
@frozen
class PresenceAsNumbers(Right):
    """Its presence is not bool."""

    def target(self, annotation):
        target, present = super().target(annotation)
        return target, present.float()


@BROKEN.fails("fitting_twice_changes_nothing")
@frozen
class FitsAlways(Right):
    """It fits again although its fields are set."""

    def fit(self, annotation):
        return evolve(self, mean=tuple(float(m) for m in np.nanmean(annotation, 0)))


@BROKEN.fails("fitted_task_survives_a_toml_round_trip")
@frozen
class FitsWhatTomlCantHold(Right):
    """TOML cannot hold None in a list."""

    edges: tuple[float | None, ...] = ()

    def fit(self, annotation):
        return self if self.mean else evolve(super().fit(annotation), edges=(None, 1.0))


@BROKEN.fails("leaves_annotations_unchanged")
@frozen
class CentersInPlace(Right):
    """Fitting edits annotations that others read."""

    def fit(self, annotation):
        fitted = super().fit(annotation)
        if not self.mean:
            annotation -= np.array(fitted.mean)
        return fitted


@BROKEN.fails("missing_annotations_are_absent")
@frozen
class TakesNaNForZero(Right):
    """A missing label counts as a zero."""

    def target(self, annotation):
        return super().target(np.nan_to_num(annotation))


@BROKEN.fails("absent_samples_hold_zeros")
@frozen
class WritesMinusOne(Right):
    """Absent samples hold -1."""

    def target(self, annotation):
        target, present = super().target(annotation)
        return torch.where(present[:, None], target, -1), present


@BROKEN.fails("unknown_names_are_absent")
@frozen
class UnknownIsFirst(Classification):
    """An unknown name counts as the first class."""

    reads: str = "kind"
    dropout: float = 0.0

    def target(self, annotation):
        target, present = super().target(annotation)
        return target, present | torch.from_numpy(annotation != "")


# --------------------------------------------------------------------------------------------- head


@BROKEN.fails("head_holds_no_encoder")
@frozen
class KeepsTheEncoder(Right):
    """The encoder is a part of its head."""

    def head(self, context):
        head = RightHead(context)
        head.encoder = context.encoder
        return head


@BROKEN.fails("builds_the_same_from_one_seed")
@frozen
class SeedsItsHead(Right):
    """All runs start from the same head."""

    def head(self, context):
        torch.manual_seed(0)
        return RightHead(context)


@BROKEN.fails("builds_the_same_from_one_seed", also=True)
@frozen
class DrawsWithNumpy(Right):
    """Its head makes an unused draw from numpy's global generator."""

    def head(self, context):
        np.random.rand()
        return RightHead(context)


@BROKEN.fails("state_round_trip_keeps_the_outputs")
@frozen
class ForgetsItsScale(Right):
    """A tensor is a plain attribute."""

    def head(self, context):
        return ForgetsItsScaleHead(context)


class ForgetsItsScaleHead(RightHead):
    def __init__(self, context):
        super().__init__(context)
        self.scale = 0.5 + torch.rand(())

    def forward(self, features):
        return super().forward(features) * self.scale


@BROKEN.fails("accepts_a_single_sample")
@frozen
class Squeezes(Right):
    """A batch of one loses its first dimension."""

    def head(self, context):
        return SqueezesHead(context)


class SqueezesHead(RightHead):
    def forward(self, features):
        return super().forward(features).squeeze()

    def loss(self, output, target):
        return (output - target).square().mean(-1) if output.ndim > 1 else output.square().mean()


# --------------------------------------------------------------------------------------------- loss


@BROKEN.fails("loss_is_one_value_per_sample")
@frozen
class MeanOverTheBatch(Right):
    """Its loss is one value for the batch, and it does not declare so."""

    def head(self, context):
        return MeanOverTheBatchHead(context)


class MeanOverTheBatchHead(RightHead):
    def loss(self, output, target):
        return (
            super().loss(output, target).mean() if len(target) > 1 else super().loss(output, target)
        )


class TwiceAsLoudHead(ClassificationHead):
    def loss(self, output, target):
        return 2 * super().loss(output, target)


@BROKEN.fails("equal_logits_give_log_choices")
@frozen
class TwiceAsLoud(Classification):
    """Its loss is twice the cross-entropy."""

    reads: str = "kind"
    dropout: float = 0.0

    def build(self, context):
        return TwiceAsLoudHead(context.info.dim, self)


@BROKEN.fails("unlabeled_samples_give_a_finite_loss")
@frozen
class DividesByTheTruth(Right):
    """The error as a share of the target."""

    def head(self, context):
        return DividesByTheTruthHead(context)


class DividesByTheTruthHead(RightHead):
    def loss(self, output, target):
        return super().loss(output, target) / target.norm(dim=1)


@BROKEN.fails("extreme_outputs_give_a_finite_loss")
@frozen
class GrowsTooFast(Right):
    """Its loss is the exponential of an error."""

    def head(self, context):
        return GrowsTooFastHead(context)


class GrowsTooFastHead(RightHead):
    def loss(self, output, target):
        return super().loss(output, target).expm1()


@BROKEN.fails("loss_of_a_sample_depends_on_it_alone")
@frozen
class AddsTheMean(Right):
    """Each loss includes the mean over the batch."""

    def head(self, context):
        return AddsTheMeanHead(context)


class AddsTheMeanHead(RightHead):
    def loss(self, output, target):
        each = super().loss(output, target)
        return each + each.mean()


@BROKEN.fails("shares_weight_the_samples_of_a_coupled_loss")
@frozen
class IgnoresTheShares(Concordant):
    """It counts samples without a label."""

    def head(self, context):
        return IgnoresTheSharesHead(context)


class IgnoresTheSharesHead(ConcordantHead):
    def loss(self, output, target, share):
        return super().loss(output, target, torch.ones_like(share))


@BROKEN.fails("shares_weight_the_samples_of_a_coupled_loss", also=True)
@frozen
class AllSharesAreEqual(Concordant):
    """A sample with a small share counts as much as one with a large share."""

    def head(self, context):
        return AllSharesAreEqualHead(context)


class AllSharesAreEqualHead(ConcordantHead):
    def loss(self, output, target, share):
        return super().loss(output, target, (share > 0).float())


@BROKEN.fails("shares_weight_the_samples_of_a_coupled_loss", also=True)
@frozen
class DividesByTheNumber(Concordant):
    """It divides by the number of samples, not by the sum of their shares."""

    def head(self, context):
        return DividesByTheNumberHead(context)


class DividesByTheNumberHead(ConcordantHead):
    def loss(self, output, target, share):
        return ((output - target).square().mean(1) * share).mean()


@BROKEN.fails("true_target_has_the_lowest_loss")
@frozen
class NegatesTheLoss(Right):
    """The sign of its loss is wrong."""

    def head(self, context):
        return TurnsAwayHead(context)


class TurnsAwayHead(RightHead):
    def loss(self, output, target):
        return -super().loss(output, target)


@BROKEN.fails("each_choice_has_an_effect")
@frozen
class ForgetsAField(Right):
    """No method reads its field."""

    squared: bool = True


@BROKEN.fails("loss_falls_in_training")
@frozen
class ClimbsUp(Right):
    """The value is right, its gradient is not."""

    def head(self, context):
        return ClimbsUpHead(context)


class ClimbsUpHead(RightHead):
    def loss(self, output, target):
        each = super().loss(output, target)
        return 2 * each.detach() - each


@BROKEN.fails("gradient_reaches_encoder_and_head")
@frozen
class Detaches(Right):
    """The encoder gets no gradient."""

    def head(self, context):
        return DetachesHead(context)


class DetachesHead(RightHead):
    def forward(self, features):
        return self.answer(features.pooled.detach())


# -------------------------------------------------------------------------------------- predictions


@BROKEN.fails("decodes_each_sample")
@frozen
class DecodesHalf(Right):
    """It decodes one number of two."""

    def decode(self, output):
        return output[:, :1]


@BROKEN.fails("answers_in_words")
@frozen
class NamesOneOfTwo(Right):
    """Its answer has one name for two numbers."""

    def answer_format(self):
        return AnswerFormat("values", ("x",))

    def answer(self, decoded):
        return [{"x": row[0]} for row in decoded.tolist()]


@BROKEN.fails("answer_numbers_can_be_exported")
@frozen
class AnswersOnTheHost(Right):
    """Its numbers are constants of an exported graph."""

    def answer_numbers(self, decoded):
        return torch.from_numpy(decoded.numpy(force=True) * 57.3)


@BROKEN.fails("ideal_output_decodes_to_the_target")
@frozen
class DecodesTwice(Right):
    """Its predictions are twice the outputs."""

    def decode(self, output):
        return 2 * output


@BROKEN.fails("answers_convert_back_to_annotations")
@frozen
class ReportsTheOpposite(Right):
    """Its predictions for users have the other sign."""

    def as_annotation(self, decoded):
        return -decoded.numpy(force=True)


@BROKEN.fails("averaging_with_the_mirror_keeps_the_target")
@frozen
class AveragesAsTheyAre(Right):
    """It does not mirror the second prediction back."""

    def average(self, decoded, mirrored):
        return (decoded + mirrored) / 2


@BROKEN.fails("has_a_main_metric")
@frozen
class HasNoMetric(Right):
    """It has no metric."""

    def metrics(self):
        return {}


@BROKEN.fails("true_targets_reach_the_best_metric")
@frozen
class LikesErrors(Right):
    """Its error has higher_is_better."""

    def metrics(self):
        return {"mae": LikesErrorsMetric()}


class LikesErrorsMetric(MeanAbsoluteError):
    higher_is_better = True


@BROKEN.fails("true_targets_reach_the_best_metric", also=True)
@frozen
class DividesByItsErrors(Right):
    """A metric of a perfect network is NaN."""

    def metrics(self):
        return super().metrics() | {"ratio": KnownForErrors()}


class KnownForErrors(MeanAbsoluteError):
    def compute(self):
        error = super().compute()
        return error / error


@BROKEN.fails("metrics_do_not_depend_on_batches")
@frozen
class AveragesBatches(Right):
    """A mean of the batches' means."""

    def metrics(self):
        return {"mae": BatchMean()}


class BatchMean(MeanMetric):
    higher_is_better = False

    def update(self, decoded, target):
        super().update((decoded - target).abs().mean())


@BROKEN.fails("draws_an_image")
@frozen
class DrawsTooBright(Right):
    """It leaves [0, 1]."""

    def draw(self, image, decoded):
        return image + 1


@BROKEN.fails("drawing_leaves_its_image_unchanged")
@frozen
class DrawsInPlace(Right):
    """It edits an image that others read."""

    def draw(self, image, decoded):
        return with_spot(image, decoded)


@BROKEN.fails("draws_different_answers_differently")
@frozen
class DrawsASquare(Right):
    """It draws the same for every prediction."""

    def draw(self, image, decoded):
        image = image.clone()
        image[:, :2, :2] = 0.5
        return image


# ----------------------------------------------------------------------------------------- movement


@BROKEN.fails("unmoved_images_keep_their_labels")
@frozen
class MovesAlways(Right):
    """Each view shifts the label a little."""

    def move(self, target, geometry):
        return super().move(target, geometry) + 0.1


@BROKEN.fails("move_leaves_targets_unchanged")
@frozen
class MovesInPlace(Right):
    """It edits its target, so the second view moves it twice."""

    def move(self, target, geometry):
        return target.copy_(super().move(target, geometry))


@BROKEN.fails("mirroring_twice_changes_nothing")
@frozen
class MirrorsForGood(Right):
    """Each mirror shifts the label."""

    def move(self, target, geometry):
        mirrors = orthogonal(geometry.matrix)[1]
        return super().move(target, geometry) + 0.1 * mirrors[:, None]


@BROKEN.fails("movements_compose")
@frozen
class IgnoresTurns(Right):
    """It detects mirrors by the sign of one entry, and ignores turns."""

    def move(self, target, geometry):
        sign = torch.where(geometry.matrix[:, 0, 0] < -0.5, -1.0, 1.0)
        return target * torch.stack([sign, torch.ones_like(sign)], 1)


@BROKEN.fails("absent_labels_stay_finite")
@frozen
class KeepsTheLength(Right):
    """It divides by the label's own length."""

    def move(self, target, geometry):
        moved = super().move(target, geometry)
        return moved / moved.norm(dim=1, keepdim=True) * target.norm(dim=1, keepdim=True)


# ----------------------------------------------------------------------------------------- the rest


@BROKEN.fails("leaves_global_generators_alone")
@frozen
class DrawsGlobally(Right):
    """It makes an unused draw from torch's global generator."""

    def target(self, annotation: Any):
        torch.rand(1)
        return super().target(annotation)


@BROKEN.fails("bf16_is_close_to_fp32")
@frozen
class LosesDigits(Right):
    """It adds a large number and subtracts it again."""

    def head(self, context):
        return LosesDigitsHead(context)


class LosesDigitsHead(RightHead):
    def forward(self, features):
        return 3 * ((super().forward(features) + 100) - 100)

    def ideal(self, target):
        return target


@BROKEN.fails("traces_as_one_graph")
@frozen
class BranchesOnValues(Right):
    """Python branches on a value."""

    def head(self, context):
        return BranchesOnValuesHead(context)


class BranchesOnValuesHead(RightHead):
    def forward(self, features):
        output = super().forward(features)
        return output * 2 if output.sum().item() > 1e9 else output


# ----------------------------------------------------------------------------------- aligned labels


@BROKEN.fails("aligned_labels_follow_shifts")
@frozen
class TurnsAboutTheCenter(Corners):
    """It forgets that an image may be shifted."""

    def move(self, target, geometry):
        moved = (target - 16) @ geometry.matrix[:, :2, :2].mT + 16
        return moved, (~moved.isnan().all((1, 2))).float()


@BROKEN.fails("aligned_labels_have_the_form_of_the_view")
@frozen
class KeepsTheSize(Segments):
    """Its maps always have the size of the raw image."""

    def move(self, target, geometry):
        moved = geometry.warp(target)[:, None].float()
        return F.interpolate(moved, target.shape[-2:])[:, 0].long()


@BROKEN.fails("shuffled_images_leave_a_finite_loss")
@frozen
class CountsShuffledTwice(Corners):
    """Its shares exceed 1."""

    def move(self, target, geometry):
        moved, share = super().move(target, geometry)
        return moved, share + 2 * geometry.shuffled
