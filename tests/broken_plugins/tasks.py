"""A task that is right, and for each check of the kit one that fails it and nothing else. BROKEN: the check -> the class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.regression import MeanAbsoluteError

from broken_plugins import Broken
from mtlcore import Classification, Head, MtlError, SupervisedTask, orthogonal

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
    """Where a face looks: a direction in the image (N, 2), which turns and mirrors with it."""

    reads = "gaze"
    mean: tuple[float, ...] = ()

    def fit(self, annotation):
        return (
            self
            if self.mean
            else evolve(self, mean=tuple(float(m) for m in np.nanmean(annotation, 0)))
        )

    def target(self, annotation):
        if annotation.shape[1:] != (2,):
            raise MtlError("gaze reads two numbers a sample")
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
        image = image.clone()
        image[:, :2, :2] = 0.5
        return image


@frozen
class Concordant(Right):
    """The same task, its samples judged together: one minus a correlation, weighted by the samples' shares."""

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
    """A class for each pixel: maps (N, 1, S, S) that move as the image does."""

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


# ---------------------------------------------------------------------------------------------------- labels


@BROKEN.fails("gives_targets_and_presence")
@frozen
class PresenceAsNumbers(Right):
    """Presence is no bool."""

    def target(self, annotation):
        target, present = super().target(annotation)
        return target, present.float()


@BROKEN.fails("fit_is_done_once")
@frozen
class FitsAlways(Right):
    """It learns anew what it was given."""

    def fit(self, annotation):
        return evolve(self, mean=tuple(float(m) for m in np.nanmean(annotation, 0)))


@BROKEN.fails("fitted_task_survives_its_toml")
@frozen
class FitsWhatTomlCantHold(Right):
    """TOML has no None."""

    edges: tuple[float | None, ...] = ()

    def fit(self, annotation):
        return self if self.mean else evolve(super().fit(annotation), edges=(None, 1.0))


@BROKEN.fails("leaves_annotations_alone")
@frozen
class CentersInPlace(Right):
    """Fitting shifts what others read."""

    def fit(self, annotation):
        fitted = super().fit(annotation)
        if not self.mean:
            annotation -= np.array(fitted.mean)
        return fitted


@BROKEN.fails("missing_annotations_are_absent")
@frozen
class TakesNaNForZero(Right):
    """A missing label is a zero like any other."""

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
    """A name that is not known is the first class."""

    reads: str = "kind"
    dropout: float = 0.0

    def target(self, annotation):
        target, present = super().target(annotation)
        return target, present | torch.from_numpy(annotation != "")


# ---------------------------------------------------------------------------------------------------- head


@BROKEN.fails("head_keeps_no_encoder")
@frozen
class KeepsTheEncoder(Right):
    """The encoder is a part of its head."""

    def head(self, context):
        head = RightHead(context)
        head.encoder = context.encoder
        return head


@BROKEN.fails("state_comes_back")
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


@BROKEN.fails("takes_a_single_sample")
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


# ---------------------------------------------------------------------------------------------------- loss


@BROKEN.fails("loss_is_one_value_a_sample")
@frozen
class MeanOverTheBatch(Right):
    """One value for all, and no word of it."""

    def head(self, context):
        return MeanOverTheBatchHead(context)


class MeanOverTheBatchHead(RightHead):
    def loss(self, output, target):
        return (
            super().loss(output, target).mean() if len(target) > 1 else super().loss(output, target)
        )


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
    """The exponential of an error."""

    def head(self, context):
        return GrowsTooFastHead(context)


class GrowsTooFastHead(RightHead):
    def loss(self, output, target):
        return super().loss(output, target).expm1()


@BROKEN.fails("a_sample_s_loss_is_its_own")
@frozen
class AddsTheMean(Right):
    """Each sample pays for the others too."""

    def head(self, context):
        return AddsTheMeanHead(context)


class AddsTheMeanHead(RightHead):
    def loss(self, output, target):
        each = super().loss(output, target)
        return each + each.mean()


@BROKEN.fails("loss_is_lowest_at_the_truth")
@frozen
class TurnsAway(Right):
    """The sign is wrong."""

    def head(self, context):
        return TurnsAwayHead(context)


class TurnsAwayHead(RightHead):
    def loss(self, output, target):
        return -super().loss(output, target)


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
    """The encoder learns nothing of it."""

    def head(self, context):
        return DetachesHead(context)


class DetachesHead(RightHead):
    def forward(self, features):
        return self.answer(features.pooled.detach())


# ---------------------------------------------------------------------------------------------------- answers


@BROKEN.fails("decodes_each_sample")
@frozen
class DecodesHalf(Right):
    """It gives one number of two."""

    def decode(self, output):
        return output[:, :1]


@BROKEN.fails("a_perfect_output_is_a_perfect_answer")
@frozen
class DecodesTwice(Right):
    """Answers twice as large as the outputs."""

    def decode(self, output):
        return 2 * output


@BROKEN.fails("two_right_answers_average_to_a_right_one")
@frozen
class AveragesAsTheyAre(Right):
    """The mirror image's answer is not mirrored back."""

    def average(self, decoded, mirrored):
        return (decoded + mirrored) / 2


@BROKEN.fails("has_a_main_metric")
@frozen
class HasNoMetric(Right):
    """Nobody knows how good it is."""

    def metrics(self):
        return {}


@BROKEN.fails("the_truth_scores_best")
@frozen
class LikesErrors(Right):
    """Its error is said to be better where it is higher."""

    def metrics(self):
        return {"mae": LikesErrorsMetric()}


class LikesErrorsMetric(MeanAbsoluteError):
    higher_is_better = True


@BROKEN.fails("metrics_do_not_hang_on_batches")
@frozen
class AveragesBatches(Right):
    """A mean of the batches' means."""

    def metrics(self):
        return {"mae": BatchMean()}


class BatchMean(MeanMetric):
    higher_is_better = False

    def update(self, decoded, target):
        super().update((decoded - target).abs().mean())


@BROKEN.fails("draws_a_image")
@frozen
class DrawsTooBright(Right):
    """It leaves the range."""

    def draw(self, image, decoded):
        return image + 1


@BROKEN.fails("drawing_leaves_its_image_alone")
@frozen
class DrawsInPlace(Right):
    """It paints on what others read."""

    def draw(self, image, decoded):
        image[:, :2, :2] = 0.5
        return image


# ---------------------------------------------------------------------------------------------------- movement


@BROKEN.fails("unmoved_images_keep_their_labels")
@frozen
class MovesAlways(Right):
    """Each view shifts the label a little."""

    def move(self, target, geometry):
        return super().move(target, geometry) + 0.1


@BROKEN.fails("move_leaves_its_target_alone")
@frozen
class MovesInPlace(Right):
    """The second view is moved twice."""

    def move(self, target, geometry):
        return target.copy_(super().move(target, geometry))


@BROKEN.fails("mirrored_twice_is_unmoved")
@frozen
class MirrorsForGood(Right):
    """Each mirror shifts the label."""

    def move(self, target, geometry):
        mirrors = orthogonal(geometry.matrix)[1]
        return super().move(target, geometry) + 0.1 * mirrors[:, None]


@BROKEN.fails("movements_compose")
@frozen
class TakesTurnsForMirrors(Right):
    """It knows a mirror by the sign of one entry, and no turns."""

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


# ---------------------------------------------------------------------------------------------------- the rest


@BROKEN.fails("leaves_global_generators_alone")
@frozen
class DrawsGlobally(Right):
    """A draw, though of no use, from torch's global generator."""

    def target(self, annotation: Any):
        torch.rand(1)
        return super().target(annotation)


@BROKEN.fails("bf16_agrees")
@frozen
class LosesDigits(Right):
    """A large number is added and taken away again."""

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
    """Python looks at a value."""

    def head(self, context):
        return BranchesOnValuesHead(context)


class BranchesOnValuesHead(RightHead):
    def forward(self, features):
        output = super().forward(features)
        return output * 2 if output.sum().item() > 1e9 else output
