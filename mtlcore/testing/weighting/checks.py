"""All checks of loss weightings."""

from __future__ import annotations

import torch
from attrs import evolve
from torch import Tensor

from ...contracts import StepLosses
from ..common import COMMON
from ..generators import require_no_global_draws, require_torch_draws_alone
from ..kit import CheckList, Group
from ..requirements import Skip, require, require_shape
from .harness import (
    NAMES,
    STEPS,
    DrawnStep,
    Player,
    WeightingSubject,
    gram_at,
    losses_at,
    require_same_steps,
    scaled,
    steps,
)

OBJECTIVE = "objective_is_one_number"
FINITE = "task_weights_are_finite"
REPEATABLE = "same_draws_same_task_weights"

ORTHOGONAL = DrawnStep(
    rows=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    sizes=(1.0, 1.0, 1.0),
    losses=(1.0, 1.0, 1.0),
    supervised=(True, False, False),
)
CONFLICTING = DrawnStep(
    rows=((2, 1, 0), (-1, 1, 2), (1, -3, 1)),
    sizes=(1.0, 1.0, 1.0),
    losses=(0.5, 1.0, 2.0),
    supervised=(True, False, True),
)
SINGLE = DrawnStep(rows=((1, 2),), sizes=(1.0,), losses=(1.5,), supervised=(True,))

WEIGHTING_CHECKS = Group()

# -------------------------------------------------------------------------------- build, objective


@WEIGHTING_CHECKS.check(
    "build",
    why="the core measures gradients at the level `at`, in every `every`-th step.",
    mend='Set `at` to "losses", "parameters" or "features", and `every` to an integer from 1 on.',
    needs="builds_from_its_name",
    core=True,
)
def declares_what_it_reads(subject: WeightingSubject) -> None:
    """`at` is one of three levels, `every` an integer from 1 on, and 1 at level "losses"."""
    at, every = subject.component.at, subject.component.every
    require(at in ("losses", "parameters", "features"), f"at = {at!r}")
    require(isinstance(every, int) and every >= 1, f"every = {every!r}")
    valid = subject.reads_gradients or every == 1
    require(valid, f'every = {every}, but at = "losses" reads no gradients')


@WEIGHTING_CHECKS.check(
    "objective",
    why="the core differentiates the objective: a single number that depends on the losses.",
    mend="Return the sum over tasks of task weight x losses.values, not detached. If it reads "
    '`losses.gram`, set at = "parameters" or "features": at "losses" there is no Gramian.',
    needs="declares_what_it_reads",
    core=True,
)
def objective_is_one_number(subject: WeightingSubject, step: DrawnStep) -> None:
    """The objective is a finite fp32 scalar. Its derivative by the losses is the task weights."""
    losses = losses_at(0, step)
    objective = subject.player(step.names).objective(losses)
    require_shape(objective, (), "the objective")
    is_finite_fp32 = objective.dtype == torch.float32 and bool(objective.isfinite())
    require(is_finite_fp32, f"the objective is {objective}, {objective.dtype}")
    require(objective.requires_grad, "the objective does not depend on the losses")
    (task_weights,) = torch.autograd.grad(objective, losses.values, allow_unused=True)
    require(task_weights is not None, "the objective does not depend on the losses")


@WEIGHTING_CHECKS.check(
    "objective",
    why="a task weight that is not finite ends the step, and the next one has the same gradients.",
    mend="Guard divisions and logarithms. Normalize a Gramian by its diagonal before you solve.",
    needs=OBJECTIVE,
    core=True,
)
def task_weights_are_finite(subject: WeightingSubject, step: DrawnStep) -> None:
    """Task weights are finite for gradients of any rank and losses times 0, 1e-15 ... 1e15."""
    for scale in (0.0, 1e-15, 1e-6, 1.0, 1e6, 1e15):
        task_weights = subject.player(step.names).play(step, scale=scale)
        _require_finite(task_weights, f"with losses times {scale}")


@WEIGHTING_CHECKS.check(
    "randomness",
    why="draws are keyed by (seed, step). Global generators break ranks and resumed runs.",
    mend="Draw from `losses.rng`. In `build`, draw initial values with torch, and seed nothing.",
    needs=OBJECTIVE,
    core=True,
)
def leaves_global_generators_alone(subject: WeightingSubject) -> None:
    """A step uses no global generator of torch, numpy or Python; `build` may draw from torch's."""
    require_torch_draws_alone(lambda: subject.component.build(CONFLICTING.names))
    player = subject.player(CONFLICTING.names)
    require_no_global_draws(lambda: player.play(CONFLICTING), "it")


@WEIGHTING_CHECKS.check(
    "randomness",
    why="all ranks, and a resumed run, must use the same task weights.",
    mend="Draw from `losses.rng` only.",
    needs=("leaves_global_generators_alone", FINITE),
    core=True,
)
def same_draws_same_task_weights(subject: WeightingSubject, step: DrawnStep) -> None:
    """Two new weightings give the same task weights for the same steps."""
    one, other = (subject.player(step.names).play(step) for _ in range(2))
    _require_equal(one, other)


@WEIGHTING_CHECKS.check(
    "objective",
    why="the learning rate is chosen for the sum of losses. Longer steps act as another rate.",
    mend='Scale the task weights to 1 there, or declare it: lacks = {"sum_of_losses": "..."}.',
    needs=REPEATABLE,
    capability="sum_of_losses",
)
def starts_as_the_sum_of_losses(subject: WeightingSubject) -> None:
    """With orthonormal gradients and equal losses, each task weight is 1 at the start."""
    losses = evolve(
        losses_at(0, ORTHOGONAL),
        values=torch.ones(3).requires_grad_(),
        gram=torch.eye(3),
        progress=0.0,
        epoch=0,
    )
    task_weights = subject.player(ORTHOGONAL.names).task_weights(losses)
    all_one = bool(((task_weights - 1).abs() < 1e-3).all())
    require(all_one, f"the task weights are {task_weights.tolist()}")


@WEIGHTING_CHECKS.check(
    "objective",
    why="a run with one task is the baseline. With a task weight of 0 or less it would not learn.",
    mend="Give a single task a positive task weight.",
    needs=FINITE,
)
def a_single_task_gets_a_positive_weight(subject: WeightingSubject) -> None:
    """A single supervised task gets a positive task weight."""
    task_weights = subject.player(SINGLE.names).play(SINGLE)
    positive = bool((task_weights > 0).all())
    require(positive, f"its task weight is {task_weights.flatten().tolist()}")


@WEIGHTING_CHECKS.check(
    "objective",
    why="losses in other units (a sum instead of a mean) would get other weights.",
    mend='Use ratios of losses and gradients, or declare it: lacks = {"units": "..."}.',
    needs=REPEATABLE,
    capability="units",
)
def units_do_not_matter(subject: WeightingSubject, step: DrawnStep) -> None:
    """Multiplying all losses by a constant keeps the task weights."""
    expected = subject.player(step.names).play(step)
    for scale in (2.0**-7, 2.0**7):  # powers of 2 add no rounding to an ill-conditioned problem
        found = subject.player(step.names).play(step, scale=scale)
        require_same_steps(expected, found, step)


@WEIGHTING_CHECKS.check(
    "objective",
    why="a negative weight unlearns a task. A large loss of another task is no reason for that.",
    mend="Keep task weights at 0 or above if the Gramian is diagonal.",
    needs=REPEATABLE,
)
def scaling_one_loss_makes_no_weight_negative(subject: WeightingSubject) -> None:
    """Without conflicts, multiplying one loss by 0.01 or 100 makes no task weight negative."""
    for which, name in enumerate(ORTHOGONAL.names):
        for scale in (1e-2, 1e2):
            task_weights = subject.player(ORTHOGONAL.names).play(scaled(ORTHOGONAL, which, scale))
            found = f"with the loss of {name!r} times {scale}: {task_weights.tolist()}"
            require(bool((task_weights >= -1e-6).all()), found)


@WEIGHTING_CHECKS.check(
    "objective",
    why="results would depend on the order of the tables in the configuration.",
    mend='Treat all tasks alike, or declare it: lacks = {"order": "projects in a drawn order"}.',
    needs=REPEATABLE,
    capability="order",
)
def order_of_tasks_does_not_matter(subject: WeightingSubject, step: DrawnStep) -> None:
    """With the tasks in reverse order, each task has the same weight."""
    expected = subject.player(step.names).play(step)
    found = subject.player(step.names[::-1]).play(step, reverse=True)
    # Iterative solvers resolve ties by position.
    require_same_steps(expected, found, step, tolerance=0.03)


@WEIGHTING_CHECKS.check(
    "objective",
    why="`protects` promises that pretexts cannot harm the supervised tasks.",
    mend="Project away what opposes the primary gradient, or do not set `protects`.",
    needs=FINITE,
)
def primary_gradient_is_never_opposed(subject: WeightingSubject, step: DrawnStep) -> None:
    """With `protects`, no step opposes the sum of the supervised tasks' weighted gradients."""
    if not getattr(subject.component, "protects", False):
        raise Skip("it does not set `protects`")
    primary = step.primary.double()
    for t, task_weights in enumerate(subject.player(step.names).play(step)):
        gram, weights = gram_at(t, step), task_weights.double()
        lengths = gram.diagonal().sqrt()
        along = primary @ gram @ weights
        scale = (primary @ lengths) * (weights * lengths).abs().sum()
        opposed = bool(along < -1e-3 * scale)
        found = f"<step, primary> = {float(along):.3g}, task weights {task_weights.tolist()}"
        require(not opposed, found)


@WEIGHTING_CHECKS.check(
    "objective",
    why="micro-batches must add up to the step, or gradient accumulation changes the result.",
    mend="Leave `additive` at False if task weights depend on the losses, or `forward` changes "
    "state.",
    needs=REPEATABLE,
)
def micro_batches_add_up(subject: WeightingSubject, step: DrawnStep) -> None:
    """With `additive`, task weights do not depend on the losses, and forward keeps the state."""
    if not subject.component.additive:
        raise Skip("it is not additive: it receives the losses of the whole step, once")
    player = subject.player(step.names)
    player.play(step)
    player.optimizer = None
    before = player.saved()

    factors = torch.linspace(0.5, 1.5, len(step.names))
    one = player.task_weights(_with_scaled_values(step, factors))
    other = player.task_weights(_with_scaled_values(step, 1 / factors))
    found = f"the task weights are {one.tolist()}; with other losses, {other.tolist()}"
    require(torch.allclose(one, other), found)
    require(player.saved() == before, "its state has changed")


@WEIGHTING_CHECKS.check(
    "objective",
    why="the Gramian and the losses are logged, and read again after the weighting.",
    mend="Work on copies. Functions that end in _ overwrite their input.",
    needs=OBJECTIVE,
    core=True,
)
def leaves_its_inputs_unchanged(subject: WeightingSubject, step: DrawnStep) -> None:
    """Losses, Gramian and `primary` are not edited in place."""
    losses = losses_at(0, step)
    names = ("values", "gram", "primary")
    before = {name: getattr(losses, name).detach().clone() for name in names}
    subject.player(step.names).objective(losses)
    edited = [name for name in names if not torch.equal(getattr(losses, name), before[name])]
    require(not edited, f"it edits {', '.join(edited)}")


# ------------------------------------------------------------------------------------ absent tasks


@WEIGHTING_CHECKS.check(
    "tasks",
    why="each dataset labels some tasks only. Most steps lack a task.",
    mend="Read `losses.names` in each step, and store state by name.",
    needs=FINITE,
    core=True,
)
def a_task_may_be_missing(subject: WeightingSubject, step: DrawnStep) -> None:
    """If a task is missing from every other step, the others get finite task weights."""
    player = subject.player(step.names)
    for i in range(STEPS):
        present = slice(None) if i % 2 else slice(1, None)
        losses = losses_at(i, step, rows=present)
        _require_finite(player.task_weights(losses)[None], f"step {i} with {losses.names}")


@WEIGHTING_CHECKS.check(
    "tasks",
    why="a task without any labeled sample would change the others' weights.",
    mend="Use means and counts over `losses.names`, not over the names passed to `build`.",
    needs=("a_task_may_be_missing", REPEATABLE),
)
def an_absent_task_changes_nothing(subject: WeightingSubject, step: DrawnStep) -> None:
    """A configured task that is in no step leaves the others' task weights as they are."""
    expected = subject.player(step.names).play(step)
    found = subject.player(("elsewhere", *step.names)).play(step)
    _require_equal(expected, found)


# ------------------------------------------------------------------------------------------ state


@WEIGHTING_CHECKS.check(
    "state",
    why="a resumed run would continue with other weights.",
    mend="Store values between steps in parameters and buffers, never in plain attributes.",
    needs=REPEATABLE,
    core=True,
)
def resuming_changes_nothing(subject: WeightingSubject, step: DrawnStep) -> None:
    """Saved and loaded in the middle, it gives bit-equal task weights."""
    half = STEPS // 2
    whole = subject.player(step.names).play(step, range(STEPS))
    first, second = subject.player(step.names), subject.player(step.names)
    first.play(step, range(half))
    second.load(first.saved())
    _require_equal(whole[half:], second.play(step, range(half, STEPS)))


@WEIGHTING_CHECKS.check(
    "state",
    why="a checkpoint would mix up the tasks if their tables are reordered, or one is added.",
    mend="Key the state by task name (nn.ParameterDict, a buffer for each name), not by position.",
    needs="resuming_changes_nothing",
)
def state_is_keyed_by_name(subject: WeightingSubject) -> None:
    """Trained with the tasks in reverse order, its state_dict holds the same value by key."""
    forward, reverse = subject.player(CONFLICTING.names), subject.player(CONFLICTING.names[::-1])
    forward.play(CONFLICTING, range(STEPS))
    reverse.play(CONFLICTING, range(STEPS), reverse=True)
    one, other = _state(forward), _state(reverse)
    require(one.keys() == other.keys(), f"the keys are {sorted(one)} and {sorted(other)}")
    differ = []
    for key, value in one.items():
        if not torch.allclose(value.float(), other[key].float(), rtol=0.03, atol=1e-5):
            differ.append(key)
    require(not differ, f"{', '.join(differ)} depends on the order of the tasks")


@WEIGHTING_CHECKS.check(
    "state",
    why="after a bad batch, the step restores buffers. A replaced buffer keeps the bad values.",
    mend="Change buffers in place: self.average.copy_(new), not self.average = new.",
    needs=OBJECTIVE,
    core=True,
)
def buffers_change_in_place(subject: WeightingSubject) -> None:
    """A step keeps the tensor object of each buffer."""
    player = subject.player(NAMES[:3])
    # The dict keeps the old tensors alive: a freed one could share its id with a new one.
    before = dict(player.loss_weighting.named_buffers())
    player.play(CONFLICTING, range(STEPS))
    after = dict(player.loss_weighting.named_buffers())
    names = before.keys() | after.keys()
    replaced = sorted(name for name in names if before.get(name) is not after.get(name))
    require(not replaced, f"replaced: {', '.join(replaced)}")


@WEIGHTING_CHECKS.check(
    "state",
    why="a parameter without a gradient never changes, so the weights are not learned.",
    mend="Let the objective depend on the parameters, not on a detached copy.",
    needs=OBJECTIVE,
)
def every_parameter_gets_a_gradient(subject: WeightingSubject) -> None:
    """The objective has a gradient at each of its parameters."""
    player = subject.player(CONFLICTING.names)
    parameters = dict(player.loss_weighting.named_parameters())
    if not parameters:
        raise Skip("it has no parameters")
    player.objective(losses_at(0, CONFLICTING)).backward()
    idle = [n for n, p in parameters.items() if p.grad is None or not bool(p.grad.any())]
    require(not idle, f"no gradient: {', '.join(idle)}")


# ---------------------------------------------------------------------------------------- helpers


def _require_finite(task_weights: Tensor, when: str) -> None:
    """(T, K) task weights."""
    finite = bool(task_weights.isfinite().all())
    require(finite, f"{when}: the task weights are {task_weights[-1].tolist()}")


def _require_equal(one: Tensor, other: Tensor) -> None:
    """(T, K) task weights twice."""
    same = torch.equal(one, other)
    require(same, f"the task weights are {one[-1].tolist()} and {other[-1].tolist()}")


def _with_scaled_values(step: DrawnStep, factors: Tensor) -> StepLosses:
    losses = losses_at(STEPS, step)
    return evolve(losses, values=(losses.values.detach() * factors).requires_grad_())


def _state(player: Player) -> dict[str, Tensor]:
    state = player.loss_weighting.state_dict()
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


CHECKS = CheckList("weighting", steps, (COMMON, WEIGHTING_CHECKS))
HARNESS = WeightingSubject
