"""A right optimizer, and for each check of the kit one that fails this check only.

BROKEN: check -> class.
"""

from __future__ import annotations

import torch
from attrs import frozen

from broken_plugins import Broken
from mtlcore import Optimizer

BROKEN = Broken()


class Momentum(torch.optim.Optimizer):
    """Gradient descent along the mean gradient, with decoupled decay."""

    def __init__(self, groups, lr, weight_decay):
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, group)

    def update(self, p, group):
        mean = self.mean_of(p).lerp_(p.grad, 0.1)
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(mean, alpha=group["lr"])

    def mean_of(self, p):
        return self.state[p].setdefault("mean", torch.zeros_like(p))


@frozen
class Right(Optimizer):
    """Gradient descent along the mean gradient."""

    lr: float = 0.01
    weight_decay: float = 0.05

    def build(self, groups):
        return self.of(groups, 0.01, 0.05)

    def of(self, groups, lr, weight_decay):
        return Momentum(groups, lr, weight_decay)


@BROKEN.fails("builds_an_optimizer_of_the_groups")
@frozen
class OneGroup(Right):
    """It joins all groups."""

    def build(self, groups):
        return self.of([p for group in groups for p in group["params"]], 0.01, 0.05)


@BROKEN.fails("has_a_learning_rate_and_a_weight_decay")
@frozen
class NoRate(Optimizer):
    """It has no field `lr`."""

    weight_decay: float = 0.05

    def build(self, groups):
        return Momentum(groups, 0.01, 0.05)


class StoredRate(Momentum):
    def update(self, p, group):
        super().update(p, group | {"lr": 0.01})


@BROKEN.fails("uses_the_learning_rate_of_each_group")
@frozen
class ReadsItsOwnRate(Right):
    """It uses the learning rate of its constructor."""

    def build(self, groups):
        return StoredRate(groups, 0.01, 0.05)


class NoDecay(Momentum):
    def update(self, p, group):
        super().update(p, group | {"weight_decay": 0.0})


@BROKEN.fails("decays_weights")
@frozen
class IgnoresDecay(Right):
    """It never decays."""

    def build(self, groups):
        return NoDecay(groups, 0.01, 0.05)


class Uphill(Momentum):
    def mean_of(self, p):
        p.grad.neg_()
        return super().mean_of(p)


@BROKEN.fails("lowers_a_loss")
@frozen
class Ascends(Right):
    """It steps along the gradient."""

    def build(self, groups):
        return Uphill(groups, 0.01, 0.05)


class Restless(Momentum):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
        super().step()


@BROKEN.fails("leaves_a_parameter_without_gradient_alone")
@frozen
class DecaysAbsentHeads(Right):
    """It decays parameters that have no gradient."""

    def build(self, groups):
        return Restless(groups, 0.01, 0.05)


class Noisy(Momentum):
    def update(self, p, group):
        p.grad.add_(0.01 * torch.randn_like(p))
        super().update(p, group)


@BROKEN.fails("same_gradients_same_weights")
@frozen
class Draws(Right):
    """It adds noise from torch's global generator."""

    def build(self, groups):
        return Noisy(groups, 0.01, 0.05)


@BROKEN.fails("same_gradients_same_weights", also=True)
@frozen
class SeedsTheWorld(Right):
    """Building it seeds torch's global generator."""

    def build(self, groups):
        torch.manual_seed(0)
        return self.of(groups, 0.01, 0.05)


class ClaimsToSkip(Momentum):
    _step_supports_amp_scaling = True


@BROKEN.fails("a_bad_step_changes_nothing")
@frozen
class IgnoresFoundInf(Right):
    """It claims to follow `found_inf`, and does not."""

    def build(self, groups):
        return ClaimsToSkip(groups, 0.01, 0.05)


class Window(Momentum):
    def mean_of(self, p):
        last = self.state[p].setdefault("last", [])
        last[:] = [*last, p.grad.clone()][-4:]
        return torch.stack(last).mean(0)


@BROKEN.fails("continues_from_a_checkpoint", also=True)
@frozen
class KeepsAWindow(Right):
    """It keeps a list of the last four gradients, which grows in the first steps."""

    def build(self, groups):
        return Window(groups, 0.01, 0.05)


class Outside(Momentum):
    def mean_of(self, p):
        means = self.__dict__.setdefault("means", {})
        return means.setdefault(p, torch.zeros_like(p))


@BROKEN.fails("continues_from_a_checkpoint")
@frozen
class ForgetsItsMean(Right):
    """Its state is in an attribute that no checkpoint holds."""

    def build(self, groups):
        return Outside(groups, 0.01, 0.05)
