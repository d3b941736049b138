"""A weighting that is right, and for each check of the kit one that fails it and nothing else. BROKEN: the check -> the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from attrs import frozen
from torch import nn

from broken_plugins import Broken
from mtlcore import LossWeighting

BROKEN = Broken()


class Weigher(nn.Module):
    """Task weights that are constants."""

    def __init__(self, names):
        super().__init__()
        self.names = tuple(names)

    def task_weights(self, losses):
        return torch.ones(len(losses.names))

    def forward(self, losses):
        return (self.task_weights(losses).detach() * losses.values).sum()


@frozen
class Right(LossWeighting):
    """The sum of losses."""

    cites = "original"

    def build(self, names):
        return self.loss_weighting(names)

    def loss_weighting(self, names):
        return Weigher(names)


def share(losses):
    """(K,) of all losses, 1 where they are equal."""
    return losses.values.detach() / losses.values.detach().mean().clamp_min(1e-30)


@BROKEN.fails("says_what_it_looks_at")
@frozen
class LooksElsewhere(Right):
    """A level that there is not."""

    at = "gradients"


@BROKEN.fails("objective_is_one_number")
@frozen
class GivesAVector(Right):
    """It forgets to add up."""

    def loss_weighting(self, names):
        return GivesAVectorWeigher(names)


class GivesAVectorWeigher(Weigher):
    def forward(self, losses):
        return losses.values * 1


@BROKEN.fails("task_weights_are_finite")
@frozen
class DividesByLosses(Right):
    """A loss of 0 gets an infinite task weight."""

    def loss_weighting(self, names):
        return DividesByLossesWeigher(names)


class DividesByLossesWeigher(Weigher):
    def task_weights(self, losses):
        return losses.values.mean() / losses.values


@BROKEN.fails("leaves_global_generators_alone")
@frozen
class DrawsGlobally(Right):
    """A draw, though of no use, from torch's global generator."""

    def loss_weighting(self, names):
        return DrawsGloballyWeigher(names)


class DrawsGloballyWeigher(Weigher):
    def task_weights(self, losses):
        torch.rand(1)
        return torch.ones(len(losses.names))


@BROKEN.fails("same_draws_same_task_weights")
@frozen
class SeedsItself(Right):
    """It has a generator of its own."""

    def loss_weighting(self, names):
        return SeedsItselfWeigher(names)


class SeedsItselfWeigher(Weigher):
    def task_weights(self, losses):
        generator = torch.Generator()
        generator.seed()
        return 1 + 0.5 * torch.rand(len(losses.names), generator=generator)


@BROKEN.fails("starts_as_the_sum_of_losses")
@frozen
class Doubles(Right):
    """Every task weight is 2."""

    def loss_weighting(self, names):
        return DoublesWeigher(names)


class DoublesWeigher(Weigher):
    def task_weights(self, losses):
        return torch.full((len(losses.names),), 2.0)


@BROKEN.fails("one_task_goes_its_own_way")
@frozen
class ForSeveralAlone(Right):
    """A single task gets the task weight 0."""

    def loss_weighting(self, names):
        return ForSeveralAloneWeigher(names)


class ForSeveralAloneWeigher(Weigher):
    def task_weights(self, losses):
        return torch.full((len(losses.names),), float(len(losses.names) > 1))


@BROKEN.fails("units_do_not_matter")
@frozen
class LikesSmallLosses(Right):
    """Task weights hang on the size of the losses."""

    def loss_weighting(self, names):
        return LikesSmallLossesWeigher(names)


class LikesSmallLossesWeigher(Weigher):
    def task_weights(self, losses):
        return 2 / (1 + losses.values)


@BROKEN.fails("scaling_one_loss_turns_no_task_around")
@frozen
class UnlearnsTheLargest(Right):
    """What is far above the mean gets a negative task weight."""

    def loss_weighting(self, names):
        return UnlearnsTheLargestWeigher(names)


class UnlearnsTheLargestWeigher(Weigher):
    def task_weights(self, losses):
        return 2 - share(losses)


@BROKEN.fails("order_of_tasks_does_not_matter")
@frozen
class LikesTheFirst(Right):
    """The first task in the order is treated in its own way."""

    def loss_weighting(self, names):
        return LikesTheFirstWeigher(names)


class LikesTheFirstWeigher(Weigher):
    def task_weights(self, losses):
        task_weights = torch.ones(len(losses.names))
        task_weights[0] = share(losses)[0]
        return task_weights


@BROKEN.fails("primary_gradient_is_never_opposed")
@frozen
class OnlyClaims(Right):
    """It says that it protects, and is the sum of losses."""

    at = "parameters"
    protects = True


@BROKEN.fails("micro_batches_add_up")
@frozen
class OnlyClaimsToAddUp(Right):
    """It says that it is additive, and looks at the losses."""

    additive = True

    def loss_weighting(self, names):
        return OnlyClaimsToAddUpWeigher(names)


class OnlyClaimsToAddUpWeigher(Weigher):
    def task_weights(self, losses):
        return share(losses)


@BROKEN.fails("leaves_what_it_sees_alone")
@frozen
class EditsTheGramian(Right):
    """It normalizes what others read."""

    def loss_weighting(self, names):
        return EditsTheGramianWeigher(names)


class EditsTheGramianWeigher(Weigher):
    def task_weights(self, losses):
        losses.gram.add_(1)
        return torch.ones(len(losses.names))


@BROKEN.fails("a_task_may_be_missing")
@frozen
class WantsThemAll(Right):
    """One task weight a task, present or not."""

    def loss_weighting(self, names):
        return WantsThemAllWeigher(names)


class WantsThemAllWeigher(Weigher):
    def task_weights(self, losses):
        if len(losses.names) < len(self.names):
            raise RuntimeError("a task is missing")
        return torch.ones(len(losses.names))


@BROKEN.fails("a_task_that_never_comes_changes_nothing")
@frozen
class CountsTheConfigured(Right):
    """A mean over the tasks of the configuration."""

    def loss_weighting(self, names):
        return CountsTheConfiguredWeigher(names)


class CountsTheConfiguredWeigher(Weigher):
    def task_weights(self, losses):
        return torch.full((len(losses.names),), len(self.names) / len(losses.names))


@BROKEN.fails("resumed_is_uninterrupted")
@frozen
class CountsInPython(Right):
    """Its memory is a plain attribute."""

    def loss_weighting(self, names):
        return CountsInPythonWeigher(names)


class CountsInPythonWeigher(Weigher):
    steps = 0

    def task_weights(self, losses):
        self.steps += 1
        return torch.full((len(losses.names),), 0.9 + 0.1 * self.steps)


@BROKEN.fails("state_is_kept_by_name")
@frozen
class KeepsByPlace(Right):
    """Uncertainty weighting whose parameters have no names."""

    lacks: ClassVar[Mapping[str, str]] = {"units": "its scales are learned"}

    def loss_weighting(self, names):
        return KeepsByPlaceWeigher(names)


class KeepsByPlaceWeigher(Weigher):
    def __init__(self, names):
        super().__init__(names)
        self.log_var = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, losses):
        s = torch.stack([self.log_var[self.names.index(name)] for name in losses.names])
        return (losses.values * torch.exp(-s) + s).sum()


@BROKEN.fails("buffers_change_in_place")
@frozen
class ReplacesItsBuffer(Right):
    """A new tensor in each step."""

    def loss_weighting(self, names):
        return ReplacesItsBufferWeigher(names)


class ReplacesItsBufferWeigher(Weigher):
    def __init__(self, names):
        super().__init__(names)
        self.register_buffer("steps", torch.zeros(()))

    def task_weights(self, losses):
        self.steps = self.steps + 1
        return torch.ones(len(losses.names))


@BROKEN.fails("what_is_learned_gets_a_gradient")
@frozen
class DetachesItsParameters(Right):
    """Uncertainty weighting whose parameters never move."""

    def loss_weighting(self, names):
        return DetachesItsParametersWeigher(names)


class DetachesItsParametersWeigher(Weigher):
    def __init__(self, names):
        super().__init__(names)
        self.log_var = nn.ParameterDict({name: torch.zeros(()) for name in names})

    def task_weights(self, losses):
        return torch.exp(-torch.stack([self.log_var[name] for name in losses.names]))
