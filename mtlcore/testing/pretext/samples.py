"""Checks of what the samples of a batch do to training: each teaches the encoder, and more of them do not make a sum."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kit import Group, Skip, require
from ..subject import Drawn
from .harness import LABEL, PretextSubject

TRIES = 6  # batches: a threshold or a ReLU may hold a sample back in some
SAMPLES = 8
MOST_GROWTH = 1.6  # from 8 samples to 16: a sum over samples doubles; the log of as many candidates (NT-Xent) grows by 1.27
TINY = 1e-3  # a loss of about 0 may grow as it likes


SAMPLES_CHECKS = Group()


@SAMPLES_CHECKS.check(
    "gradient",
    why="samples that are detached are encoded for nothing, and count as if they taught: the weight is a part of what it says.",
    mend="no detach(), no_grad() or masks by the number of a sample between the features and the loss.",
    needs=("gradient_reaches_the_encoder", "a_sample_is_judged_by_itself"),
    core=True,
)
def gradient_reaches_every_sample(subject: PretextSubject) -> None:
    """Each sample's own loss has a gradient at its own features in one of a few batches, in train mode."""
    if subject.built.coupled:
        raise Skip("its head is coupled: samples are judged together")
    reached = torch.zeros(SAMPLES, dtype=torch.bool)
    for seed in range(TRIES):
        reached |= _samples_reached(subject, seed)
        if bool(reached.all()):
            break
    without = (~reached).nonzero().flatten().tolist()
    require(not without, f"the samples {without} of {SAMPLES} have none")


@SAMPLES_CHECKS.check(
    "batch",
    why="a sum over the batch makes the learning rate grow with the batch size, and with the number of ranks.",
    mend="give the MEAN over samples or pairs: F.cross_entropy(..., reduction='mean').",
    needs="loss_is_the_same_twice",
    core=True,
)
def coupled_loss_does_not_grow_with_the_samples(subject: PretextSubject) -> None:
    """The loss of a coupled head on twice as many samples is less than 1.6 times as large."""
    if not subject.built.coupled:
        raise Skip("its head is not coupled")
    few, many = (_mean_loss(subject, samples) for samples in (SAMPLES, 2 * SAMPLES))
    held = abs(many) < MOST_GROWTH * abs(few) + TINY
    require(
        held,
        f"{SAMPLES} samples lose {few:.4g}, {2 * SAMPLES} samples {many:.4g}: {many / (few or 1):.2f} times as much",
    )


def _samples_reached(subject: PretextSubject, seed: int) -> Tensor:
    """(SAMPLES,) bool: which samples' losses have a gradient other than 0 at their own features, in any view."""
    model, asked = subject.fresh(seed=seed), subject.ask(Drawn(SAMPLES, 32, seed))
    features = [model.encoder(view.images) for view in asked.views]
    leaves = [x for f in features for x in (*f.maps, f.pooled)]
    loss = subject.compute_losses(model, model.heads[LABEL](*features), asked.target)
    found = torch.zeros(SAMPLES, dtype=torch.bool)
    for i in range(SAMPLES if loss.requires_grad else 0):
        gradients = torch.autograd.grad(loss[i], leaves, retain_graph=True, allow_unused=True)
        found[i] = any(bool(g[i].any()) for g in gradients if g is not None)
    return found


def _mean_loss(subject: PretextSubject, samples: int) -> float:
    """Over a few batches of so many samples, in eval mode."""
    model = subject.model(32)
    with torch.no_grad():
        return (
            sum(
                float(subject.loss(model, subject.ask(Drawn(samples, 32, seed))))
                for seed in range(TRIES)
            )
            / TRIES
        )
