"""Checks of a task's loss: its shape, its values, its gradient, its precision."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...contracts import AlignedTask, Head
from ...rng import KeyedRng
from ..alternatives import require_effects
from ..generators import (
    generators_used_in_training,
    require_no_global_draws,
    require_unused,
    seeded,
)
from ..kit import Group
from ..requirements import Skip, require, require_finite, require_shape
from ..subject import Drawn, patterns
from ..tracing import trace
from ..trees import cut, floats, map_floats
from .harness import SIZE, TaskSubject, absent, bare_loss, ideal_output, known
from .labels import HEAD

LOSS = "loss_is_one_value_per_sample"
TRIES = 4  # batches: a ReLU may block a gradient in some of them
STEPS = 40
SAMPLES, LABELED = 8, 6
LEFT = 1 / 3  # of a wrong answer's loss. Label smoothing leaves some to the right one

LOSS_CHECKS = Group()
NUMERICS_CHECKS = Group()


@LOSS_CHECKS.check(
    "loss",
    why="the core masks single samples and averages over the whole step.",
    mend='Use reduction="none" and a mean within each sample. Set `coupled = True` if the loss '
    "compares samples.",
    needs=HEAD,
    core=True,
)
def loss_is_one_value_per_sample(subject: TaskSubject, drawn: Drawn) -> None:
    """The loss is (B,), or () of a coupled head, in fp32 and finite."""
    head = subject.head()
    output = head(subject.features(drawn.samples, drawn.seed))
    loss = subject.loss(head, output, subject.truth(drawn.samples, drawn.seed))
    expected = () if head.coupled else (drawn.samples,)
    require_shape(loss, expected, "the loss")
    require(loss.dtype == torch.float32, f"the loss is {loss.dtype}")
    require_finite(loss, "the loss")


@LOSS_CHECKS.check(
    "loss",
    why="absent labels are masked AFTER the loss. NaN there, or in its gradient, ruins the step.",
    mend="Make the loss finite for targets of zeros: clamp norms and logarithms. Replace NaN "
    "points with torch.where before you compute anything from them.",
    needs=LOSS,
    core=True,
)
def unlabeled_samples_give_a_finite_loss(subject: TaskSubject, drawn: Drawn) -> None:
    """With targets of zeros (points: NaN), the loss and its gradient are finite."""
    head = subject.head()
    nothing = absent(subject.truth(drawn.samples, drawn.seed))
    output = head(subject.detached_features(drawn.samples, drawn.seed))
    loss = subject.loss(head, output, nothing)
    require_finite(loss, "the loss of absent labels")
    loss.sum().backward()
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    require_finite(gradients, "its gradient")


@LOSS_CHECKS.check(
    "loss",
    why="one bad batch with large outputs would end the run in NaN.",
    mend="Use losses that take logits. Clamp before logarithms, square roots and divisions.",
    needs=LOSS,
)
def extreme_outputs_give_a_finite_loss(subject: TaskSubject) -> None:
    """Outputs times 10,000, -10,000 or 0 have a finite loss and a finite gradient."""
    head, target = subject.head(), subject.truth(4)
    output = head(subject.detached_features(4))
    for factor in (1e4, -1e4, 0.0):
        scaled = tree_map(lambda x, by=factor: (x * by).detach().requires_grad_(), output)
        loss = subject.loss(head, scaled, target)
        require_finite(loss, f"the loss of outputs times {factor:g}")
        loss.sum().backward()
        gradients = [x.grad for x in floats(scaled) if x.grad is not None]
        require_finite(gradients, f"the gradient of outputs times {factor:g}")


@LOSS_CHECKS.check(
    "loss",
    why="ranks and micro-batches split the batch, and the result must not depend on the split.",
    mend="Use no statistics over samples in the loss, or set `coupled = True`.",
    needs=LOSS,
    core=True,
)
def loss_of_a_sample_depends_on_it_alone(subject: TaskSubject, drawn: Drawn) -> None:
    """Each sample has the same loss alone and in a batch, unless the head is coupled."""
    head = subject.head()
    if head.coupled:
        raise Skip("its head is coupled: its loss compares samples")
    output = head(subject.detached_features(drawn.samples, drawn.seed))
    target = subject.truth(drawn.samples, drawn.seed)
    together = subject.loss(head, output, target).detach()
    for i in range(drawn.samples):
        sample = slice(i, i + 1)
        alone = float(subject.loss(head, cut(output, sample), target[sample]).detach())
        found = f"sample {i}: {float(together[i]):.5g} in the batch, {alone:.5g} alone"
        require(_is_near(float(together[i]), alone), found)


@LOSS_CHECKS.check(
    "loss",
    why="samples without a label have the share 0. Counted, they teach targets of zeros.",
    mend="Weight each sample by `share`, and divide by the sum of the weights. Use torch.where, "
    "and not a product, where the loss of a sample without a label may be infinite.",
    needs=LOSS,
    core=True,
)
def shares_weight_the_samples_of_a_coupled_loss(subject: TaskSubject) -> None:
    """In a coupled loss, samples with the share 0 change nothing; other shares are weights."""
    head = subject.head()
    if not head.coupled:
        raise Skip("its head is not coupled: the core weights the losses of the samples")
    output, target = _noisy_output(subject, head, SAMPLES), subject.truth(SAMPLES)
    labeled = slice(LABELED)
    share = (torch.arange(SAMPLES) < LABELED).float()

    def loss(output: Any, target: Tensor, share: Tensor) -> float:
        return float(subject.loss(head, output, target, share).detach())

    alone = loss(cut(output, labeled), target[labeled], share[labeled])
    without_labels = torch.cat([target[labeled], absent(target[LABELED:])])
    equal = {
        "with samples of share 0": loss(output, target, share),
        "with absent labels of share 0": loss(output, without_labels, share),
        "with half of each share": loss(cut(output, labeled), target[labeled], share[labeled] / 2),
    }
    for when, found in equal.items():
        require(_is_near(found, alone), f"the loss is {alone:.5g}, and {found:.5g} {when}")
    weights = torch.linspace(0.1, 1, LABELED)
    weighted = loss(cut(output, labeled), target[labeled], weights)
    require(not _is_near(weighted, alone), f"the loss is {alone:.5g} with any shares above 0")


@LOSS_CHECKS.check(
    "loss",
    why="training minimizes the loss. If the truth is not lowest, it learns something else.",
    mend="Check signs, the order of (output, target), and what `ideal` returns.",
    needs=LOSS,
)
def true_target_has_the_lowest_loss(subject: TaskSubject) -> None:
    """The `ideal` output loses at most a third of what other samples' truths lose."""
    head, target = subject.head(), subject.truth(32)
    output, other = (known(ideal_output(head, truth)) for truth in (target, target.flip(0)))
    right = subject.loss(head, output, target).mean().item()
    wrong = subject.loss(head, other, target).mean().item()
    found = f"the loss is {right:.4g} for the truth, {wrong:.4g} for other samples' truths"
    require(right < wrong, found)
    require(right <= LEFT * wrong, f"{found}: a part of it does not depend on the output")


@LOSS_CHECKS.check(
    "loss",
    why="class weights with another mean, or a sum, multiply the learning rate of the task.",
    mend="Take the mean within each sample, and scale class weights so that their mean over the "
    "training samples is 1.",
    needs=LOSS,
)
def equal_logits_give_log_choices(subject: TaskSubject) -> None:
    """All-zero logits of K choices have a mean loss of log(K) on the samples of `fit`."""
    head = subject.head()
    choices = getattr(head, "choices", None)
    if not isinstance(choices, int):
        raise Skip("its head has no number of `choices`")
    target = subject.fitted_targets()
    with torch.no_grad():
        zeros = map_floats(torch.zeros_like, head(subject.features(len(target))))
        loss = float(subject.loss(head, zeros, target).mean())
    expected = math.log(choices)
    within = abs(loss - expected) < 1e-3 * max(1, expected)
    require(within, f"it is {loss:.4f}; log({choices}) is {expected:.4f}")


@LOSS_CHECKS.check(
    "build",
    why="a setting that nothing reads makes two runs look different that are the same.",
    mend="Read the field in fit(), target(), move(), build(), the loss, decode(), average(), "
    "metrics() or what makes the answers. Is a condition inverted?",
    needs=LOSS,
)
def each_choice_has_an_effect(subject: TaskSubject) -> None:
    """Other values of a bool or a Literal change targets, the head, its loss or what it decodes.

    Moved targets, averages, metrics, answers and drawings count, too.
    """
    require_effects(subject, _behavior, _further_behavior)


@LOSS_CHECKS.check(
    "loss",
    why="a head that cannot learn a single batch learns nothing.",
    mend="Check the sign of the loss, and that the output depends on the head's parameters.",
    needs=LOSS,
)
def loss_falls_in_training(subject: TaskSubject) -> None:
    """Forty steps of the head on one batch reduce its loss."""
    head, features, target = subject.head(), subject.detached_features(8), subject.truth(8)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = subject.loss(head, head(features), target).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    require(losses[-1] < losses[0], f"it goes from {losses[0]:.4g} to {losses[-1]:.4g}")


@LOSS_CHECKS.check(
    "gradient",
    why="the shared encoder learns nothing from a task without a gradient.",
    mend="Do not detach features, and compute the loss from the head's output.",
    needs=LOSS,
    core=True,
)
def gradient_reaches_encoder_and_head(subject: TaskSubject) -> None:
    """In some batch, the encoder and each parameter of the head have a gradient other than 0."""
    head, encoder = subject.head(), subject.encoder
    reached = False
    idle = [name for name, p in head.named_parameters() if p.requires_grad]
    for seed in range(TRIES):
        encoder.zero_grad()
        head.zero_grad()
        output = head(subject.features(8, seed))
        subject.loss(head, output, subject.truth(8, seed)).mean().backward()
        reached |= any(map(_has_gradient, encoder.parameters()))
        weights = dict(head.named_parameters())
        idle = [name for name in idle if not _has_gradient(weights[name])]
    require(reached, "no gradient reaches the encoder")
    require(not idle, f"no gradient reaches {', '.join(idle)} of the head")


@NUMERICS_CHECKS.check(
    "randomness",
    why="draws are keyed by (seed, step). Draws from a global generator cannot be repeated.",
    mend="Draw nothing. Dropout in train mode is the only exception.",
    needs=LOSS,
    core=True,
)
def leaves_global_generators_alone(subject: TaskSubject) -> None:
    """fit, target, move, head, loss and decode use no global generator, apart from dropout."""
    head, features = subject.head(), subject.detached_features(4)
    target, task = subject.truth(4), subject.task

    def loss() -> Tensor:
        return subject.loss(head, head(features), target)

    if not subject.is_aligned:
        annotation = subject.annotation()
        require_no_global_draws(lambda: subject.component.fit(annotation), "fit")
        require_no_global_draws(lambda: task.target(annotation), "target")
    require_no_global_draws(lambda: task.move(target, subject.movement(4, 30)), "move")
    require_no_global_draws(lambda: task.decode(head(features)), "the head in eval mode")
    require_no_global_draws(loss, "the loss")
    require_unused(generators_used_in_training(head, loss), "the head or its loss in train mode")


@NUMERICS_CHECKS.check(
    "numerics",
    why='with train.precision = "bf16-mixed" the task would learn something else.',
    mend="Compute small differences of large numbers in fp32.",
    needs=LOSS,
    capability="bf16",
)
def bf16_is_close_to_fp32(subject: TaskSubject) -> None:
    """With the head under bf16 autocast, the mean loss is within 5 % of fp32."""
    head, features, target = subject.head(), subject.detached_features(8), subject.truth(8)
    exact = subject.loss(head, head(features), target).mean().item()
    with torch.autocast("cpu", torch.bfloat16), seeded(0):
        rounded = subject.loss(head, head(features), target).mean().item()
    within = abs(rounded - exact) <= 0.05 * max(abs(exact), 0.05)
    require(within, f"fp32: {exact:.4g}; bf16: {rounded:.4g}")


@NUMERICS_CHECKS.check(
    "speed",
    why="with train.compile, a graph break costs speed.",
    mend="Do not let Python decide by values of tensors: no .item(), no `if` on a tensor.",
    needs=LOSS,
    capability="compiles",
)
def traces_as_one_graph(subject: TaskSubject) -> None:
    """torch.compile(fullgraph=True) traces the head and its loss."""
    head, features, target = subject.head(), subject.detached_features(4), subject.truth(4)

    def step(features: Any, target: Tensor) -> Tensor:
        return bare_loss(head, head(features), target)

    traced = trace(step, features, target)
    exact = subject.loss(head, head(features), target)
    same = torch.allclose(traced, exact, rtol=1e-3, atol=1e-4)
    require(same, "the traced loss differs")


@torch.no_grad()
def _noisy_output(subject: TaskSubject, head: Head, samples: int) -> Any:
    """Outputs that differ: a head whose weights start at 0 has the same output for all inputs."""
    rng = KeyedRng((0,))("noise")
    output = head(subject.features(samples))
    return map_floats(lambda x: x + rng.randn(*x.shape).to(x), output)


def _is_near(found: float, wanted: float) -> bool:
    return abs(found - wanted) <= 1e-4 * (1 + abs(wanted))


@torch.no_grad()
def _behavior(subject: TaskSubject) -> object:
    """What each choice may change: targets, the layers of the head, its losses, predictions."""
    head, target = subject.head(), subject.fitted_targets()
    output = head(subject.features(len(target)))
    return target, str(head), subject.loss(head, output, target), subject.task.decode(output)


@torch.no_grad()
def _further_behavior(subject: TaskSubject) -> object:
    """What else it may change: moved targets, averages, metrics, answers, drawings."""
    task, target = subject.task, subject.fitted_targets()
    decoded = task.decode(subject.head()(subject.features(len(target))))
    moved = task.move(target, subject.movement(len(target), 30, mirrored=True))
    mirrored = decoded.flip(0)
    if isinstance(task, AlignedTask):
        mirrored = task.mirror_back(mirrored, (SIZE, SIZE))
    average = task.average(decoded, mirrored)
    scores = list(subject.scores(decoded, target).items())  # the first one is the main metric
    image = patterns(1, subject.drawing_size, 0)[0].float() / 255
    # As text: of a map they are a thousand numbers, each of which would be a leaf of the tree.
    answers = str(task.answer(decoded[:2])), str(task.as_annotation(decoded[:2]).tolist())
    return moved, average, scores, answers, task.draw(image, decoded[0])


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())
