"""Checks of how a pretext's head answers and judges: the head itself, its loss, and what precision does to it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ...contracts import Head, PretextTask, Target
from ..generators import seeded
from ..kit import Group, Skip, require
from ..subject import Drawn
from .harness import (
    LABEL,
    Asked,
    PretextSubject,
    floats,
    harness_context,
    require_finite,
    same,
    tensors,
)
from .views import TWICE

HEAD, LOSS, STEADY = (
    "head_keeps_no_shared_network",
    "loss_has_one_value_a_sample",
    "loss_is_the_same_twice",
)
ROUNDING = 1e-4
EXTREME = 1e4
BF16 = 0.05  # relative, and absolute: what eight bits of mantissa do to a loss
MOST_SAMPLES = 0.75  # of them must be so close: a threshold may tip over in a few
BATCHES, MANY = 4, 8  # and their samples: targets of a few classes may be alike in one
SURE = 20.0  # a logit so much above the others is an answer without doubt
SIDES, SAMPLES = (32, 96), 4  # pixels, images
GROWTH, SLACK = 2.0, 1e-3  # a sum over one axis alone would make it three times as large


HEAD_CHECKS = Group()


@HEAD_CHECKS.check(
    "build",
    why="without a head the views are encoded for nothing.",
    mend="let build(context) return a subclass of mtlcore.Head, made for context.info.",
    needs="builds_from_its_name",
    core=True,
)
def builds_a_head(subject: PretextSubject) -> None:
    """build(context) gives a Head for the encoder that the host describes."""
    require(isinstance(subject.built, Head), f"it gives a {type(subject.built).__name__}")


@HEAD_CHECKS.check(
    "build",
    why="its weights would be saved twice, moved twice by the optimizer, and taken for the head's own.",
    mend="keep context.info; EMA(context.encoder) for a momentum copy; SharedHead(context.heads[label]) for a shared head.",
    needs="builds_a_head",
    core=True,
)
def head_keeps_no_shared_network(subject: PretextSubject) -> None:
    """Neither the shared encoder nor a shared head is a part of the head, nor are their weights."""
    with seeded(0):
        context = harness_context()
        head = subject.component.build(context)
    for name, net in {"the shared encoder": context.encoder, **context.heads}.items():
        shared = {id(t) for t in (*net.parameters(), *net.buffers())} & _ids(head)
        require(not shared, f"{len(shared)} tensors of {name} are the head's own")


LOSS_CHECKS = Group()


@LOSS_CHECKS.check(
    "loss",
    why="the core masks and weighs samples one by one, in fp32; a mean over the batch counts absent samples.",
    mend='reduction="none", then a mean over what ONE sample holds; `coupled = True` where samples are judged together. '
    "Outputs arrive in fp32: the core casts floats, so a loss of another type was made so in `loss` itself.",
    needs=("targets_are_valid", HEAD),
    core=True,
)
def loss_has_one_value_a_sample(subject: PretextSubject, drawn: Drawn) -> None:
    """The loss of a real answer is (B,), or () of a coupled head, in fp32 and finite."""
    asked, model = subject.ask(drawn), subject.model(drawn.size)
    with torch.no_grad():
        loss = subject.loss(model, asked)
    expected = () if subject.built.coupled else (drawn.samples,)
    require(isinstance(loss, Tensor), f"the loss is a {type(loss).__name__}")
    require(
        tuple(loss.shape) == expected,
        f"the loss has the shape {tuple(loss.shape)}; expected {expected}",
    )
    require(loss.dtype == torch.float32, f"the loss is {loss.dtype}")
    require_finite(loss, "the loss")


@LOSS_CHECKS.check(
    "loss",
    why="evaluation draws nothing: a loss that differs from call to call can't be compared between runs.",
    mend="draw in views(), from rng; F.dropout(x, p, training=self.training), or nn.Dropout.",
    needs=(LOSS, TWICE),
    core=True,
)
def loss_is_the_same_twice(subject: PretextSubject, drawn: Drawn) -> None:
    """In eval mode the same question gets the same answer and the same loss."""
    asked, model = subject.ask(drawn), subject.model(drawn.size)
    with torch.no_grad():
        one, two = subject.forward_heads(model, asked), subject.forward_heads(model, asked)
        require(same(one, two), "the answers differ")
        losses = [subject.compute_losses(model, one, asked.target) for _ in range(2)]
    require(same(*losses), "the losses of one answer differ")


@LOSS_CHECKS.check(
    "loss",
    why="one NaN skips the whole step, of all tasks.",
    mend="clamp or add a small number before log, sqrt and divisions.",
    needs=STEADY,
)
def loss_is_finite(subject: PretextSubject, drawn: Drawn) -> None:
    """Answers of zeros, of ones and of noise have finite losses."""
    for name, loss in _losses_of_made_up_answers(subject, drawn).items():
        require_finite(loss, f"the loss of {name}")


@LOSS_CHECKS.check(
    "loss",
    why="a loss that does not look at the target teaches the same whatever is asked: the questions are there for nothing.",
    mend="compare the output with the target that loss() is given; does a mask, a constant or a detach() take its place?",
    needs=STEADY,
)
def loss_hangs_on_the_target(subject: PretextSubject) -> None:
    """Samples differ in their targets, and judged by another sample's, an answer loses something else (in one of a few batches)."""
    varied = differed = changed = torch.zeros(MANY, dtype=torch.bool)
    for seed in range(BATCHES):
        asked = subject.ask(drawn := Drawn(MANY, 32, seed))
        if not tensors(asked.target):
            raise Skip("its views are its target")
        wrong = of_other_samples(subject.component, asked.target, MANY)
        right, other = _noisy_losses(subject, drawn, asked, [asked.target, wrong])
        varied = varied | _differing_samples(
            asked.target, tree_map(lambda x: x.roll(1, 0), asked.target), MANY
        )
        differed = differed | _differing_samples(asked.target, wrong, MANY)
        changed = changed | (right != other)  # of a coupled head: one value for all
    require(
        bool(varied.any()),
        f"in {BATCHES} batches of {MANY} samples all samples have the same target",
    )
    if not bool(differed.any()):
        raise Skip("permuted, its targets are what they were")
    idle = (differed & ~changed).nonzero().flatten().tolist()
    require(not idle, f"whatever the target says, the samples {idle} of {MANY} lose the same")


@LOSS_CHECKS.check(
    "loss",
    why="a sum over pixels or patches grows with input.size: the same weight would mean another task at another size.",
    mend="take the mean over what one sample holds: .mean((1, 2, 3)), or the masked sum divided by the mask's own sum.",
    needs="loss_is_finite",
)
def loss_does_not_grow_with_the_image(subject: PretextSubject) -> None:
    """Answers of zeros lose about the same (a factor of two at most) in images of three times the side."""
    small, large = (
        float(_losses_of_made_up_answers(subject, Drawn(SAMPLES, side, 0))["zeros"].mean())
        for side in SIDES
    )
    held = abs(large) <= GROWTH * abs(small) + SLACK and abs(small) <= GROWTH * abs(large) + SLACK
    require(held, f"they lose {small:.4g} at {SIDES[0]} pixels, {large:.4g} at {SIDES[1]}")


@LOSS_CHECKS.check(
    "loss",
    why="training goes downhill: if the truth is no lower, something else than the truth is learned.",
    mend="compare `ideal`, `loss` and the order of the target's entries; is a sign or an axis swapped?",
    needs="loss_hangs_on_the_target",
)
def truth_loses_least(subject: PretextSubject, drawn: Drawn) -> None:
    """`ideal(target)`, or of a K-way question its one-hot logits, loses less by its own target than by another sample's."""
    asked, model = subject.ask(drawn), subject.model(drawn.size)
    ideal = ideal_answer(subject, asked)
    wrong = of_other_samples(subject.component, asked.target, drawn.samples)
    right, other = (subject.compute_losses(model, ideal, t) for t in (asked.target, wrong))
    differs = _differing_samples(asked.target, wrong, drawn.samples)
    if right.ndim == 0:
        differs = differs.any()
    held = torch.where(differs, right < other, True)
    require(bool(held.all()), f"the truth loses {numbers(right)}, a wrong answer {numbers(other)}")


@LOSS_CHECKS.check(
    "loss",
    why="a sum over tiles or pixels makes the loss, and so the learning rate, as many times larger.",
    mend="take the mean over what one sample holds; cross-entropy on raw logits, softmax not applied before.",
    needs="loss_is_finite",
)
def equal_logits_lose_log_choices(subject: PretextSubject, drawn: Drawn) -> None:
    """All-zero logits of a K-way question lose log(K), in both modes; of several at once, the sum of their logs."""
    choices = getattr(subject.built, "choices", None)
    if choices is None:
        raise Skip("its head has no `choices`")
    asked, model = subject.ask(drawn), subject.fresh(drawn.size).eval()
    expected = sum(
        math.log(k) for k in (choices.values() if isinstance(choices, dict) else [choices])
    )
    with torch.no_grad():
        zeros = _floats_mapped(torch.zeros_like, subject.forward_heads(model, asked))
    for mode in (False, True):
        model.heads[LABEL].train(mode)
        with torch.no_grad():
            loss = subject.compute_losses(model, zeros, asked.target)
        off = float((loss - expected).abs().max())
        said = f"in {'train' if mode else 'eval'} mode they lose {numbers(loss)}; log({choices}) is {expected:.4f}"
        require(off < ROUNDING * max(1, expected), said)


NUMERICS_CHECKS = Group()


@NUMERICS_CHECKS.check(
    "numerics",
    why="runs in bf16-mixed would learn something else, or stop at a torch_version_hint of dtypes.",
    mend="no differences of large numbers in forward; cast to float() before exp, norms and sums over many entries.",
    needs=STEADY,
)
def bf16_is_close_to_fp32(subject: PretextSubject, drawn: Drawn) -> None:
    """With the forward in bf16 and the loss in fp32, as a step takes them, losses are within 5 % of fp32's."""
    asked, model = subject.ask(evolve(drawn, samples=8)), subject.model(drawn.size)
    with torch.no_grad():
        exact = subject.loss(model, asked)
        with torch.autocast("cpu", torch.bfloat16):
            rough = subject.loss(model, asked)
    close = (rough - exact).abs() <= BF16 + BF16 * exact.abs()
    require(
        float(close.float().mean()) >= MOST_SAMPLES, f"fp32 {numbers(exact)}, bf16 {numbers(rough)}"
    )


@NUMERICS_CHECKS.check(
    "numerics",
    why="confident answers come late in training: a loss that then is infinite skips every step.",
    mend="cross_entropy and binary_cross_entropy_with_logits on logits, not log(softmax(x)).",
    needs="loss_is_finite",
)
def extreme_answers_stay_finite(subject: PretextSubject, drawn: Drawn) -> None:
    """Answers ten thousand times as large have a finite loss and finite gradients."""
    asked, model = subject.ask(drawn), subject.model(drawn.size)
    with torch.no_grad():
        output = _floats_mapped(lambda x: EXTREME * x, subject.forward_heads(model, asked))
    leaves = [x.requires_grad_() for x in floats(output)]
    loss = subject.compute_losses(model, output, asked.target)
    require_finite(loss, "the loss")
    if loss.requires_grad:
        grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
        require_finite([g for g in grads if g is not None], "the gradient")


# ---------------------------------------------------------------------------------------------------- helpers


def _ids(net: nn.Module) -> set[int]:
    return {id(t) for t in (*net.parameters(), *net.buffers())}


def _floats_mapped(fn: Any, tree: Any) -> Any:
    return tree_map(lambda x: fn(x) if isinstance(x, Tensor) and x.is_floating_point() else x, tree)


@torch.no_grad()
def _losses_of_made_up_answers(subject: PretextSubject, drawn: Drawn) -> dict[str, Tensor]:
    asked, model = subject.ask(drawn), subject.model(drawn.size)
    output, rng = subject.forward_heads(model, asked), drawn.rng("noise")
    made = {
        "zeros": torch.zeros_like,
        "ones": torch.ones_like,
        "noise": lambda x: rng.randn(*x.shape).to(x.dtype),
    }
    return {
        name: subject.compute_losses(model, _floats_mapped(fn, output), asked.target)
        for name, fn in made.items()
    }


@torch.no_grad()
def _noisy_losses(
    subject: PretextSubject, drawn: Drawn, asked: Asked, targets: list[Target]
) -> list[Tensor]:
    """What one answer loses by each target. Noise is added: a head whose weights begin at 0 answers the same to all."""
    model, rng = subject.model(drawn.size), drawn.rng("noise")
    output = _floats_mapped(
        lambda x: x + rng.randn(*x.shape).to(x), subject.forward_heads(model, asked)
    )
    return [subject.compute_losses(model, output, target) for target in targets]


def ideal_answer(subject: PretextSubject, asked: Asked, target: Target = None) -> Any:
    """What the head calls a perfect answer to this target (default: the right one). Skips where it has no word for it."""
    size = asked.augmented.clean.images.shape[-1]
    head, target = subject.head(size), asked.target if target is None else target
    if not tensors(target):
        raise Skip("its views are its target")
    if hasattr(head, "ideal"):
        return head.ideal(target)
    choices, one_class_a_sample = (
        getattr(head, "choices", None),
        isinstance(target, Tensor) and target.ndim == 1,
    )
    if isinstance(choices, int) and one_class_a_sample and target.dtype == torch.int64:
        with torch.no_grad():
            output = subject.forward_heads(subject.model(size), asked)
        if isinstance(output, Tensor) and output.shape == (len(target), choices):
            return SURE * F.one_hot(target, choices).to(output)
    raise Skip("its head knows no `ideal` answer")


def of_other_samples(task: PretextTask, target: Target, samples: int) -> Target:
    return task.permute(target, torch.arange(samples).roll(1))


def _differing_samples(a: Any, b: Any, samples: int) -> Tensor:
    """(B,) bool: where any leaf differs."""
    pairs = zip(tensors(a), tensors(b))
    return torch.stack([(x != y).reshape(samples, -1).any(1) for x, y in pairs]).any(0)


def near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=ROUNDING, atol=ROUNDING)


def numbers(x: Tensor) -> str:
    return ", ".join(f"{v:.4g}" for v in x.detach().flatten().tolist())
