"""Checks of how a pretext's head is built.

The core seeds torch's global generator before it builds. All initial weights of a run come from it.
"""

from __future__ import annotations

from torch import nn

from ...contracts import Head
from ..generators import require_same_from_one_seed, seeded
from ..kit import Group
from ..requirements import require
from ..subject import SIZES
from .harness import PretextSubject, toy_context

BUILT = "head_holds_no_shared_network"

BUILD_CHECKS = Group()


@BUILD_CHECKS.check(
    "build",
    why="without a head the views are encoded for nothing.",
    mend="Let build(context) return a subclass of mtlcore.Head with the sizes of context.info.",
    needs="builds_from_its_name",
    core=True,
)
def builds_a_head(subject: PretextSubject) -> None:
    """build(context) returns a Head."""
    require(isinstance(subject.built, Head), f"it returns a {type(subject.built).__name__}")


@BUILD_CHECKS.check(
    "build",
    why="`input.size` depends on the data.",
    mend='Remove what depends on the size, or declare it: lacks = {"any_size": "its grid must '
    'divide the patches of the encoder"}.',
    needs="builds_a_head",
    capability="any_size",
    tests_lacks=True,
)
def builds_for_each_size(subject: PretextSubject) -> None:
    """build(context) returns a head for images of 32, 40, 48 and 64 pixels."""
    for size in (*SIZES, 64):
        with seeded(0):
            subject.component.build(toy_context(size))


@BUILD_CHECKS.check(
    "build",
    why="the encoder's weights would be saved twice, updated twice, and count as the head's.",
    mend="Store context.info only. Use EMA(context.encoder) for a momentum copy, and "
    "SharedHead(context.heads[label]) for a shared head.",
    needs="builds_a_head",
    core=True,
)
def head_holds_no_shared_network(subject: PretextSubject) -> None:
    """Neither the shared encoder nor a shared head, nor their weights, are part of the head."""
    with seeded(0):
        context = subject.context()
        head = subject.component.build(context)
    networks: dict[str, nn.Module] = {"the shared encoder": context.encoder, **context.heads}
    own = _ids(head)
    for name, net in networks.items():
        shared = _ids(net) & own
        require(not shared, f"the head holds {len(shared)} tensors of {name}")


@BUILD_CHECKS.check(
    "build",
    why="runs with one seed would start from different weights, or all seeds from the same ones.",
    mend="Initialize with torch.nn and torch.nn.init only: no manual_seed, no other generator, no "
    "cache of weights.",
    needs=BUILT,
)
def builds_the_same_from_one_seed(subject: PretextSubject) -> None:
    """One seed gives equal heads and an equal state of the generator; another seed does not."""

    def build() -> Head:
        with seeded(0):
            context = subject.context()
            for label in subject.shared_labels:
                _ = context.heads[label]  # a run builds shared heads first
        return subject.component.build(context)

    require_same_from_one_seed(build)


def _ids(net: nn.Module) -> set[int]:
    return {id(tensor) for tensor in (*net.parameters(), *net.buffers())}
