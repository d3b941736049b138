"""What every loss weighting must hold."""

from __future__ import annotations

import torch
from attrs import evolve

from ..common import COMMON
from ..generators import touched
from ..kit import CheckList, Group, Skip, require
from .harness import (
    NAMES,
    STEPS,
    DrawnStep,
    Player,
    WeightingSubject,
    losses_at,
    require_same_steps,
    scaled,
    steps,
)

WEIGHTING_CHECKS = Group()

ORTHOGONAL = DrawnStep(
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)), (1.0,) * 3, (1.0,) * 3, (True, False, False)
)
OPPOSED = DrawnStep(
    ((2, 1, 0), (-1, 1, 2), (1, -3, 1)), (1.0,) * 3, (0.5, 1.0, 2.0), (True, False, True)
)

# ---------------------------------------------------------------------------------------------------- build, objective


@WEIGHTING_CHECKS.check(
    "build",
    why="the core measures gradients where `at` says, and as often as `every` says.",
    mend='let `at` be "losses", "parameters" or "features", and `every` a whole number from 1 on.',
    needs="builds_from_its_name",
    core=True,
)
def says_what_it_looks_at(subject: WeightingSubject) -> None:
    """`at` is one of the three levels, `every` a whole number from 1 on; one that looks at losses alone measures nothing."""
    at, every = subject.component.at, subject.component.every
    require(at in ("losses", "parameters", "features"), f"at = {at!r}")
    require(isinstance(every, int) and every >= 1, f"every = {every!r}")
    require(
        subject.looks_at_gradients or every == 1, f"every = {every}, and it is shown no gradients"
    )


@WEIGHTING_CHECKS.check(
    "objective",
    why="the core differentiates the objective: it must be one number that hangs on the losses.",
    mend="return a sum over the tasks of task weight x losses.values, not detached.",
    needs="says_what_it_looks_at",
    core=True,
)
def objective_is_one_number(subject: WeightingSubject, step: DrawnStep) -> None:
    """The objective is a finite fp32 scalar, whose derivative by the losses is one task weight a task."""
    player, losses = subject.player(step.names), losses_at(0, step)
    objective = player.objective(losses)
    require(objective.shape == (), f"the objective has the shape {tuple(objective.shape)}")
    require(
        objective.dtype == torch.float32 and bool(objective.isfinite()),
        f"the objective is {objective}",
    )
    require(objective.requires_grad, "the objective does not depend on the losses")
    (task_weights,) = torch.autograd.grad(objective, losses.values, allow_unused=True)
    require(task_weights is not None, "the objective does not depend on the losses")


@WEIGHTING_CHECKS.check(
    "objective",
    why="a task weight that is not finite ends the step; the next one meets the same gradients.",
    mend="guard divisions and logarithms, and normalize a Gramian by its diagonal before you solve.",
    needs="objective_is_one_number",
    core=True,
)
def task_weights_are_finite(subject: WeightingSubject, step: DrawnStep) -> None:
    """Task weights are finite for gradients of any rank and for losses times 0, 1e-15 ... 1e15, over several epochs."""
    for scale in (0.0, 1e-15, 1e-6, 1.0, 1e6, 1e15):
        task_weights = subject.player(step.names).play(step, scale=scale)
        require(
            bool(task_weights.isfinite().all()),
            f"losses times {scale}: the task weights are {task_weights[-1].tolist()}",
        )


@WEIGHTING_CHECKS.check(
    "randomness",
    why="global generators are not part of the key (seed, step): ranks and resumed runs would draw otherwise.",
    mend="draw from `losses.rng`.",
    needs="objective_is_one_number",
    core=True,
)
def leaves_global_generators_alone(subject: WeightingSubject) -> None:
    """A step neither draws from nor seeds the generators of torch, numpy or Python."""
    player = subject.player(OPPOSED.names)
    found = touched(lambda: player.play(OPPOSED))
    require(not found, f"it draws from {', '.join(found)}")


@WEIGHTING_CHECKS.check(
    "randomness",
    why="all ranks must use the same task weights, and a resumed run those of the uninterrupted one.",
    mend="draw from `losses.rng` alone.",
    needs=("leaves_global_generators_alone", "task_weights_are_finite"),
    core=True,
)
def same_draws_same_task_weights(subject: WeightingSubject, step: DrawnStep) -> None:
    """Two fresh strategies give the same task weights for the same steps."""
    here, there = (subject.player(step.names).play(step) for _ in range(2))
    require(torch.equal(here, there), f"{here[-1].tolist()} and {there[-1].tolist()}")


@WEIGHTING_CHECKS.check(
    "objective",
    why="the learning rate was found for the sum of losses: another length of step trains with another learning rate.",
    mend='scale the task weights so that they are 1 there, or say why not: lacks = {"sum_of_losses": "..."}.',
    needs="same_draws_same_task_weights",
    capability="sum_of_losses",
)
def starts_as_the_sum_of_losses(subject: WeightingSubject) -> None:
    """Where nothing is to be balanced (orthonormal gradients, equal losses) each task weight is 1 at the start."""
    losses = evolve(
        losses_at(0, ORTHOGONAL),
        values=torch.ones(3).requires_grad_(),
        gram=torch.eye(3),
        progress=0.0,
        epoch=0,
    )
    task_weights = subject.player(ORTHOGONAL.names).task_weights(losses)
    require(
        bool(((task_weights - 1).abs() < 1e-3).all()),
        f"the task weights are {task_weights.tolist()}",
    )


@WEIGHTING_CHECKS.check(
    "objective",
    why="a run of one task is the baseline: with a task weight of 0 or less it would not learn, or unlearn.",
    mend="give a single task a positive task weight.",
    needs="task_weights_are_finite",
)
def one_task_goes_its_own_way(subject: WeightingSubject) -> None:
    """A single supervised task gets a positive task weight."""
    one = DrawnStep(((1, 2),), (1.0,), (1.5,), (True,))
    task_weights = subject.player(one.names).play(one)
    require(bool((task_weights > 0).all()), f"its task weight is {task_weights.flatten().tolist()}")


@WEIGHTING_CHECKS.check(
    "objective",
    why="a loss in other units (a sum for a mean) would get another weight.",
    mend='look at ratios of losses and gradients, or say why not: lacks = {"units": "..."}.',
    needs="same_draws_same_task_weights",
    capability="units",
)
def units_do_not_matter(subject: WeightingSubject, step: DrawnStep) -> None:
    """All losses, and so all gradients, times a constant: the same task weights."""
    here = subject.player(step.names).play(step)
    for scale in (
        2.0**-7,
        2.0**7,
    ):  # powers of 2, which round nothing: what is ill-conditioned may still know no units
        require_same_steps(here, subject.player(step.names).play(step, scale=scale), step)


@WEIGHTING_CHECKS.check(
    "objective",
    why="a task would be unlearned because another's loss is large, though nothing asks for that.",
    mend="keep task weights at 0 or above where the Gramian is diagonal.",
    needs="same_draws_same_task_weights",
)
def scaling_one_loss_turns_no_task_around(subject: WeightingSubject) -> None:
    """Where no gradients conflict, one loss times 0.01 or 100 leaves all task weights at 0 or above."""
    for which in range(len(ORTHOGONAL.names)):
        for scale in (1e-2, 1e2):
            task_weights = subject.player(ORTHOGONAL.names).play(scaled(ORTHOGONAL, which, scale))
            said = f"with the loss of {ORTHOGONAL.names[which]!r} times {scale} the task weights are {task_weights.tolist()}"
            require(bool((task_weights >= -1e-6).all()), said)


@WEIGHTING_CHECKS.check(
    "objective",
    why="results would hang on the order of the tables in the configuration.",
    mend='treat the tasks alike, or say why not: lacks = {"order": "projects in a drawn order"}.',
    needs="same_draws_same_task_weights",
    capability="order",
)
def order_of_tasks_does_not_matter(subject: WeightingSubject, step: DrawnStep) -> None:
    """The tasks in reverse order: the same task weights for each of them."""
    here = subject.player(step.names).play(step)
    there = subject.player(step.names[::-1]).play(step, turned=True)
    require_same_steps(here, there, step, tolerance=0.03)  # iterative solvers break ties by place


@WEIGHTING_CHECKS.check(
    "objective",
    why="it says that pretexts can do the tasks no harm: then they must not.",
    mend="project what opposes the primary gradient away, or don't set `protects`.",
    needs="task_weights_are_finite",
)
def primary_gradient_is_never_opposed(subject: WeightingSubject, step: DrawnStep) -> None:
    """Where `protects` is set, no step goes against the sum of the supervised tasks' weighted gradients."""
    if not getattr(subject.component, "protects", False):
        raise Skip("it does not say that it protects the primary gradient")
    for t, task_weights in enumerate(subject.player(step.names).play(step)):
        gram = losses_at(t, step).gram
        assert gram is not None
        g, p, f = gram.double(), step.primary.double(), task_weights.double()
        along, size = p @ g @ f, (p @ g.diagonal().sqrt()) * (f * g.diagonal().sqrt()).abs().sum()
        require(
            bool(along >= -1e-3 * size),
            f"<step, primary> = {float(along):.3g}, task weights {task_weights.tolist()}",
        )


@WEIGHTING_CHECKS.check(
    "objective",
    why="micro-batches would not add up to the step: accumulation would change what is learned.",
    mend="leave `additive` at False where task weights hang on the losses, or where `forward` changes state.",
    needs="same_draws_same_task_weights",
)
def micro_batches_add_up(subject: WeightingSubject, step: DrawnStep) -> None:
    """Where `additive` is set, task weights do not hang on the losses, and a forward changes no state."""
    if not subject.component.additive:
        raise Skip("it is shown the losses of the whole step, once")
    player = subject.player(step.names)
    player.play(step)
    player.optimizer = None
    before = player.saved()
    uneven = torch.linspace(0.5, 1.5, len(step.names))
    first, second = (
        player.task_weights(evolve(losses, values=(losses.values.detach() * by).requires_grad_()))
        for losses, by in ((losses_at(STEPS, step), uneven), (losses_at(STEPS, step), 1 / uneven))
    )
    require(
        torch.allclose(first, second),
        f"the task weights are {first.tolist()} and, of other losses, {second.tolist()}",
    )
    require(player.saved() == before, "it changed its state")


@WEIGHTING_CHECKS.check(
    "objective",
    why="the Gramian and the losses are logged, and read again after the weighting.",
    mend="work on copies: a function that ends in _ overwrites what it is given.",
    needs="objective_is_one_number",
    core=True,
)
def leaves_what_it_sees_alone(subject: WeightingSubject, step: DrawnStep) -> None:
    """Losses, Gramian and `primary` are not edited in place."""
    losses = losses_at(0, step)
    kept = {name: getattr(losses, name).detach().clone() for name in ("values", "gram", "primary")}
    subject.player(step.names).objective(losses)
    edited = [name for name, was in kept.items() if not torch.equal(getattr(losses, name), was)]
    require(not edited, f"it edits {', '.join(edited)}")


# ---------------------------------------------------------------------------------------------------- tasks that come and go


@WEIGHTING_CHECKS.check(
    "tasks",
    why="data sets label some tasks each: most steps lack one, and the others must go on.",
    mend="read `losses.names` in each step, and keep state by name.",
    needs="task_weights_are_finite",
    core=True,
)
def a_task_may_be_missing(subject: WeightingSubject, step: DrawnStep) -> None:
    """With a task missing from every other step, the others get finite task weights, one each."""
    player = subject.player(step.names)
    for i in range(STEPS):
        losses = losses_at(i, step, rows=slice(None) if i % 2 else slice(1, None))
        task_weights = player.task_weights(losses)
        require(
            bool(task_weights.isfinite().all()),
            f"step {i}: the task weights of {losses.names} are {task_weights.tolist()}",
        )


@WEIGHTING_CHECKS.check(
    "tasks",
    why="a table for a task that no row is labeled for would change the others' weights.",
    mend="take means, and counts of tasks, over `losses.names`, not over the names given to `build`.",
    needs=("a_task_may_be_missing", "same_draws_same_task_weights"),
)
def a_task_that_never_comes_changes_nothing(subject: WeightingSubject, step: DrawnStep) -> None:
    """A task that is configured but in no step leaves the others' task weights as they are."""
    here = subject.player(step.names).play(step)
    there = subject.player(("elsewhere", *step.names)).play(step)
    require(torch.equal(here, there), f"{here[-1].tolist()} becomes {there[-1].tolist()}")


# ---------------------------------------------------------------------------------------------------- state


@WEIGHTING_CHECKS.check(
    "state",
    why="a resumed run would go on with other weights.",
    mend="keep what is remembered in parameters and buffers, never in plain attributes.",
    needs="same_draws_same_task_weights",
    core=True,
)
def resumed_is_uninterrupted(subject: WeightingSubject, step: DrawnStep) -> None:
    """Saved and loaded in the middle, it gives bit for bit the task weights of an uninterrupted run."""
    half = STEPS // 2
    whole = subject.player(step.names).play(step, range(STEPS))
    first, second = subject.player(step.names), subject.player(step.names)
    first.play(step, range(half))
    second.load(first.saved())
    after = second.play(step, range(half, STEPS))
    require(torch.equal(whole[half:], after), f"{whole[-1].tolist()} becomes {after[-1].tolist()}")


@WEIGHTING_CHECKS.check(
    "state",
    why="a checkpoint that is read with the tables in another order, or with one more, would mix the tasks up.",
    mend="key the state by task name (nn.ParameterDict, a buffer a name), not by place.",
    needs="resumed_is_uninterrupted",
)
def state_is_kept_by_name(subject: WeightingSubject) -> None:
    """Built and trained with the tasks in reverse order, its state_dict has the same value under each key."""
    here, there = subject.player(OPPOSED.names), subject.player(OPPOSED.names[::-1])
    here.play(OPPOSED, range(STEPS))
    there.play(OPPOSED, range(STEPS), turned=True)
    one, other = (_state(player) for player in (here, there))
    require(one.keys() == other.keys(), f"the keys are {sorted(one)} and {sorted(other)}")
    differ = [
        k for k in one if not torch.allclose(one[k].float(), other[k].float(), rtol=0.03, atol=1e-5)
    ]
    require(not differ, f"{', '.join(differ)}: the value hangs on the order of the tasks")


@WEIGHTING_CHECKS.check(
    "state",
    why="after a bad batch the step puts buffers back as they were: one that was replaced keeps the bad values.",
    mend="change buffers in place: self.average.copy_(new), not self.average = new.",
    needs="objective_is_one_number",
    core=True,
)
def buffers_change_in_place(subject: WeightingSubject) -> None:
    """A step keeps each buffer's own tensor."""
    player = subject.player(NAMES[:3])
    before = {name: id(b) for name, b in player.loss_weighting.named_buffers()}
    player.play(OPPOSED, range(STEPS))
    after = {name: id(b) for name, b in player.loss_weighting.named_buffers()}
    replaced = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    require(not replaced, f"replaced: {', '.join(replaced)}")


@WEIGHTING_CHECKS.check(
    "state",
    why="a parameter that no gradient reaches stays what it was at the start: the weights are not learned.",
    mend="let the objective depend on the learned parameters, not on a detached copy of them.",
    needs="objective_is_one_number",
)
def what_is_learned_gets_a_gradient(subject: WeightingSubject) -> None:
    """The objective's gradient reaches each of its parameters."""
    player = subject.player(OPPOSED.names)
    if not list(player.loss_weighting.parameters()):
        raise Skip("it learns nothing")
    player.objective(losses_at(0, OPPOSED)).backward()
    idle = [
        name
        for name, p in player.loss_weighting.named_parameters()
        if p.grad is None or not bool(p.grad.any())
    ]
    require(not idle, f"no gradient: {', '.join(idle)}")


def _state(player: Player) -> dict[str, torch.Tensor]:
    return {
        k: v for k, v in player.loss_weighting.state_dict().items() if isinstance(v, torch.Tensor)
    }


CHECKS, HARNESS = CheckList("weighting", steps(), (COMMON, WEIGHTING_CHECKS)), WeightingSubject
