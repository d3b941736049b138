"""Checks that a sample of a batch asks, and is judged, by itself."""

from __future__ import annotations

import torch
from attrs import evolve

from ..kit import Group, Skip, require
from ..subject import Drawn, patterns
from .harness import LABEL, Asked, PretextSubject, cut, images_of, raw, require_finite, same
from .loss import LOSS, STEADY, near, numbers
from .views import TWICE

OWN_VIEW, OWN_LOSS = "a_sample_asks_for_itself", "a_sample_is_judged_by_itself"


BATCH_CHECKS = Group()


@BATCH_CHECKS.check(
    "batch",
    why="a sample's questions would depend on who else is in the batch: arms with other batches can't be paired.",
    mend="let sample i of each view and target depend on sample i of the images and on the draws alone.",
    needs=TWICE,
    capability="independent_samples",
)
def a_sample_asks_for_itself(subject: PretextSubject, drawn: Drawn) -> None:
    """Another image in the last sample leaves the views and targets of the others as they are."""
    one, two = _with_another_last_sample(subject, drawn)
    require(
        same(*(cut(images_of(a), slice(-1)) for a in (one, two))),
        "views of other samples have changed",
    )
    require(
        same(*(cut(a.target, slice(-1)) for a in (one, two))),
        "targets of other samples have changed",
    )


@BATCH_CHECKS.check(
    "batch",
    why="the core masks samples and adds them up over micro-batches and ranks: that holds for independent samples alone.",
    mend="no means or norms over the batch in forward or loss; `coupled = True` where samples must be judged together.",
    needs=(OWN_VIEW, STEADY),
)
def a_sample_is_judged_by_itself(subject: PretextSubject, drawn: Drawn) -> None:
    """Another image in the last sample leaves the losses of the others as they are (eval mode)."""
    _skip_coupled(subject)
    model = subject.model(drawn.size)
    with torch.no_grad():
        one, two = (subject.loss(model, a)[:-1] for a in _with_another_last_sample(subject, drawn))
    require(near(one, two), f"losses of other samples go from {numbers(one)} to {numbers(two)}")


@BATCH_CHECKS.check(
    "batch",
    why="runs with another batch size, more ranks or micro-batches would optimize another loss.",
    mend="do not scale by len(output); return each sample's own loss.",
    needs=(LOSS, OWN_LOSS),
)
def batch_loss_is_its_samples_own(subject: PretextSubject, drawn: Drawn) -> None:
    """Judged one by one, the samples of an answer lose what they lose together."""
    _skip_coupled(subject)
    asked, model = subject.ask(drawn), subject.model(drawn.size)
    with torch.no_grad():
        output = subject.forward_heads(model, asked)
        together = subject.compute_losses(model, output, asked.target)
        parts = [slice(i, i + 1) for i in range(drawn.samples)]
        alone = torch.cat(
            [subject.compute_losses(model, cut(output, p), cut(asked.target, p)) for p in parts]
        )
    require(near(together, alone), f"together {numbers(together)}, one by one {numbers(alone)}")


@BATCH_CHECKS.check(
    "batch",
    why="the last micro-batch, or a rank, may hold one sample.",
    mend="keep the batch dimension (no bare squeeze()), and no BatchNorm1d; or declare it: lacks = {'single_sample': why}.",
    needs=STEADY,
    capability="single_sample",
)
def one_sample_is_enough(subject: PretextSubject, drawn: Drawn) -> None:
    """A batch of one image has a finite loss, in eval and in train mode."""
    model = subject.fresh(drawn.size).eval()
    asked = subject.ask(evolve(drawn, samples=1))
    for mode in (False, True):
        model.heads[LABEL].train(mode)
        with torch.no_grad():
            loss = subject.loss(model, asked)
        expected = () if subject.built.coupled else (1,)
        require(
            tuple(loss.shape) == expected,
            f"the loss of one sample has the shape {tuple(loss.shape)}",
        )
        require_finite(loss, f"the loss of one sample in {'train' if mode else 'eval'} mode")


def _with_another_last_sample(subject: PretextSubject, drawn: Drawn) -> tuple[Asked, Asked]:
    images = raw(drawn)
    other = images.clone()
    other[-1:] = patterns(1, images.shape[-1], drawn.seed + 1)
    return subject.ask(drawn, images=images), subject.ask(drawn, images=other)


def _skip_coupled(subject: PretextSubject) -> None:
    if subject.built.coupled:
        raise Skip("its head is coupled: samples are judged together")
