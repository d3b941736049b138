"""Pretexts with hidden faults: in train mode, in a second call, or in an unlikely place.

BROKEN: check -> the class that fails this check only. ALSO: other ways to fail checks that already
have a broken plugin.
"""

from __future__ import annotations

from functools import partial
from unittest import SkipTest

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from torch import nn
from torchmetrics import MeanMetric

from broken_plugins.pretexts import Turned, TurnedHead, turn
from mtlcore import Mix, hookimpl

BROKEN: dict[str, type[Turned]] = {}
ALSO: list[tuple[str, type[Turned]]] = []


def fails(check, *, also=False):
    """Register a class as the one that fails this check, or as another one."""

    def register(cls):
        assert also or check not in BROKEN, check
        if also:
            ALSO.append((check, cls))
        else:
            BROKEN[check] = cls
        return cls

    return register


def with_head(name, doc, check, *, also=False, task=None, **methods):
    """Register a pretext whose head has these methods. task: methods of the pretext."""
    head = type(f"_{name}Head", (TurnedHead,), methods)
    body = {
        "__doc__": doc,
        "__module__": __name__,
        "build": lambda self, context: head(context),
        **(task or {}),
    }
    globals()[name] = fails(check, also=also)(frozen(type(name, (Turned,), body)))


@property
def _no_ideal(self):
    raise AttributeError("ideal")


# ---------------------------------------------------------------------------------- a right pretext


class _TogetherHead(TurnedHead):
    coupled = True

    def __init__(self, context, smooth):
        super().__init__(context)
        self.smoothing = 0.1 * smooth

    def loss(self, output, target):
        return F.cross_entropy(output, target, label_smoothing=self.smoothing)


@frozen
class Together(Turned):
    """Its loss is a mean over the batch, and it declares so."""

    smooth: bool = False

    def build(self, context):
        return _TogetherHead(context, self.smooth)


# -------------------------------------------------------------------------------------------- views


def _turn_images(turns, maps):
    """Turn maps of up to three channels correctly, and others the other way."""
    return turn(turns if maps.shape[1] <= 3 else -turns % 4, maps)


@fails("dense_labels_follow_the_pixels")
@frozen
class TurnsImagesAlone(Turned):
    """Dense labels of many channels turn the other way."""

    def moved(self, view, turns):
        right = super().moved(view, turns)
        wrong = view.rearrange(partial(_turn_images, turns))
        return evolve(right, geometry=evolve(right.geometry, steps=wrong.geometry.steps))


@fails("leaves_the_batch_unchanged", also=True)
@frozen
class DarkensAnAugmentation(Turned):
    """It darkens in place a view that another pretext may read."""

    undo = None

    def views(self, batch, rng):
        view = batch.augment(3, "strong")
        view.images.mul_(0.5)
        turns = rng.randint(4, len(view.images))
        return [self.moved(view, turns)], turns


@fails("pixels_lie_where_the_geometry_says", also=True)
@frozen
class MixesWithItself(Turned):
    """It declares images as mixed with themselves, to hide that they have moved."""

    def moved(self, view, turns):
        alone = Mix(
            torch.arange(len(turns), device=turns.device),
            torch.ones(len(turns), device=turns.device),
        )
        return evolve(super().moved(view, turns), geometry=view.geometry, mixed=alone)


@fails("views_are_images", also=True)
@frozen
class SkipsItsViews(Turned):
    """It raises what unittest treats as a skip."""

    def views(self, batch, rng):
        raise SkipTest("not here")


@fails("views_are_images", also=True)
@frozen
class SkipsAsPytest(Turned):
    """It raises what pytest treats as a skip."""

    def views(self, batch, rng):
        pytest.skip("not here")


@fails("views_are_images", also=True)
@frozen
class EndsTheRun(Turned):
    """It ends the process with a success."""

    def views(self, batch, rng):
        raise SystemExit(0)


# ------------------------------------------------------------------------------------- build, state

CODES: dict[int, torch.Tensor] = {}


def _seeds_itself(self, context):
    torch.manual_seed(7)
    TurnedHead.__init__(self, context)


def _with_center(self, context):
    TurnedHead.__init__(self, context)
    self.center = torch.zeros(4)


def _centered(self, features):
    output = self.answer(features.pooled)
    if self.training:
        self.center = 0.9 * self.center.to(output, non_blocking=True) + 0.1 * output.detach().mean(
            0
        )
    return output - self.center.to(output, non_blocking=True)


def _with_cached_code(self, context):
    TurnedHead.__init__(self, context)
    CODES.setdefault(context.info.dim, torch.randn(4))


with_head(
    "SeedsItsWeights",
    "Its initial weights are the same in every run.",
    "builds_the_same_from_one_seed",
    __init__=_seeds_itself,
)
with_head(
    "CentersUnsaved",
    "A running mean of its outputs is not in the state.",
    "state_round_trip_keeps_the_loss",
    also=True,
    __init__=_with_center,
    forward=_centered,
)
with_head(
    "CachesItsCode",
    "A code is drawn once for each process and stored in a global.",
    "state_round_trip_keeps_the_loss",
    also=True,
    __init__=_with_cached_code,
    forward=lambda self, f: (
        self.answer(f.pooled) + CODES[f.pooled.shape[1]].to(f.pooled, non_blocking=True)
    ),
)


# -------------------------------------------------------------------------------- losses, gradients


def _noisy_in_training(self, output, target):
    if self.training:
        output = output + 0.1 * torch.randn_like(output)
    return TurnedHead.loss(self, output, target)


def _every_other_sample(self, features):
    even = (torch.arange(len(features.pooled), device=features.pooled.device) % 2 == 0)[:, None]
    return self.answer(torch.where(even, features.pooled, features.pooled.detach()))


def _with_pixels(self, context):
    TurnedHead.__init__(self, context)
    self.pixels = nn.Conv2d(3, 1, 3)


def _first_from_pixels(self, features):
    first = self.pixels(features.images).square().mean((2, 3))
    return torch.cat([first, self.answer(features.pooled)[:, 1:]], 1)


with_head(
    "AnswersFromPixels",
    "The first of its logits bypasses the encoder.",
    "every_output_reaches_the_encoder",
    also=True,
    __init__=_with_pixels,
    forward=_first_from_pixels,
)
with_head(
    "IgnoresTheTarget",
    "Its loss always uses class 1 as the target.",
    "loss_depends_on_the_target",
    ideal=_no_ideal,
    loss=lambda self, output, target: TurnedHead.loss(self, output, 0 * target + 1),
)
with_head(
    "TeachesTheNext",
    "Its loss uses the next class, and it defines no ideal output.",
    "true_target_has_the_lowest_loss",
    also=True,
    ideal=_no_ideal,
    loss=lambda self, output, target: TurnedHead.loss(self, output, (target + 1) % 4),
)
with_head(
    "LouderInTraining",
    "In train mode its loss is ten times as large.",
    "equal_logits_give_log_choices",
    also=True,
    loss=lambda self, output, target: (
        (1 + 9 * self.training) * TurnedHead.loss(self, output, target)
    ),
)
with_head(
    "NoisyInTraining",
    "In train mode its loss draws from the global generator.",
    "training_uses_no_global_generator",
    choices=None,
    loss=_noisy_in_training,
)
with_head(
    "DetachesEveryOtherSample",
    "Samples with odd indices give the encoder no gradient.",
    "gradient_reaches_every_sample",
    forward=_every_other_sample,
)
with_head(
    "SumsTogether",
    "Its coupled loss is a sum over the batch.",
    "coupled_loss_does_not_grow_with_the_batch",
    coupled=True,
    choices=None,
    loss=lambda self, output, target: F.cross_entropy(output, target, reduction="sum"),
)


class _Errors(MeanMetric):
    higher_is_better = True

    def update(self, output, target):
        super().update((output.argmax(1) != target).float())


with_head(
    "CountsErrors",
    "Its accuracy is an error, and it defines no ideal output.",
    "ideal_outputs_reach_the_best_metric",
    also=True,
    task={"metrics": lambda self: {"accuracy": _Errors()}},
    ideal=_no_ideal,
)


class _NeverKnown(MeanMetric):
    higher_is_better = True

    def update(self, output, target):
        super().update((output.argmax(1) == target).float())

    def compute(self):
        return super().compute() * torch.nan


@fails("metrics_depend_on_the_output", also=True)
@frozen
class MeasuresNothing(Turned):
    """Its metric is always NaN."""

    def metrics(self):
        return {"accuracy": _NeverKnown()}


class _KnownForErrors(_Errors):
    def compute(self):
        return 0 / super().compute()


@fails("ideal_outputs_reach_the_best_metric", also=True)
@frozen
class DividesByItsErrors(Turned):
    """Its metric of a perfect network is NaN."""

    def metrics(self):
        return {"accuracy": _KnownForErrors()}


class _OwnDropout(nn.Module):
    """Dropout by the function, and by layers of all classes."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(0.1), nn.AlphaDropout(0.1), nn.FeatureAlphaDropout(0.1)
        )

    def forward(self, x):
        return F.dropout(self.layers(x), 0.1, self.training)


class _DropsHead(TurnedHead):
    def __init__(self, context):
        super().__init__(context)
        self.dropout = _OwnDropout()

    def forward(self, features):
        return self.answer(self.dropout(features.pooled))


@frozen
class Drops(Turned):
    """It is right, since dropout may draw in train mode."""

    def build(self, context):
        return _DropsHead(context)


@hookimpl
def mtl_components():
    return [Together, Drops, *BROKEN.values(), *(cls for _, cls in ALSO)]
