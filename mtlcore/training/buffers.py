"""The buffers of networks, such as BatchNorm's statistics, so that a step can be undone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor, nn

from ..networks import by_dtype, copy_back, flat


@frozen(eq=False)
class Buffers:
    """The buffers of networks, and their values when they were copied.

    buffers: in one list for each dtype. before: their old values, one vector for each list. A
    network has dozens of small buffers, and an operation on each costs more than one on a vector.
    """

    buffers: Sequence[Sequence[Tensor]]
    before: Sequence[Tensor]

    @classmethod
    def of(cls, *networks: nn.Module) -> Buffers:
        """Copy the current buffers."""
        buffers = by_dtype(buffer for network in networks for buffer in network.buffers())
        return cls(buffers, [flat(same) for same in buffers])

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the old values back."""
        for same, old in zip(self.buffers, self.before):
            copy_back(same, old)

    @torch.no_grad()
    def restore_unless(self, ok: Tensor) -> None:
        """Copy the old values back if the step is bad, without a host sync."""
        for same, old in zip(self.buffers, self.before):
            copy_back(same, torch.where(ok, flat(same), old))
