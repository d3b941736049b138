"""Evaluation on all ranks: each gets whole batches, and the main rank gathers the results.

    batch       0       1       2       3       4
    rank        0       1       0       1       0      (two ranks, three rounds)

The main rank updates the metrics in the order of the batches. So metrics equal those of one
process, and no metric has to synchronize itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from attrs import frozen
from torch import Tensor
from torch.utils._pytree import tree_map

from ..networks import world_size

T = TypeVar("T")
CPU = torch.device("cpu")


@frozen
class Ranks:
    """The processes that evaluate together. rank: of this process. world: their number."""

    rank: int
    world: int

    @classmethod
    def current(cls) -> Ranks:
        """Return all ranks of the run; inside of `single_rank`, this process alone."""
        world = world_size()
        return cls(dist.get_rank() if world > 1 else 0, world)

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that gets the results."""
        return self.rank == 0

    def results(
        self,
        batches: int,
        evaluate: Callable[[int], T],
        device: torch.device,
    ) -> Iterator[T]:
        """Evaluate all batches, each on one rank. Yield the results in order, on the main rank.

        Every rank must call it with the same number of batches, and run it to its end. Each rank
        holds one batch at a time; the main rank holds the results of one batch of each rank.

        evaluate: number of a batch -> its result, a pytree of tensors and other values.
        device: of this rank, for the tensors of the results.
        """
        for first in range(0, batches, self.world):
            number = first + self.rank
            result = evaluate(number) if number < batches else None
            # In the last round, some ranks may have no batch. They must gather too, or the other
            # ranks would wait forever.
            for found in self._gathered(result):
                if found is not None:
                    yield found if found is result else _to(device, found)

    def _gathered(self, result: T | None) -> list[T | None]:
        """Return the results of one round, by rank; nothing if this is not the main rank."""
        if self.world == 1:
            return [result]
        # Pickle the results in CPU memory, since a rank without a batch knows neither names, shapes
        # nor dtypes of a result. Both gloo and NCCL can gather objects.
        sent = None if self.is_main else _to(CPU, result)
        received: list[T | None] | None = [None] * self.world if self.is_main else None
        dist.gather_object(sent, received, dst=0)
        return [] if received is None else [result, *received[1:]]


def _to(device: torch.device, tree: T) -> T:
    """Copy all tensors of a pytree to a device."""

    def copied(leaf: object) -> object:
        # A copy, even on the same device: pickle would store the whole memory of a slice.
        return leaf.detach().to(device, copy=True) if isinstance(leaf, Tensor) else leaf

    return cast(T, tree_map(copied, tree))
