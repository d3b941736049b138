"""Calls the callbacks of a run, and guards the run against them.

Callbacks are called between steps, on the main process: first the writer of metrics.jsonl, then
those of the configuration in their order, last the terminal. Their metrics go through the trainer,
which owns the log. Their request to stop is a flag on which all ranks agree. A callback cannot
change what the run computes: `untouched` restores random generators, modes and gradients after
each call, and detects a changed weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from attrs import define, field
from torch import Tensor

from ..data.dataset import RunData
from ..errors import MtlError
from ..evaluation.best import best_by, directions
from ..model.inference import Inference
from ..registry.records import one_line
from ..runs import RunFolder
from .context import Failure, GuardedContext, RegisteredCallback, State
from .features import inference_of, pooled_features
from .metrics_file import MetricsFile
from .progress import ProgressReporter
from .untouched import restored_generators, untouched

if TYPE_CHECKING:
    from ..training.state import TrainState

# Titles of the callbacks that no table configures. A label has neither a dot nor a space.
LOG, TERMINAL = "metrics.jsonl", "the terminal"

SAFE_TYPES = (bool, int, float, str, type(None))
Metrics = dict[str, float]
Tables = dict[str, list[list[float]]]


class CallbacksState(TypedDict):
    """The callbacks as a checkpoint stores them: by label, and the fields of `Callbacks`."""

    states: dict[str, State]
    failures: dict[str, Failure]
    measured: Metrics
    tables: Tables
    added: Metrics
    unwritten: Metrics
    stopped: tuple[str, str] | None


@define(eq=False)
class Callbacks:
    """All callbacks of a run, in the order in which they are called.

    folder: that of the run. None: it writes nothing, and only the reporter is called.
    reporter: shows messages to the user. It is the last of `entries`.
    better: name of a metric -> True if higher values are better.
    best_by: name of the metric that selects the best checkpoint.
    measured, tables: metrics and matrices of the last evaluation.
    added: metrics that callbacks have added since the evaluation before it.
    unwritten: those of them that no row of the log holds yet.
    stopped: label of the callback that ended the run, and its reason.
    running: True from on_train_start to teardown. Otherwise, a custom loop takes the steps.
    """

    train_state: TrainState
    data: RunData
    folder: Path | None
    reporter: ProgressReporter
    entries: list[RegisteredCallback]
    better: dict[str, bool]
    best_by: str
    measured: Metrics = field(factory=dict)
    tables: Tables = field(factory=dict)
    added: Metrics = field(factory=dict)
    unwritten: Metrics = field(factory=dict)
    stopped: tuple[str, str] | None = None
    running: bool = False
    _features: dict[bytes, Tensor] = field(factory=dict)

    @classmethod
    def of(
        cls, train_state: TrainState, data: RunData, folder: Path | None, reporter: ProgressReporter
    ) -> Callbacks:
        """The callbacks of a run. Raises MtlError if `train.best` names no metric."""
        experiment = train_state.experiment
        better, name = directions(experiment), best_by(experiment)
        entries: list[RegisteredCallback] = []
        if folder is not None:
            # The log comes first: its row is written before other callbacks receive it.
            entries.append(RegisteredCallback(LOG, LOG, MetricsFile(), essential=True))
            for label, callback in experiment.callbacks.items():
                entries.append(RegisteredCallback(label, f"callback.{label}", callback))
        entries.append(RegisteredCallback(TERMINAL, TERMINAL, reporter))
        return cls(train_state, data, folder, reporter, entries, better, name)

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, the only one that calls callbacks."""
        return self.train_state.fabric.is_global_zero

    # ------------------------------------------------------------------------------ events

    def check(self) -> None:
        """Call `check` of all callbacks, on every process, before the run writes anything.

        Raises MtlError if a callback cannot serve this run.
        """
        for entry in self.entries:
            try:
                self._call(entry, "check")
            except MtlError:
                raise
            except Exception as error:
                raise MtlError(f"{entry.title}: its check failed: {one_line(error)}") from error
        self._features.clear()

    def call(self, event: str, *arguments: object) -> None:
        """Call this method of every callback that implements it; on the main process only.

        Any exception but an MtlError is counted, and the run continues: a log server that cannot
        be reached must not cost days of training.
        """
        if not self.is_main:
            return
        for entry in self.entries:
            try:
                self._call(entry, event, *arguments)
            except MtlError:
                raise
            except Exception as error:
                if entry.essential:
                    raise
                self._count(entry, event, error, "; the run continues")
        self._features.clear()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Wrap a whole run: call `on_exception` if it fails, and `teardown` in any case."""
        self.running = True
        try:
            yield
        except BaseException as error:
            self._close("on_exception", error)
            raise
        finally:
            self._close("teardown")
            self.running = False
            # The next run must not get the handles of this one.
            for entry in self.entries:
                entry.handles.clear()
            self._record_failures()

    def _close(self, event: str, *arguments: object) -> None:
        """Call this method of every callback, even if another one raises."""
        if not self.is_main:
            return
        for entry in self.entries:
            try:
                self._call(entry, event, *arguments)
            except Exception as error:  # noqa: BLE001 - the run has already ended
                self._count(entry, event, error)
        self._features.clear()

    def _call(self, entry: RegisteredCallback, event: str, *arguments: object) -> None:
        # Guarding costs a little: skip methods that do nothing.
        if not entry.implements(event):
            return
        with self._guarded(entry):
            try:
                getattr(entry.callback, event)(GuardedContext(entry, self), *arguments)
            except MtlError as error:
                if entry.essential:
                    raise
                raise MtlError(f"{entry.title}: {error}") from error

    def _guarded(self, entry: RegisteredCallback) -> AbstractContextManager[None]:
        if entry.callback.reads_network:
            return untouched(self.train_state, entry.title)
        return restored_generators(self.train_state.fabric.device)

    # ------------------------------------------------------------------------------ failures

    def note(self, text: str) -> None:
        """Show a message to the user."""
        try:
            self.reporter.note(text)
        except Exception as error:  # noqa: BLE001 - the run continues without a terminal
            self._add_failure(self.entries[-1], f"note: {one_line(error)}")

    def _count(
        self, entry: RegisteredCallback, event: str, error: Exception, then: str = ""
    ) -> None:
        first = entry.failure is None
        self._add_failure(entry, f"{event}: {one_line(error)}")
        # Report the first failure only: the same one may come back at each step.
        if first:
            self.note(f"{entry.title} failed in {event}{then}: {one_line(error)}")

    def _add_failure(self, entry: RegisteredCallback, last: str) -> None:
        times = entry.failure["times"] + 1 if entry.failure else 1
        entry.failure = {"times": times, "last": last}

    def _record_failures(self) -> None:
        failures = self.failures
        if self.folder is not None and self.is_main and failures:
            # The disk may be full: then the original error is the one to show.
            with suppress(MtlError):
                RunFolder(self.folder).update_provenance({"callback_failures": failures})

    @property
    def failures(self) -> dict[str, Failure]:
        """Label -> the exceptions after which the run continued."""
        return {e.label: e.failure for e in self.entries if e.failure is not None}

    # ------------------------------------------------------------------------------ network

    @property
    def network(self) -> Inference:
        """The inference network."""
        return inference_of(self.train_state)

    def features(self, indices: np.ndarray) -> Tensor:
        """(N, D) float32: pooled features. All callbacks share one forward pass in an event."""
        key = indices.tobytes()
        if key not in self._features:
            self._features[key] = pooled_features(self.train_state, self.data, indices)
        return self._features[key]

    # ------------------------------------------------------------------------------ metrics

    def evaluated(self, metrics: Metrics, tables: Tables) -> Metrics:
        """Pass the results of an evaluation to the callbacks.

        -> these metrics, and those of callbacks that no row of the log holds yet. The caller
        writes them.
        """
        self.measured, self.tables = metrics, tables
        self.call("on_validation_end")
        self.measured, self.added = self.metrics, {}
        return metrics | self.take_unwritten()

    @property
    def metrics(self) -> Metrics:
        """Metrics of the last evaluation, and those added since the one before it."""
        return self.measured | self.added

    def take_unwritten(self) -> Metrics:
        """Metrics that no row of the log holds yet. The caller writes them."""
        metrics, self.unwritten = self.unwritten, {}
        return metrics

    # ------------------------------------------------------------------------------ checkpoints

    def state(self) -> CallbacksState:
        """The state for a checkpoint.

        Raises MtlError if a callback keeps a value that cannot be loaded safely.
        """
        for entry in self.entries:
            for key, value in entry.state.items():
                if not _is_safe(value):
                    raise MtlError(
                        f"{entry.title} keeps state[{key!r}] of type {type(value).__name__}: "
                        "expected numbers, strings, tensors, or lists, tuples and dicts of them"
                    )
        return {
            "states": {e.label: e.state for e in self.entries},
            "failures": self.failures,
            "measured": self.measured,
            "tables": self.tables,
            "added": self.added,
            "unwritten": self.unwritten,
            "stopped": self.stopped,
        }

    def load(self, state: CallbacksState) -> None:
        """Load what `state` returned. A callback that is new to the run starts with no state."""
        for entry in self.entries:
            entry.state = state["states"].get(entry.label, {})
            entry.failure = state["failures"].get(entry.label)
        self.measured, self.tables = state["measured"], state["tables"]
        self.added, self.stopped = state["added"], state["stopped"]
        # A resumed run may leave out the callback that ended it, to go on.
        if self.stopped and self.stopped[0] not in [entry.label for entry in self.entries]:
            self.stopped = None
        self.unwritten = state["unwritten"]


def _is_safe(value: object) -> bool:
    """Whether `torch.load` with `weights_only=True` can load it."""
    if isinstance(value, dict):
        return all(isinstance(k, str | int) and _is_safe(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_safe, value))
    return type(value) in SAFE_TYPES or isinstance(value, Tensor)
