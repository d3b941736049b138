"""State of a weighting that is keyed by task NAME.

A task that is missing from a step keeps its entry, and a checkpoint names the task of each entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ..rng import to_device


class ByName(nn.Module):
    """One number for each task, (N,), or for each ordered pair of tasks, (N, N).

    All numbers are in ONE buffer, which is changed only in place: after a bad step, the core
    restores it by copying the old values into it. The state dict has one entry for each task
    ("fer") or for each pair ("fer/puzzling").

    names: all N tasks of the run. pairs: whether to store pairs. fill: the initial value.
    """

    values: Tensor

    def __init__(
        self,
        names: Sequence[str],
        *,
        pairs: bool = False,
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.axes = 2 if pairs else 1
        self.register_buffer("values", torch.full((len(self.names),) * self.axes, fill))
        self._indices: dict[tuple[str, ...], Tensor] = {}

    def read(self, names: tuple[str, ...]) -> Tensor:
        """Return a copy of the entries of these tasks, (K,) or (K, K)."""
        return self.values[self._index(names)]

    def write(self, names: tuple[str, ...], values: Tensor) -> None:
        """Set the entries of these tasks, (K,) or (K, K). The other entries do not change."""
        known = values.detach().to(self.values.dtype)
        self.values[self._index(names)] = to_device(known, self.values.device)

    def _index(self, names: tuple[str, ...]) -> Tensor | tuple[Tensor, Tensor]:
        """Return an index into `values`.

        It is cached for each set of names: a list would be copied to the device in each step.
        """
        if names not in self._indices:
            numbers = [self.names.index(name) for name in names]
            self._indices[names] = torch.tensor(numbers, device=self.values.device)
        index = self._indices[names]
        return index if self.axes == 1 else (index[:, None], index)

    def _entries(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the key of each entry in a state dict, and its position in `values`."""
        for position in product(range(len(self.names)), repeat=self.axes):
            yield "/".join(self.names[i] for i in position), position

    def _save_to_state_dict(
        self,
        destination: dict[str, Any],
        prefix: str,
        keep_vars: bool,
    ) -> None:
        for key, position in self._entries():
            destination[prefix + key] = self.values[position].clone()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: Mapping[str, object],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        known = {prefix + key: position for key, position in self._entries()}
        for key in known:
            if key not in state_dict:
                missing_keys.append(key)
        for key in state_dict:
            if key.startswith(prefix) and key not in known:
                unexpected_keys.append(key)
        for key, position in known.items():
            if key in state_dict:
                self.values[position] = state_dict[key]
