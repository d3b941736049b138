"""The buffers of networks, such as BatchNorm's statistics, so that a step can be undone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor, nn


@frozen(eq=False)
class Buffers:
    """The buffers of networks, and their values when they were copied."""

    buffers: Sequence[Tensor]
    before: Sequence[Tensor]

    @classmethod
    def of(cls, *networks: nn.Module) -> Buffers:
        """Copy the current buffers."""
        buffers = [buffer for network in networks for buffer in network.buffers()]
        return cls(buffers, [b.clone() for b in buffers])

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the old values back."""
        for buffer, old in zip(self.buffers, self.before):
            buffer.copy_(old)

    def restore_unless(self, ok: Tensor) -> None:
        """Copy the old values back if the step is bad, without a host sync."""
        for buffer, old in zip(self.buffers, self.before):
            buffer.copy_(torch.where(ok, buffer, old))
