"""One callback of a run, and the context that its methods receive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from ..config.experiment import Experiment
from ..contracts import Annotation, Callback
from ..errors import MtlError, nearest

if TYPE_CHECKING:
    from .guard import Callbacks

State = dict[str, Any]
"""The state of one callback: numbers, strings, tensors, and lists, tuples and dicts of them."""


class Failure(TypedDict):
    """The exceptions of one callback. last: event and exception of the last one."""

    times: int
    last: str


@define(eq=False)
class RegisteredCallback:
    """One callback of a run, and what belongs to it.

    label: of its table. The built-in callbacks without a table have their title as label.
    title: its name in messages.
    essential: any exception ends the run.
    state: saved in every checkpoint. handles: open resources, never saved.
    failure: number of its exceptions after which the run continued, and the last one.
    """

    label: str
    title: str
    callback: Callback
    essential: bool = False
    state: State = field(factory=dict)
    handles: dict[str, Any] = field(factory=dict)
    failure: Failure | None = None

    def implements(self, event: str) -> bool:
        """Whether the callback has its own method for this event."""
        return getattr(type(self.callback), event) is not getattr(Callback, event)


@frozen(eq=False)
class GuardedContext:
    """The run as one callback sees it: implements `contracts.CallbackContext`."""

    _entry: RegisteredCallback
    _all: Callbacks

    @property
    def step(self) -> int:
        return self._all.train_state.step

    @property
    def steps(self) -> int:
        return self._all.train_state.steps

    @property
    def epoch(self) -> int:
        return self._all.train_state.step // self._all.train_state.steps_per_epoch

    @property
    def experiment(self) -> Experiment:
        return self._all.train_state.experiment

    @property
    def folder(self) -> Path:
        folder = self._all.folder
        assert folder is not None, "a run without a folder calls no callback"
        return folder

    @property
    def validation(self) -> Mapping[str, float]:
        return self._all.metrics

    @property
    def tables(self) -> Mapping[str, list[list[float]]]:
        return self._all.tables

    @property
    def better(self) -> Mapping[str, bool]:
        return dict(self._all.better)

    @property
    def main(self) -> str:
        return self._all.best_by

    @property
    def state(self) -> State:
        return self._entry.state

    @property
    def handles(self) -> dict[str, Any]:
        return self._entry.handles

    @property
    def network(self) -> nn.Module:
        self._require_network("network")
        return self._all.network

    def indices(self, split: str) -> np.ndarray:
        return self._all.data.split.get(split, np.zeros(0, dtype=np.int64))

    def features(self, indices: np.ndarray) -> Tensor:
        self._require_network("features")
        return self._all.features(indices)

    def targets(self, task: str, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        data = self._all.data
        if task in data.aligned:
            raise MtlError(
                f"task {task!r} reads the map or points {data.aligned[task]!r}, which are not kept "
                "in memory: run.targets is not available for this task"
            )
        if task not in data.targets:
            raise MtlError(f"there is no task {task!r}; {nearest(task, data.targets)}")
        index = torch.from_numpy(indices)
        return data.targets[task][index], data.present[task][index]

    def annotation(self, name: str, indices: np.ndarray) -> Annotation:
        return self._all.data.annotation(name, indices)

    def add(self, figures: Mapping[str, float]) -> None:
        label = self._entry.label
        metrics = {f"{label}/{name}": float(value) for name, value in figures.items()}
        self._all.added |= metrics
        self._all.unwritten |= metrics

    def stop(self, reason: str) -> None:
        # The first callback that asks is the one that run.json names.
        if self._all.stopped is None:
            self._all.stopped = self._entry.label, reason

    def note(self, text: str) -> None:
        self._all.note(f"{self._entry.title}: {text}")

    def _require_network(self, what: str) -> None:
        cls = type(self._entry.callback)
        if not cls.reads_network:
            raise MtlError(f"run.{what}: {cls.__name__} has reads_network = False; set it to True")
