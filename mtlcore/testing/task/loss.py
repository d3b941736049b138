"""Checks of a task's loss: its shape, its gradient, its numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..generators import seeded, touched
from ..kit import Group, Skip, require
from ..pretext.harness import cut, floats, require_finite
from ..subject import Drawn
from ..tracing import trace
from ..training_draws import drawn_in_training
from .harness import TaskSubject, ideal_output

TRIES = 4  # batches over which every gradient must have been seen once: a ReLU may hold one back


LOSS_CHECKS = Group()


@LOSS_CHECKS.check(
    "loss",
    why="samples are masked and averaged over the whole step by the core: it needs one value of each.",
    mend='use reduction="none" and mean over what one sample holds; set `coupled = True` where samples are judged together.',
    needs="head_keeps_no_encoder",
    core=True,
)
def loss_is_one_value_a_sample(subject: TaskSubject, drawn: Drawn) -> None:
    """The loss is (B,), or () of a coupled head, in fp32, and finite."""
    head = subject.head()
    loss = subject.compute_losses(
        head,
        head(subject.features(drawn.samples, drawn.seed)),
        subject.truth(drawn.samples, drawn.seed),
    )
    expected = () if head.coupled else (drawn.samples,)
    require(loss.shape == expected, f"the loss is {tuple(loss.shape)}; expected {expected}")
    require(loss.dtype == torch.float32, f"the loss is {loss.dtype}")
    require_finite(loss, "the loss")


@LOSS_CHECKS.check(
    "loss",
    why="samples without a label are masked AFTER the loss: a NaN there, or in its gradient, spoils the step.",
    mend="let the loss be finite at a target of zeros: clamp norms and logarithms.",
    needs="loss_is_one_value_a_sample",
    core=True,
)
def unlabeled_samples_give_a_finite_loss(subject: TaskSubject, drawn: Drawn) -> None:
    """With targets of zeros, the loss and its gradient are finite."""
    head, target = subject.head(), torch.zeros_like(subject.truth(drawn.samples, drawn.seed))
    loss = subject.compute_losses(head, head(subject.fixed(drawn.samples, drawn.seed)), target)
    require_finite(loss, "the loss of targets of zeros")
    loss.sum().backward()
    require_finite([p.grad for p in head.parameters() if p.grad is not None], "its gradient")


@LOSS_CHECKS.check(
    "loss",
    why="one bad batch with large outputs would end the run in NaN.",
    mend="use the losses that take logits; clamp before logarithms, square roots and divisions.",
    needs="loss_is_one_value_a_sample",
)
def extreme_outputs_give_a_finite_loss(subject: TaskSubject) -> None:
    """With outputs 10,000 times as large, or all zero, the loss and its gradient are finite."""
    head, target = subject.head(), subject.truth(4)
    output = head(subject.fixed(4))
    for factor in (1e4, -1e4, 0.0):
        large = tree_map(lambda x, by=factor: (x * by).detach().requires_grad_(), output)
        loss = subject.compute_losses(head, large, target)
        require_finite(loss, f"outputs times {factor:g}: the loss")
        loss.sum().backward()
        require_finite(
            [x.grad for x in floats(large) if x.grad is not None],
            f"outputs times {factor:g}: the gradient",
        )


@LOSS_CHECKS.check(
    "loss",
    why="ranks and micro-batches cut the batch: the step would hang on how.",
    mend="use no statistics over samples in the loss, or set `coupled = True`.",
    needs="loss_is_one_value_a_sample",
    core=True,
)
def a_sample_s_loss_is_its_own(subject: TaskSubject, drawn: Drawn) -> None:
    """Each sample's loss is the one that it has alone in a batch, unless the head is coupled."""
    head = subject.head()
    if head.coupled:
        raise Skip("its samples are judged together, and it says so")
    output, target = (
        head(subject.fixed(drawn.samples, drawn.seed)),
        subject.truth(drawn.samples, drawn.seed),
    )
    together = subject.compute_losses(head, output, target)
    for i in range(drawn.samples):
        alone = subject.compute_losses(head, cut(output, slice(i, i + 1)), target[i : i + 1])
        apart = abs(float((alone - together[i]).detach()))
        require(
            apart <= 1e-4 * (1 + abs(alone.item())),
            f"sample {i}: {together[i].item():.5g}, alone {alone.item():.5g}",
        )


@LOSS_CHECKS.check(
    "loss",
    why="training goes where the loss is low: away from the truth, if it is lower elsewhere.",
    mend="look at signs, at the order of (output, target), and at what `ideal` gives.",
    needs="loss_is_one_value_a_sample",
)
def loss_is_lowest_at_the_truth(subject: TaskSubject) -> None:
    """The head's `ideal` output for the truth loses less than that for other samples' truths."""
    head, target = subject.head(), subject.truth(32)
    ideal = ideal_output(head, target)
    wrong = ideal_output(head, target.flip(0))
    right, other = (
        float(subject.compute_losses(head, output, target).mean()) for output in (ideal, wrong)
    )
    require(right < other, f"the truth loses {right:.4g}, other samples' truths {other:.4g}")


@LOSS_CHECKS.check(
    "loss",
    why="what does not learn one batch by heart learns nothing.",
    mend="look at the sign of the loss, and that the output hangs on the head's parameters.",
    needs="loss_is_one_value_a_sample",
)
def loss_falls_in_training(subject: TaskSubject) -> None:
    """Forty steps of the head alone on one batch make its loss smaller."""
    head, features, target = subject.head(), subject.fixed(8), subject.truth(8)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = subject.compute_losses(head, head(features), target).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    require(losses[-1] < losses[0], f"{losses[0]:.4g} becomes {losses[-1]:.4g}")


@LOSS_CHECKS.check(
    "gradient",
    why="the shared encoder learns nothing from a task whose gradient does not reach it.",
    mend="detach nothing of the features, and compute the loss of the output that the head gave.",
    needs="loss_is_one_value_a_sample",
    core=True,
)
def gradient_reaches_encoder_and_head(subject: TaskSubject) -> None:
    """The loss's gradient, other than 0 in one of a few batches, reaches the encoder and every parameter of the head."""
    head, encoder = subject.head(), subject.encoder
    reached, idle = False, [name for name, p in head.named_parameters() if p.requires_grad]
    for seed in range(TRIES):
        encoder.zero_grad()
        head.zero_grad()
        subject.compute_losses(
            head, head(subject.features(8, seed)), subject.truth(8, seed)
        ).mean().backward()
        reached |= any(p.grad is not None and bool(p.grad.any()) for p in encoder.parameters())
        gradients = {name: p.grad for name, p in head.named_parameters()}
        idle = [name for name in idle if (g := gradients[name]) is None or not bool(g.any())]
    require(reached, "it does not reach the encoder")
    require(not idle, f"it does not reach {', '.join(idle)} of the head")


NUMERICS_CHECKS = Group()


@NUMERICS_CHECKS.check(
    "randomness",
    why="all draws are keyed by (seed, step): a task that draws from a global generator can't be repeated.",
    mend="draw nothing; dropout, in train mode, is the only exception.",
    needs="loss_is_one_value_a_sample",
    core=True,
)
def leaves_global_generators_alone(subject: TaskSubject) -> None:
    """fit, target, move, head and loss in both modes (dropout apart), and decode draw from no global generator."""
    head, features, annotation = subject.head(), subject.fixed(4), subject.annotation()
    target, task = subject.truth(4), subject.task

    def answer() -> Any:
        return task.decode(head(features))

    calls = {
        "fit": lambda: subject.component.fit(annotation),
        "target": lambda: task.target(annotation),
        "move": lambda: task.move(target, subject.movement(4, 30)),
        "the head in eval mode": answer,
        "the loss": lambda: subject.compute_losses(head, head(features), target),
    }
    for name, call in calls.items():
        found = touched(call)
        require(not found, f"{name} draws from {', '.join(found)}")
    found = drawn_in_training(head, lambda: subject.compute_losses(head, head(features), target))
    require(not found, f"in train mode, head or loss draw from {', '.join(found)}")


@NUMERICS_CHECKS.check(
    "numerics",
    why='with train.precision = "bf16-mixed" the task would learn something else than in fp32.',
    mend="keep small differences of large numbers in fp32.",
    needs="loss_is_one_value_a_sample",
    capability="bf16",
)
def bf16_agrees(subject: TaskSubject) -> None:
    """With the head under bf16 autocast, the mean loss is within 5 % of that of fp32."""
    head, features, target = subject.head(), subject.fixed(8), subject.truth(8)
    exact = float(subject.compute_losses(head, head(features), target).mean())
    with torch.autocast("cpu", torch.bfloat16), seeded(0):
        rounded = float(subject.compute_losses(head, head(features), target).mean())
    require(
        abs(rounded - exact) <= 0.05 * max(abs(exact), 0.05), f"{exact:.4g} becomes {rounded:.4g}"
    )


@NUMERICS_CHECKS.check(
    "speed",
    why="with train.compile a graph that breaks costs its speed.",
    mend="let Python decide nothing by the values of tensors: no .item(), no `if` on a tensor.",
    needs="loss_is_one_value_a_sample",
    capability="compiles",
)
def traces_as_one_graph(subject: TaskSubject) -> None:
    """torch.compile(fullgraph=True) takes the head and its loss."""
    head, features, target = subject.head(), subject.fixed(4), subject.truth(4)

    def step(features: Any, target: Tensor) -> Tensor:
        return subject.compute_losses(head, head(features), target)

    def bare(features: Any, target: Tensor) -> Tensor:
        loss: Tensor = head.loss(
            head(features), target, *([torch.ones(len(target))] if head.coupled else [])
        )
        return loss

    loss = trace(bare, features, target)
    require(
        torch.allclose(loss, step(features, target), rtol=1e-3, atol=1e-4),
        "the traced loss differs",
    )
