"""A right weighting, and for each check of the kit one that fails this check only.

BROKEN: check -> class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from attrs import frozen
from torch import nn

from broken_plugins import Broken
from mtlcore import LossWeighting

BROKEN = Broken()


class Constant(nn.Module):
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
        return Constant(names)


def share(losses):
    """(K,) losses relative to their mean."""
    return losses.values.detach() / losses.values.detach().mean().clamp_min(1e-30)


@BROKEN.fails("declares_what_it_reads")
@frozen
class HasAnUnknownLevel(Right):
    """Its level does not exist."""

    at = "gradients"


@BROKEN.fails("objective_is_one_number")
@frozen
class GivesAVector(Right):
    """It does not sum over the tasks."""

    def loss_weighting(self, names):
        return GivesAVectorModule(names)


class GivesAVectorModule(Constant):
    def forward(self, losses):
        return losses.values * 1


@BROKEN.fails("objective_is_one_number", also=True)
@frozen
class ForgetsItsLevel(Right):
    """It reads the Gramian, and its level has none."""

    def loss_weighting(self, names):
        return ForgetsItsLevelModule(names)


class ForgetsItsLevelModule(Constant):
    def task_weights(self, losses):
        lengths = losses.gram.diagonal().sqrt().clamp_min(1e-12)
        return lengths.mean() / lengths


@BROKEN.fails("task_weights_are_finite")
@frozen
class DividesByLosses(Right):
    """A loss of 0 gets an infinite task weight."""

    def loss_weighting(self, names):
        return DividesByLossesModule(names)


class DividesByLossesModule(Constant):
    def task_weights(self, losses):
        return losses.values.mean() / losses.values


@BROKEN.fails("leaves_global_generators_alone")
@frozen
class DrawsGlobally(Right):
    """It makes an unused draw from torch's global generator."""

    def loss_weighting(self, names):
        return DrawsGloballyModule(names)


class DrawsGloballyModule(Constant):
    def task_weights(self, losses):
        torch.rand(1)
        return torch.ones(len(losses.names))


@BROKEN.fails("leaves_global_generators_alone", also=True)
@frozen
class SeedsTheWorld(Right):
    """Building it seeds torch's global generator."""

    def loss_weighting(self, names):
        torch.manual_seed(0)
        return Constant(names)


@BROKEN.fails("same_draws_same_task_weights")
@frozen
class SeedsItself(Right):
    """It has its own generator."""

    def loss_weighting(self, names):
        return SeedsItselfModule(names)


class SeedsItselfModule(Constant):
    def task_weights(self, losses):
        generator = torch.Generator()
        generator.seed()
        return 1 + 0.5 * torch.rand(len(losses.names), generator=generator)


@BROKEN.fails("starts_as_the_sum_of_losses")
@frozen
class Doubles(Right):
    """Every task weight is 2."""

    def loss_weighting(self, names):
        return DoublesModule(names)


class DoublesModule(Constant):
    def task_weights(self, losses):
        return torch.full((len(losses.names),), 2.0)


@BROKEN.fails("a_single_task_gets_a_positive_weight")
@frozen
class ForSeveralAlone(Right):
    """A single task gets the task weight 0."""

    def loss_weighting(self, names):
        return ForSeveralAloneModule(names)


class ForSeveralAloneModule(Constant):
    def task_weights(self, losses):
        return torch.full((len(losses.names),), float(len(losses.names) > 1))


@BROKEN.fails("units_do_not_matter")
@frozen
class LikesSmallLosses(Right):
    """Its task weights depend on the size of the losses."""

    def loss_weighting(self, names):
        return LikesSmallLossesModule(names)


class LikesSmallLossesModule(Constant):
    def task_weights(self, losses):
        return 2 / (1 + losses.values)


@BROKEN.fails("scaling_one_loss_makes_no_weight_negative")
@frozen
class UnlearnsTheLargest(Right):
    """A loss far above the mean gets a negative task weight."""

    def loss_weighting(self, names):
        return UnlearnsTheLargestModule(names)


class UnlearnsTheLargestModule(Constant):
    def task_weights(self, losses):
        return 2 - share(losses)


@BROKEN.fails("order_of_tasks_does_not_matter")
@frozen
class LikesTheFirst(Right):
    """It treats the first task differently."""

    def loss_weighting(self, names):
        return LikesTheFirstModule(names)


class LikesTheFirstModule(Constant):
    def task_weights(self, losses):
        task_weights = torch.ones(len(losses.names))
        task_weights[0] = share(losses)[0]
        return task_weights


@BROKEN.fails("primary_gradient_is_never_opposed")
@frozen
class OnlyClaims(Right):
    """It declares `protects`, and is the sum of losses."""

    at = "parameters"
    protects = True


@BROKEN.fails("micro_batches_add_up")
@frozen
class OnlyClaimsToAddUp(Right):
    """It declares `additive`, and reads the losses."""

    additive = True

    def loss_weighting(self, names):
        return OnlyClaimsToAddUpModule(names)


class OnlyClaimsToAddUpModule(Constant):
    def task_weights(self, losses):
        return share(losses)


@BROKEN.fails("leaves_its_inputs_unchanged")
@frozen
class EditsTheGramian(Right):
    """It edits a Gramian that others read."""

    at = "parameters"

    def loss_weighting(self, names):
        return EditsTheGramianModule(names)


class EditsTheGramianModule(Constant):
    def task_weights(self, losses):
        losses.gram.add_(1)
        return torch.ones(len(losses.names))


@BROKEN.fails("a_task_may_be_missing")
@frozen
class WantsThemAll(Right):
    """It expects all tasks in each step."""

    def loss_weighting(self, names):
        return WantsThemAllModule(names)


class WantsThemAllModule(Constant):
    def task_weights(self, losses):
        if len(losses.names) < len(self.names):
            raise RuntimeError("a task is missing")
        return torch.ones(len(losses.names))


@BROKEN.fails("an_absent_task_changes_nothing")
@frozen
class CountsTheConfigured(Right):
    """It takes a mean over the configured tasks."""

    def loss_weighting(self, names):
        return CountsTheConfiguredModule(names)


class CountsTheConfiguredModule(Constant):
    def task_weights(self, losses):
        return torch.full((len(losses.names),), len(self.names) / len(losses.names))


@BROKEN.fails("resuming_changes_nothing")
@frozen
class CountsInPython(Right):
    """Its state is a plain attribute."""

    def loss_weighting(self, names):
        return CountsInPythonModule(names)


class CountsInPythonModule(Constant):
    steps = 0

    def task_weights(self, losses):
        self.steps += 1
        return torch.full((len(losses.names),), 0.9 + 0.1 * self.steps)


@BROKEN.fails("state_is_keyed_by_name")
@frozen
class KeepsByPlace(Right):
    """Uncertainty weighting with parameters by position."""

    lacks: ClassVar[Mapping[str, str]] = {"units": "its scales are learned"}

    def loss_weighting(self, names):
        return KeepsByPlaceModule(names)


class KeepsByPlaceModule(Constant):
    def __init__(self, names):
        super().__init__(names)
        self.log_var = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, losses):
        s = torch.stack([self.log_var[self.names.index(name)] for name in losses.names])
        return (losses.values * torch.exp(-s) + s).sum()


@BROKEN.fails("buffers_change_in_place")
@frozen
class ReplacesItsBuffer(Right):
    """It assigns a new tensor in each step."""

    def loss_weighting(self, names):
        return ReplacesItsBufferModule(names)


class ReplacesItsBufferModule(Constant):
    def __init__(self, names):
        super().__init__(names)
        self.register_buffer("steps", torch.zeros(()))

    def task_weights(self, losses):
        self.steps = self.steps + 1
        return torch.ones(len(losses.names))


@BROKEN.fails("every_parameter_gets_a_gradient")
@frozen
class DetachesItsParameters(Right):
    """Uncertainty weighting with detached parameters."""

    def loss_weighting(self, names):
        return DetachesItsParametersModule(names)


class DetachesItsParametersModule(Constant):
    def __init__(self, names):
        super().__init__(names)
        self.log_var = nn.ParameterDict({name: torch.zeros(()) for name in names})

    def task_weights(self, losses):
        return torch.exp(-torch.stack([self.log_var[name] for name in losses.names]))
