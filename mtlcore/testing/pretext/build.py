"""Checks of how a pretext's head is made: its first weights are a function of the run's seed, and of nothing else.

The core seeds torch's global generator before it builds: all first weights of a run come from there.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from ..generators import seeded
from ..kit import Group, require
from .harness import PretextSubject, harness_context, same

BUILD_CHECKS = Group()


@BUILD_CHECKS.check(
    "build",
    why="runs of one seed would start from other weights; runs of several seeds, from the same: their spread is no spread.",
    mend="initialize by torch.nn and torch.nn.init alone: no manual_seed, no generator of your own, no cache of weights.",
    needs="head_keeps_no_shared_network",
)
def builds_the_same_from_one_seed(subject: PretextSubject) -> None:
    """Built twice under one seed, heads and the generator's state are equal; another seed gives other weights."""
    one, again, other = (_built(subject, seed) for seed in (1, 1, 2))
    require(same(one.state, again.state), "two heads of one seed differ")
    require(
        torch.equal(one.generator, again.generator),
        "the same seed leaves the generator in two states",
    )
    require(not torch.equal(one.generator, other.generator), "it seeds the global generator itself")
    drawn = [
        name for name, weight in one.weights.items() if bool((weight != weight.flatten()[0]).any())
    ]
    alike = all(torch.equal(one.weights[name], other.weights[name]) for name in drawn)
    require(not drawn or not alike, f"two seeds give the same weights: {', '.join(drawn[:5])}")


@frozen(eq=False)
class _Built:
    """A head that was built under a seed. state: all that is saved. weights: what learns. generator: its state afterwards."""

    state: dict[str, Tensor]
    weights: dict[str, Tensor]
    generator: Tensor


def _built(subject: PretextSubject, seed: int) -> _Built:
    with seeded(0):
        context = harness_context()
        [
            context.heads[label] for label in subject.shared_labels
        ]  # shared heads are built before, as in a run
    with seeded(seed):
        head = subject.component.build(context)
        generator = torch.get_rng_state()
    weights = {
        name: p.detach() for name, p in head.named_parameters() if p.requires_grad and p.numel()
    }
    return _Built(dict(head.state_dict()), weights, generator)
