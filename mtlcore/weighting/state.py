"""A strategy's memory, kept by task NAME: a task missing from a step keeps its own, and a checkpoint says whose is whose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn


class ByName(nn.Module):
    """One number for each task (N,), or for each ordered pair of tasks (N, N), in ONE buffer that is only ever changed in place
    (the step restores it after a bad batch). In a state dict there is an entry a task ("fer"), or a pair ("fer/puzzling").
    """

    values: Tensor

    def __init__(self, names: Sequence[str], *, pairs: bool = False, fill: float = 0.0) -> None:
        super().__init__()
        self.names, self.axes = tuple(names), 2 if pairs else 1
        self.register_buffer("values", torch.full((len(self.names),) * self.axes, fill))
        self._places: dict[tuple[str, ...], Tensor] = {}

    def read(self, names: tuple[str, ...]) -> Tensor:
        """A copy of the entries of these tasks, (K,) or (K, K)."""
        return self.values[self._at(names)]

    def write(self, names: tuple[str, ...], values: Tensor) -> None:
        """Put the entries of these tasks, (K,) or (K, K); the others stay."""
        self.values[self._at(names)] = values.detach().to(self.values)

    def _at(self, names: tuple[str, ...]) -> Any:
        """An index, made once for each set of names: a list would be copied to the device in each step."""
        if names not in self._places:
            self._places[names] = torch.tensor(
                [self.names.index(n) for n in names], device=self.values.device
            )
        place = self._places[names]
        return place if self.axes == 1 else (place[:, None], place)

    def _entries(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for places in product(range(len(self.names)), repeat=self.axes):
            yield "/".join(self.names[i] for i in places), places

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for key, places in self._entries():
            destination[prefix + key] = self.values[places].clone()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        known = {prefix + key: places for key, places in self._entries()}
        missing_keys += [key for key in known if key not in state_dict]
        unexpected_keys += [
            key for key in state_dict if key.startswith(prefix) and key not in known
        ]
        for key, places in known.items():
            if key in state_dict:
                self.values[places] = state_dict[key]
