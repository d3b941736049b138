"""Checks that each sample of a batch has its own loss, and that batches of any size work."""

from __future__ import annotations

import torch
from attrs import evolve

from ..kit import Group
from ..requirements import Skip, require, require_finite, require_shape
from ..subject import Drawn
from ..trees import cut
from .harness import LABEL, PretextSubject
from .loss import LOSS, STEADY, mode_name, near, numbers
from .views import OWN_VIEWS, with_another_last_sample

OWN_LOSS = "loss_of_a_sample_depends_on_it_alone"

TRIES = 6  # batches
SAMPLES = 8
TINY = 1e-3  # a loss of about 0 may grow by any factor

# From 8 samples to 16. A sum over samples doubles; the log of the number of candidates (NT-Xent)
# grows by 1.27.
MOST_GROWTH = 1.6

BATCH_CHECKS = Group()


@BATCH_CHECKS.check(
    "batch",
    why="the core masks samples, and adds them over micro-batches and ranks. Both need "
    "independent losses.",
    mend="Use no means or norms over the batch in forward or loss. Set `coupled = True` if the "
    "loss compares samples.",
    needs=(OWN_VIEWS, STEADY),
)
def loss_of_a_sample_depends_on_it_alone(subject: PretextSubject, drawn: Drawn) -> None:
    """In eval mode, another image as the last sample does not change the others' losses."""
    _skip_coupled(subject)
    model = subject.model(drawn.size)
    batches = with_another_last_sample(subject, drawn)
    with torch.no_grad():
        one, two = (subject.loss(model, batch)[:-1] for batch in batches)
    require(near(one, two), f"losses of other samples change from {numbers(one)} to {numbers(two)}")


@BATCH_CHECKS.check(
    "batch",
    why="another batch size, or more ranks or micro-batches, would optimize another loss.",
    mend="Do not scale by len(output). Return each sample's own loss.",
    needs=(LOSS, OWN_LOSS),
)
def batch_loss_equals_single_losses(subject: PretextSubject, drawn: Drawn) -> None:
    """The loss of a batch's output is the same when it is computed one sample at a time."""
    _skip_coupled(subject)
    batch, model = subject.batch(drawn), subject.model(drawn.size)
    alone = []
    with torch.no_grad():
        output = subject.output(model, batch)
        together = subject.loss_of(model, output, batch.target)
        for i in range(drawn.samples):
            sample = slice(i, i + 1)
            alone.append(subject.loss_of(model, cut(output, sample), cut(batch.target, sample)))
    single = torch.cat(alone)
    require(near(together, single), f"together {numbers(together)}, one by one {numbers(single)}")


@BATCH_CHECKS.check(
    "batch",
    why="the last micro-batch, or a rank, may hold a single sample.",
    mend="Keep the batch dimension (no squeeze() without an axis), and use no BatchNorm1d. Or "
    "declare it: lacks = {'single_sample': why}.",
    needs=STEADY,
    capability="single_sample",
)
def accepts_a_single_sample(subject: PretextSubject, drawn: Drawn) -> None:
    """A batch of one image has a finite loss in eval and in train mode."""
    model = subject.fresh(drawn.size).eval()
    batch = subject.batch(evolve(drawn, samples=1))
    expected = () if subject.built.coupled else (1,)
    for training in (False, True):
        model.heads[LABEL].train(training)
        with torch.no_grad():
            loss = subject.loss(model, batch)
        require_shape(loss, expected, "the loss of one sample")
        require_finite(loss, f"the loss of one sample in {mode_name(training)} mode")


@BATCH_CHECKS.check(
    "batch",
    why="a sum over the batch ties the learning rate to the batch size and the number of ranks.",
    mend="Return the MEAN over samples or pairs: F.cross_entropy(..., reduction='mean').",
    needs=STEADY,
    core=True,
)
def coupled_loss_does_not_grow_with_the_batch(subject: PretextSubject) -> None:
    """Twice as many samples increase the loss of a coupled head by a factor below 1.6."""
    if not subject.built.coupled:
        raise Skip("its head is not coupled")
    few, many = _mean_loss(subject, SAMPLES), _mean_loss(subject, 2 * SAMPLES)
    ratio = many / (few or 1)
    within = abs(many) < MOST_GROWTH * abs(few) + TINY
    found = f"the loss of {SAMPLES} samples is {few:.4g}, of {2 * SAMPLES} samples {many:.4g}"
    require(within, f"{found}: a factor of {ratio:.2f}")


def _mean_loss(subject: PretextSubject, samples: int) -> float:
    """The mean over a few batches of this size, in eval mode."""
    model = subject.model(32)
    total = 0.0
    with torch.no_grad():
        for seed in range(TRIES):
            total += float(subject.loss(model, subject.batch(Drawn(samples, 32, seed))))
    return total / TRIES


def _skip_coupled(subject: PretextSubject) -> None:
    if subject.built.coupled:
        raise Skip("its head is coupled: its loss compares samples")
