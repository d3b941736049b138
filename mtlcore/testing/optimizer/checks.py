"""All checks of optimizers."""

from __future__ import annotations

import copy

import torch

from ...training.optim import skips_on_device
from ...training.optimizer_state import MisfitError
from ..common import COMMON
from ..generators import require_no_global_draws
from ..kit import CheckList, Group
from ..requirements import Skip, require
from ..subject import batches
from .harness import (
    NAN,
    SHAPES,
    STEPS,
    OptimizerSubject,
    Player,
    require_equal,
    same_states,
)

BUILDS = "builds_an_optimizer_of_the_groups"
REPEATABLE = "same_gradients_same_weights"
DECAY = 0.1
FALLS_IN = 200  # steps

OPTIMIZER_CHECKS = Group()

# ------------------------------------------------------------------------------------------ groups


@OPTIMIZER_CHECKS.check(
    "groups",
    why="the core sets the learning rate of each group, and saves the state of the optimizer.",
    mend="Return a torch.optim.Optimizer that was built from the groups as they are.",
    needs="builds_from_its_name",
    core=True,
)
def builds_an_optimizer_of_the_groups(subject: OptimizerSubject) -> None:
    """`build` returns a torch optimizer with the same groups: parameters and weight decay."""
    player = subject.player(DECAY)
    optimizer = player.optimizer
    require(isinstance(optimizer, torch.optim.Optimizer), f"it is {type(optimizer).__name__}")
    found, given = optimizer.param_groups, player.groups
    require(len(found) == len(given), f"it has {len(found)} groups; expected {len(given)}")
    for group, expected in zip(found, given):
        same = [id(p) for p in group["params"]] == [id(p) for p in expected["params"]]
        require(same, "a group has other parameters")
        decay = group.get("weight_decay")
        require(decay == expected["weight_decay"], f"a group has weight_decay = {decay}")
        require("lr" in group, "a group has no lr")


@OPTIMIZER_CHECKS.check(
    "groups",
    why="[optimizer] lr is the learning rate after the warm-up, in logs and schedules.",
    mend="Add the fields `lr` and `weight_decay`, or class attributes of these names.",
    needs=BUILDS,
    core=True,
)
def has_a_learning_rate_and_a_weight_decay(subject: OptimizerSubject) -> None:
    """`lr` is above 0, and `weight_decay` is 0 or more."""
    lr = getattr(subject.component, "lr", None)
    decay = getattr(subject.component, "weight_decay", None)
    require(isinstance(lr, float) and lr > 0, f"lr = {lr!r}")
    require(isinstance(decay, float | int) and decay >= 0, f"weight_decay = {decay!r}")


@OPTIMIZER_CHECKS.check(
    "groups",
    why="schedules, encoder_lr and layer_decay set the learning rate of each group.",
    mend='Read group["lr"] in each step, not an lr that the constructor stored.',
    needs=BUILDS,
    core=True,
)
def uses_the_learning_rate_of_each_group(subject: OptimizerSubject) -> None:
    """With a learning rate of 0, the parameters of a group rest. Those of the other one move."""
    player = subject.player()
    player.optimizer.param_groups[0]["lr"] = 0.0
    rested = _moved(player)
    moved = _moved(subject.player())
    for number, name in enumerate(SHAPES):
        # MADGRAD adds 1e-6 to its learning rate, 1 % of the movement here.
        rests = rested[number] <= 0.02 * moved[number]
        expected = number < 2
        require(rests == expected, f"{name} {'rests' if rests else 'moves'}: its lr is not read")


def _moved(player: Player) -> list[float]:
    """How far three steps move each parameter."""
    before = player.values()
    player.step(3)
    return [float((a - b).norm()) for a, b in zip(player.values(), before)]


@OPTIMIZER_CHECKS.check(
    "groups",
    why="[optimizer] weight_decay would have no effect.",
    mend='Read group["weight_decay"], or declare it: lacks = {"weight_decay": "..."}.',
    needs=BUILDS,
    capability="weight_decay",
)
def decays_weights(subject: OptimizerSubject) -> None:
    """The weight decay of a group changes its steps."""
    plain, decayed = subject.player(), subject.player(DECAY)
    for player in (plain, decayed):
        player.step(STEPS)
    for number in range(2):
        differ = not torch.equal(plain.parameters[number], decayed.parameters[number])
        require(differ, "weight_decay = 0.1 gives the steps of weight_decay = 0")


# ------------------------------------------------------------------------------------------- steps


@OPTIMIZER_CHECKS.check(
    "steps",
    why="a run must learn with the defaults.",
    mend="Step against the gradient. Choose a default `lr` for your update.",
    needs=BUILDS,
)
def lowers_a_loss(subject: OptimizerSubject) -> None:
    """200 steps with its default learning rate lower a squared distance."""
    player = subject.player()
    before = player.loss()
    player.step(FALLS_IN)
    require(player.loss() < before, f"the loss was {before:.4g}, and is {player.loss():.4g}")


@OPTIMIZER_CHECKS.check(
    "steps",
    why="a head that is absent from a step has no gradient. It must not move.",
    mend="Skip parameters whose `.grad` is None.",
    needs=BUILDS,
    core=True,
)
def leaves_a_parameter_without_gradient_alone(subject: OptimizerSubject) -> None:
    """A parameter without a gradient keeps its value, in the first step and in later ones."""
    for earlier in (0, 2):
        player = subject.player(DECAY)
        player.step(earlier)
        player.set_gradients()
        player.parameters[1].grad = None
        before = player.parameters[1].detach().clone()
        player.optimizer.step()
        require(torch.equal(player.parameters[1], before), f"it moves after {earlier} steps")


@OPTIMIZER_CHECKS.check(
    "steps",
    why="a run could not be repeated.",
    mend="Draw and seed nothing, and keep no state in the component.",
    needs=BUILDS,
    core=True,
)
def same_gradients_same_weights(subject: OptimizerSubject) -> None:
    """Two new optimizers take the same steps; `build` and steps use no global generator."""
    one, other = subject.player(DECAY), subject.player(DECAY)
    one.step(STEPS)
    other.step(STEPS)
    require_equal(one.values(), other.values(), "after the same steps")
    groups = subject.player().groups
    require_no_global_draws(lambda: subject.component.build(groups), "build")
    player = subject.player()

    def first() -> torch.Tensor:
        player.step()
        return player.parameters[0].detach()

    require_no_global_draws(first, "a step")


@OPTIMIZER_CHECKS.check(
    "steps",
    why="one bad batch would end the run.",
    mend="Follow `found_inf` in the fused step before any state is written, or do not set "
    "`_step_supports_amp_scaling`: the core then does not call the step.",
    needs=BUILDS,
    core=True,
)
def a_bad_step_changes_nothing(subject: OptimizerSubject) -> None:
    """A fused step with `found_inf` leaves weights and state, in the first step and later."""
    if not skips_on_device(subject.player().optimizer):
        raise Skip("it is not fused: the core does not call its step if a gradient is bad")
    for earlier in (0, 3):
        _require_skipped(subject.player(DECAY), subject.player(DECAY), earlier)


def _require_skipped(player: Player, untouched: Player, earlier: int) -> None:
    """Compare steps around a bad one with the same steps without it."""
    player.step(earlier)
    untouched.step(earlier)
    before = copy.deepcopy(player.optimizer.state_dict())
    player.set_gradients(NAN)
    player.optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    player.optimizer.step()
    player.optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    where = f"a bad step after {earlier} steps"
    require_equal(player.values(), untouched.values(), where)
    if earlier:
        same = same_states(before, player.optimizer.state_dict())
        require(same, f"{where} changes the state")
    player.step(STEPS)
    untouched.step(STEPS)
    require_equal(player.values(), untouched.values(), f"steps that follow {where}")


# ------------------------------------------------------------------------------------- checkpoints


@OPTIMIZER_CHECKS.check(
    "checkpoints",
    why="a resumed run would differ from an uninterrupted one.",
    mend="Keep everything in `state` and in the groups, as tensors and numbers. Create it in the "
    "first step, with its final shape: a window of gradients is one tensor.",
    needs=REPEATABLE,
    core=True,
)
def continues_from_a_checkpoint(subject: OptimizerSubject) -> None:
    """Saved, read with weights_only, checked as by a run, and loaded, it continues bit for bit."""
    for steps in (1, STEPS - 1):
        player, resumed = subject.player(DECAY), subject.player(DECAY)
        player.step(steps)
        for mine, other in zip(resumed.parameters, player.values()):
            mine.data.copy_(other)
        try:
            resumed.load(player.saved())
        except MisfitError as misfit:
            found = f"a run can't resume after step {steps}: {misfit}"
            raise AssertionError(found) from misfit
        player.step(STEPS)
        resumed.step(STEPS)
        require_equal(resumed.values(), player.values(), f"{STEPS} steps after step {steps}")


CHECKS = CheckList("optimizer", batches, (COMMON, OPTIMIZER_CHECKS))
HARNESS = OptimizerSubject
