"""Checks of a pretext's loss: its shape, its values, its precision, and what it draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor
from torch.utils._pytree import tree_map

from ...contracts import PretextTask, Target
from ...networks import EMA
from ..alternatives import require_effects
from ..generators import generators_used_in_training, require_unused
from ..kit import Group
from ..requirements import Skip, require, require_finite, require_shape
from ..subject import Drawn
from ..trees import equal, equal_samples, floats, map_floats, tensors
from .build import BUILT
from .harness import LABEL, PretextBatch, PretextSubject, features_of, measured
from .views import REPEATABLE

# Names that many checks need.
LOSS = "loss_is_one_value_per_sample"
STEADY = "loss_is_repeatable"
FINITE = "loss_is_finite"
LOWEST = "true_target_has_the_lowest_loss"

ROUNDING = 1e-4
EXTREME = 1e4
BF16 = 0.05  # relative and absolute tolerance for a mantissa of eight bits
MOST_SAMPLES = 0.75  # of them must be that close: a few may cross a threshold
BATCHES, MANY = 4, 8  # batches and samples in which targets of few classes must differ
CONFIDENT = 20.0  # a logit so far above the others means certainty
SIZES, SAMPLES = (32, 96), 4  # pixels, images
GROWTH, SLACK = 2.0, 1e-3  # a sum over one axis would grow by three

LOSS_CHECKS = Group()
NUMERICS_CHECKS = Group()


@LOSS_CHECKS.check(
    "loss",
    why="the core masks and weights single samples in fp32. A mean over the batch would count "
    "absent samples.",
    mend='Use reduction="none" and a mean within each sample; set `coupled = True` if the loss '
    "compares samples. Outputs arrive in fp32, so `loss` must not cast them.",
    needs=("targets_are_valid", BUILT),
    core=True,
)
def loss_is_one_value_per_sample(subject: PretextSubject, drawn: Drawn) -> None:
    """The loss is (B,), or () of a coupled head, in fp32 and finite."""
    model = subject.model(drawn.size)
    with torch.no_grad():
        loss = subject.loss(model, subject.batch(drawn))
    require(isinstance(loss, Tensor), f"the loss is a {type(loss).__name__}")
    expected = () if subject.built.coupled else (drawn.samples,)
    require_shape(loss, expected, "the loss")
    require(loss.dtype == torch.float32, f"the loss is {loss.dtype}")
    require_finite(loss, "the loss")


@LOSS_CHECKS.check(
    "loss",
    why="evaluation draws nothing. A loss that varies between calls cannot be compared.",
    mend="Draw in views(), from rng. Use nn.Dropout, or F.dropout(x, p, training=self.training).",
    needs=(LOSS, REPEATABLE),
    core=True,
)
def loss_is_repeatable(subject: PretextSubject, drawn: Drawn) -> None:
    """In eval mode, the same batch gives the same output and the same loss twice."""
    batch, model = subject.batch(drawn), subject.model(drawn.size)
    with torch.no_grad():
        one, two = subject.output(model, batch), subject.output(model, batch)
        require(equal(one, two), "the outputs differ")
        losses = [subject.loss_of(model, one, batch.target) for _ in range(2)]
    require(equal(*losses), "the losses of one output differ")


@LOSS_CHECKS.check(
    "loss",
    why="one NaN skips the whole step, for all tasks.",
    mend="Clamp, or add a small number, before log, sqrt and divisions.",
    needs=STEADY,
)
def loss_is_finite(subject: PretextSubject, drawn: Drawn) -> None:
    """Outputs of zeros, of ones and of noise have finite losses."""
    for name, loss in _losses_of_artificial_outputs(subject, drawn).items():
        require_finite(loss, f"the loss of {name}")


@LOSS_CHECKS.check(
    "loss",
    why="a loss that ignores its target teaches the same for every input.",
    mend="Compare the output with the target that loss() receives. Does a mask, a constant or a "
    "detach() replace it?",
    needs=STEADY,
)
def loss_depends_on_the_target(subject: PretextSubject) -> None:
    """In some batch, targets vary, and another sample's target changes the loss of an output."""
    varied = differed = changed = torch.zeros(MANY, dtype=torch.bool)
    for seed in range(BATCHES):
        drawn = Drawn(MANY, 32, seed)
        batch = subject.batch(drawn)
        target = batch.target
        if not tensors(target):
            raise Skip("its views are its target")
        rolled = tree_map(lambda x: x.roll(1, 0), target)
        wrong = of_other_samples(subject.component, target, MANY)
        right_loss, wrong_loss = _noisy_losses(subject, drawn, batch, [target, wrong])

        varied = varied | _differing_samples(target, rolled)
        differed = differed | _differing_samples(target, wrong)
        changed = changed | (right_loss != wrong_loss)  # one value for all if the head is coupled

    require(bool(varied.any()), f"all samples of {BATCHES} batches of {MANY} have the same target")
    if not bool(differed.any()):
        raise Skip("permuting its targets does not change them")
    idle = (differed & ~changed).nonzero().flatten().tolist()
    require(not idle, f"another target does not change the loss of samples {idle} of {MANY}")


@LOSS_CHECKS.check(
    "loss",
    why="a sum over pixels grows with input.size, and the task's weight means something else.",
    mend="Take the mean within each sample: .mean((1, 2, 3)), or the masked sum divided by the "
    "sum of the mask.",
    needs=FINITE,
)
def loss_does_not_grow_with_the_image(subject: PretextSubject) -> None:
    """With three times the image size, the loss of zeros changes by a factor of two at most."""
    small, large = (_loss_of_zeros(subject, Drawn(SAMPLES, size, 0)) for size in SIZES)
    not_larger = abs(large) <= GROWTH * abs(small) + SLACK
    not_smaller = abs(small) <= GROWTH * abs(large) + SLACK
    found = f"the loss is {small:.4g} at {SIZES[0]} pixels, {large:.4g} at {SIZES[1]}"
    require(not_larger and not_smaller, found)


@LOSS_CHECKS.check(
    "loss",
    why="training minimizes the loss. If the truth is not lowest, it learns something else.",
    mend="Compare `ideal`, `loss` and the order of the target's entries. Is a sign or an axis "
    "swapped?",
    needs="loss_depends_on_the_target",
)
def true_target_has_the_lowest_loss(subject: PretextSubject, drawn: Drawn) -> None:
    """`ideal(target)`, or one-hot logits, loses less with its target than with another's."""
    batch, model = subject.batch(drawn), subject.model(drawn.size)
    ideal = ideal_output(subject, batch)
    wrong_target = of_other_samples(subject.component, batch.target, drawn.samples)
    right = subject.loss_of(model, ideal, batch.target)
    wrong = subject.loss_of(model, ideal, wrong_target)

    differs = _differing_samples(batch.target, wrong_target)
    if right.ndim == 0:
        differs = differs.any()
    lower = torch.where(differs, right < wrong, True)
    found = f"the loss is {numbers(right)} with the truth, {numbers(wrong)} with wrong targets"
    require(bool(lower.all()), found)


@LOSS_CHECKS.check(
    "loss",
    why="a sum over tiles or pixels multiplies the loss, and with it the learning rate.",
    mend="Take the mean within each sample. Use cross-entropy on raw logits, without a softmax "
    "before it.",
    needs=FINITE,
)
def equal_logits_give_log_choices(subject: PretextSubject, drawn: Drawn) -> None:
    """All-zero logits of K choices have the loss log(K) in both modes; several add up.

    Outputs that are no choices are ideal ones, whose loss is added.
    """
    choices = getattr(subject.built, "choices", None)
    if choices is None:
        raise Skip("its head has no `choices`")
    counts = choices.values() if isinstance(choices, Mapping) else [choices]
    expected = torch.tensor(sum(math.log(k) for k in counts))

    batch, model = subject.batch(drawn), subject.fresh(drawn.size).eval()
    with torch.no_grad():
        output = subject.output(model, batch)
    others = _no_choices(output, choices)
    zeros = map_floats(torch.zeros_like, output)
    if others:
        ideal = ideal_output(subject, batch)
        zeros = {**zeros, **{name: ideal[name] for name in others}}
        expected = expected + subject.loss_of(model, ideal, batch.target).detach()
    for training in (False, True):
        model.heads[LABEL].train(training)
        with torch.no_grad():
            loss = subject.loss_of(model, zeros, batch.target)
        difference = float((loss - expected).abs().max())
        found = f"the loss is {numbers(loss)} in {mode_name(training)} mode"
        wanted = float(expected.max())
        within = difference < ROUNDING * max(1, wanted)
        require(within, f"{found}; log({choices}) is {wanted:.4f}")


@LOSS_CHECKS.check(
    "build",
    why="a setting that nothing reads makes two runs look different that are the same.",
    mend="Read the field in views(), build(), the loss, metrics() or draw(). Is a condition "
    "inverted?",
    needs=FINITE,
)
def each_choice_has_an_effect(subject: PretextSubject) -> None:
    """Other values of a bool or a Literal change the views, the target, the head or its loss.

    Those in the middle of a run, momentum copies, metrics and drawings count, too.
    """
    require_effects(subject, _behavior, partial(_behavior, progress=0.5), _further_behavior)


@LOSS_CHECKS.check(
    "randomness",
    why="draws from a global generator depend on other code. Paired and resumed runs then differ.",
    mend="Draw in views(), from rng, and pass the result to the head in the target. Use "
    "nn.Dropout to drop features.",
    needs=STEADY,
    core=True,
)
def training_uses_no_global_generator(subject: PretextSubject, drawn: Drawn) -> None:
    """In train mode, forward and loss use no global generator, apart from dropout."""
    model, batch = subject.fresh(drawn.size), subject.batch(drawn)
    head: Any = model.heads[LABEL]
    features = features_of(model, batch.views)

    def step() -> Tensor:
        return subject.loss_of(model, head(*features), batch.target)

    require_unused(generators_used_in_training(head, step), "the head in train mode")


@NUMERICS_CHECKS.check(
    "numerics",
    why="runs in bf16-mixed would learn something else, or stop with mixed dtypes.",
    mend="Avoid differences of large numbers in forward. Cast to float() before exp, norms and "
    "sums over many entries.",
    needs=STEADY,
)
def bf16_is_close_to_fp32(subject: PretextSubject, drawn: Drawn) -> None:
    """With the forward in bf16 and the loss in fp32, losses are within 5 % of fp32."""
    batch, model = subject.batch(evolve(drawn, samples=8)), subject.model(drawn.size)
    with torch.no_grad():
        exact = subject.loss(model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = subject.loss(model, batch)
    close = (rounded - exact).abs() <= BF16 + BF16 * exact.abs()
    share = float(close.float().mean())
    require(share >= MOST_SAMPLES, f"fp32: {numbers(exact)}; bf16: {numbers(rounded)}")


@NUMERICS_CHECKS.check(
    "numerics",
    why="predictions become confident late in training. An infinite loss then skips every step.",
    mend="Use cross_entropy or binary_cross_entropy_with_logits on logits, not log(softmax(x)).",
    needs=FINITE,
)
def extreme_outputs_give_a_finite_loss(subject: PretextSubject, drawn: Drawn) -> None:
    """Outputs times 10,000 have a finite loss and finite gradients."""
    batch, model = subject.batch(drawn), subject.model(drawn.size)
    with torch.no_grad():
        output = map_floats(lambda x: EXTREME * x, subject.output(model, batch))
    leaves = [x.requires_grad_() for x in floats(output)]
    loss = subject.loss_of(model, output, batch.target)
    require_finite(loss, "the loss")
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
        require_finite([g for g in gradients if g is not None], "the gradient")


# ---------------------------------------------------------------------------------------- helpers


def ideal_output(subject: PretextSubject, batch: PretextBatch) -> Any:
    """The head's perfect output for the batch's target; skips if the head does not define one.

    One class per sample needs no `ideal`: the output is then confident one-hot logits.
    """
    size = batch.augmented.clean.images.shape[-1]
    head, target = subject.head(size), batch.target
    if not tensors(target):
        raise Skip("its views are its target")
    if hasattr(head, "ideal"):
        return head.ideal(target)

    choices = getattr(head, "choices", None)
    one_class = isinstance(target, Tensor) and target.ndim == 1 and target.dtype == torch.int64
    if isinstance(choices, int) and one_class:
        with torch.no_grad():
            output = subject.output(subject.model(size), batch)
        if isinstance(output, Tensor) and output.shape == (len(target), choices):
            return CONFIDENT * F.one_hot(target, choices).to(output)
    raise Skip("its head defines no `ideal` output")


def _no_choices(output: object, choices: object) -> list[str]:
    """The entries of a dict of outputs that are no logits of choices.

    Choices in a dict name their entries. With a number K, entries of K logits are choices.
    """
    if not isinstance(output, Mapping):
        return []
    if isinstance(choices, Mapping):
        others = [name for name in output if name not in choices]
    else:
        others = [name for name, x in output.items() if x.ndim < 2 or x.shape[1] != choices]
    return others if len(others) < len(output) else []


def of_other_samples(task: PretextTask, target: Target, samples: int) -> Target:
    """The target with each sample's entry taken from the previous sample."""
    return task.permute(target, torch.arange(samples).roll(1))


def near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=ROUNDING, atol=ROUNDING)


def numbers(x: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in x.detach().flatten().tolist())


def mode_name(training: bool) -> str:
    return "train" if training else "eval"


def _differing_samples(a: object, b: object) -> Tensor:
    """(B,) bool: True if any leaf differs."""
    pairs = zip(tensors(a), tensors(b))
    return torch.stack([~equal_samples(x, y) for x, y in pairs]).any(0)


@torch.no_grad()
def _behavior(subject: PretextSubject, progress: float = 0.0) -> object:
    """What each choice may change: views, target, the layers of the head, losses."""
    drawn = Drawn(MANY, SIZES[0], 0)
    batch, model = subject.batch(drawn, progress=progress), subject.model(drawn.size)
    rng = drawn.rng("noise")
    output = subject.output(model, batch)
    # Some losses count confident outputs alone.
    noise = map_floats(lambda x: CONFIDENT * rng.randn(*x.shape).to(x), output)
    losses = [subject.loss_of(model, x, batch.target) for x in (output, noise)]
    return batch.images, batch.target, str(subject.head(drawn.size)), losses


@torch.no_grad()
def _further_behavior(subject: PretextSubject) -> object:
    """What else it may change: momentum copies, metrics, drawings."""
    drawn = Drawn(MANY, SIZES[0], 0)
    batch, model = subject.batch(drawn), subject.model(drawn.size)
    output = subject.output(model, batch)
    copies = [m for m in subject.head(drawn.size).modules() if isinstance(m, EMA)]
    momenta = [(copy.momentum, copy.final, copy.batch_stats) for copy in copies]
    metrics = [
        (name, measured(metric, [(output, batch.target)]))
        for name, metric in subject.component.metrics().items()
    ]
    return momenta, metrics, subject.component.draw(batch.images[0], batch.target, output)


@torch.no_grad()
def _losses_of_artificial_outputs(subject: PretextSubject, drawn: Drawn) -> dict[str, Tensor]:
    batch, model = subject.batch(drawn), subject.model(drawn.size)
    output, rng = subject.output(model, batch), drawn.rng("noise")
    fills: dict[str, Callable[[Tensor], Tensor]] = {
        "zeros": torch.zeros_like,
        "ones": torch.ones_like,
        "noise": lambda x: rng.randn(*x.shape).to(x.dtype),
    }
    losses = {}
    for name, fill in fills.items():
        losses[name] = subject.loss_of(model, map_floats(fill, output), batch.target)
    return losses


def _loss_of_zeros(subject: PretextSubject, drawn: Drawn) -> float:
    return float(_losses_of_artificial_outputs(subject, drawn)["zeros"].mean())


@torch.no_grad()
def _noisy_losses(
    subject: PretextSubject, drawn: Drawn, batch: PretextBatch, targets: list[Target]
) -> list[Tensor]:
    """The losses of one output with each target.

    The output gets noise, since a head whose weights start at 0 has the same output for all inputs.
    """
    model, rng = subject.model(drawn.size), drawn.rng("noise")
    clean = subject.output(model, batch)
    output = map_floats(lambda x: x + rng.randn(*x.shape).to(x), clean)
    return [subject.loss_of(model, output, target) for target in targets]
