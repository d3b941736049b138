"""Checks that every view, every output and every question takes part in the training.

A head is called on features without history (leaves of the graph), so that gradients show what each
of its outputs reads. Its weights are moved first: new ones may be 0.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from ...contracts import Features
from ..kit import Group
from ..requirements import Skip, require
from ..subject import Drawn
from ..trees import equal, floats, map_floats, named_floats, tensors
from .gradients import ENCODER, HEAD
from .harness import LABEL, PretextBatch, PretextSubject, features_of, perturb_weights
from .loss import STEADY
from .targets import is_mask

TRIES = 6  # batches: a threshold or a ReLU may block a gradient in some of them
SAMPLES = 8
LEAST_REACH = 3e-4  # of shipped heads it is 0.005 to 9
MOST_COLUMNS = 32

OUTPUTS_CHECKS = Group()


@OUTPUTS_CHECKS.check(
    "gradient",
    why="a question that is detached from the encoder, or reads next to nothing of it, teaches it "
    "nothing, though its loss may fall.",
    mend="Use no detach(), no no_grad() and no tiny factors between features and outputs. Do not "
    "compute outputs from `features.images`, which are no features. Compute the outputs of a "
    "teacher under no_grad(), so that they have no gradient at all.",
    needs=(ENCODER, HEAD),
    core=True,
)
def every_output_reaches_the_encoder(subject: PretextSubject) -> None:
    """Each output with a gradient has one at the features, and not a negligible one."""
    strongest: dict[str, float] = {}
    for seed in range(TRIES):
        for name, reach in _reach(_Outputs.of(subject, seed)).items():
            strongest[name] = max(reach, strongest.get(name, 0.0))
        if all(reach >= LEAST_REACH for reach in strongest.values()):
            return
    weak = [f"{name} ({reach:.1g})" for name, reach in strongest.items() if reach < LEAST_REACH]
    require(not weak, f"relative to the output, the gradient is too small: {', '.join(weak[:5])}")


@OUTPUTS_CHECKS.check(
    "gradient",
    why="a view that no output reads is encoded for nothing. An output that the loss leaves out "
    "is never trained.",
    mend="Compare the views with the arguments of forward, and the outputs with those that `loss` "
    "reads. Is one of them used twice?",
    needs=(ENCODER, HEAD),
    core=True,
)
def every_view_and_output_counts(subject: PretextSubject) -> None:
    """Features of each view change an output, and each output of trained weights the loss."""
    idle = set(_without_effect(_Outputs.of(subject, 0)))
    for seed in range(1, TRIES):
        if not idle:
            return
        idle &= set(_without_effect(_Outputs.of(subject, seed)))
    require(not idle, f"without any effect: {', '.join(sorted(idle))}")


@OUTPUTS_CHECKS.check(
    "gradient",
    why="with the loss on the pixels that the view shows, copying the input is a perfect answer.",
    mend="Is the mask inverted? The loss must read the pixels that the view lacks.",
    needs=(STEADY, "pixels_outside_the_mask_are_untouched"),
)
def loss_reads_the_damaged_pixels(subject: PretextSubject, drawn: Drawn) -> None:
    """Restored images have a gradient at most pixels that the view does not show."""
    batch, model = subject.batch(drawn), subject.model(drawn.size)
    clean, view = batch.augmented.clean.images, batch.images[0]
    with torch.no_grad():
        output = subject.output(model, batch)
    restored = [x.requires_grad_() for x in floats(output) if x.shape == view.shape]
    if not restored or not any(is_mask(x, view) for x in tensors(batch.target)):
        raise Skip("it restores no image, or its target holds no mask of the view's size")
    loss = subject.loss_of(model, output, batch.target).sum()
    gradients = torch.autograd.grad(loss, restored, allow_unused=True)
    damaged = (view != clean).any(1)
    for gradient in gradients:
        read = torch.zeros_like(damaged) if gradient is None else gradient.ne(0).any(1)
        share = float((read & damaged).sum() / damaged.sum().clamp_min(1))
        require(share > 0.5, f"the loss reads {share:.0%} of these pixels")


# ---------------------------------------------------------------------------------------- helpers


@frozen(eq=False)
class _Outputs:
    """A head and its outputs for the features of each view of a batch."""

    subject: PretextSubject
    model: Any
    batch: PretextBatch
    features: list[Features]
    output: Any

    @classmethod
    def of(cls, subject: PretextSubject, seed: int) -> _Outputs:
        drawn = Drawn(SAMPLES, 32, seed)
        batch, model = subject.batch(drawn), subject.fresh(seed=seed).eval()
        perturb_weights(model, drawn)
        with torch.no_grad():
            encoded = features_of(model, batch.views)
        features = [_as_leaves(view) for view in encoded]
        return cls(subject, model, batch, features, model.heads[LABEL](*features))

    def with_gradient(self) -> dict[str, Tensor]:
        """name -> each output of the samples that has a gradient."""
        named = named_floats(self.output, "output")
        return {n: x for n, x in named.items() if x.requires_grad and x.shape[:1] == (SAMPLES,)}


def _as_leaves(features: Features) -> Features:
    """The same features without history. Pixels are no features: as in a run, they are constant."""
    leaves = map_floats(lambda x: x.clone().requires_grad_(), features)
    return leaves._replace(images=features.images)


def _reach(made: _Outputs) -> dict[str, float]:
    """Output, or column of logits -> gradient times features, relative to the size of the output.

    An output is skipped in a batch in which all its numbers are 0.
    """
    leaves, found = [x for x in floats(made.features) if x.requires_grad], {}
    for name, output in made.with_gradient().items():
        columns = {name: output}
        if output.ndim == 2 and output.shape[1] <= MOST_COLUMNS:
            columns = {f"{name}[:, {i}]": x for i, x in enumerate(output.unbind(1))}
        for column, values in columns.items():
            gradients = torch.autograd.grad(
                values.square().sum() / 2, leaves, retain_graph=True, allow_unused=True
            )
            size = float(values.detach().square().sum())
            if size:
                pairs = zip(gradients, leaves)
                moved = [float((g * x.detach()).abs().sum()) for g, x in pairs if g is not None]
                found[column] = sum(moved) / size
    return found


def _without_effect(made: _Outputs) -> list[str]:
    """Names of the views that no output reads, and of the outputs that the loss leaves out."""
    head = made.model.heads[LABEL]
    idle = []
    for i in range(len(made.features)):
        other: list[Any] = list(made.features)
        other[i] = map_floats(lambda x: x.roll(1, 0), other[i])
        if equal(head(*other), made.output):
            idle.append(f"view {i}")

    outputs = {n: x for n, x in made.with_gradient().items() if _is_made_by(head, x)}
    loss = made.subject.loss_of(made.model, made.output, made.batch.target).sum()
    if outputs and loss.requires_grad:
        at_outputs = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
        pairs = zip(outputs, at_outputs)
        idle += [name for name, g in pairs if g is None or not bool(g.any())]
    return idle


def _is_made_by(head: nn.Module, output: Tensor) -> bool:
    """True if some trainable weight of the head has a part in this output."""
    weights = [p for p in head.parameters() if p.requires_grad]
    if not weights:
        return False
    gradients = torch.autograd.grad(output.sum(), weights, retain_graph=True, allow_unused=True)
    return any(g is not None for g in gradients)
