"""Calls the callbacks of a run, and guards the run against them.

Callbacks are called between steps, on the main process. Their metrics go through the trainer,
which owns the log. Their request to stop is a flag on which all ranks agree. A callback cannot
change what the run computes: `untouched` restores random generators, modes and gradients after
each call, and detects a changed weight.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from ..config.experiment import Experiment
from ..contracts import Annotation, Callback
from ..data.dataset import RunData
from ..errors import MtlError, nearest
from ..evaluation.measure import BATCH, main_metric
from ..model.inference import Inference
from ..networks import single_rank
from ..registry.records import one_line
from ..rng import VIEW, KeyedRng

if TYPE_CHECKING:
    from ..train.state import TrainState
    from .progress import ProgressReporter

SAFE_TYPES = (bool, int, float, str, type(None))
State = dict[str, Any]
"""The state of one callback; `_is_safe` says which values it may hold."""


class Failure(TypedDict):
    """The exceptions of one callback. last: event and exception of the last one."""

    times: int
    last: str


class CallbacksState(TypedDict):
    """The callbacks as a checkpoint stores them; the keys are fields of `Callbacks`."""

    states: dict[str, State]
    measured: dict[str, float]
    added: dict[str, float]
    stopped: tuple[str, str] | None
    failures: dict[str, Failure]


@define(eq=False)
class Callbacks:
    """All callbacks of a run, in the order of the configuration.

    is_main: whether this is the main process, the only one that calls events.
    better: name of a metric -> True if higher values are better.
    best_by: name of the metric that selects the best checkpoint.
    measured: metrics of the last evaluation.
    added: metrics that callbacks have added since the evaluation before it.
    unwritten: those of them that no row of the log holds yet.
    stopped: label of the callback that ended the run, and its reason.
    failures: label -> exceptions after which the run continued.
    states: label -> the state of that callback.
    features: cache of `GuardedContext.features`, for one event.
    """

    train_state: TrainState
    data: RunData
    folder: Path
    reporter: ProgressReporter
    is_main: bool
    better: dict[str, bool]
    best_by: str
    measured: dict[str, float] = field(factory=dict)
    added: dict[str, float] = field(factory=dict)
    unwritten: dict[str, float] = field(factory=dict)
    stopped: tuple[str, str] | None = None
    failures: dict[str, Failure] = field(factory=dict)
    states: dict[str, State] = field(factory=dict)
    features: dict[bytes, Tensor] = field(factory=dict)

    @classmethod
    def of(
        cls,
        train_state: TrainState,
        data: RunData,
        folder: Path,
        reporter: ProgressReporter,
        is_main: bool,
    ) -> Callbacks:
        """The callbacks of an experiment. Raises MtlError if `train.best` names no metric."""
        experiment = train_state.experiment
        better, name = directions(experiment), best_by(experiment)
        states: dict[str, State] = {label: {} for label in experiment.callbacks}
        return cls(train_state, data, folder, reporter, is_main, better, name, states=states)

    def check(self) -> None:
        """Call `check` of all callbacks, on every process, before the run writes anything.

        Raises MtlError if a callback cannot serve this run.
        """
        self._call("check")

    def call(self, event: str, *arguments: object) -> None:
        """Call this method of every callback that implements it; on the main process only."""
        if self.is_main:
            self._call(event, *arguments)

    def _call(self, event: str, *arguments: object) -> None:
        for label, callback in self.train_state.experiment.callbacks.items():
            # `untouched` costs a pass over all weights: skip methods that do nothing.
            if getattr(type(callback), event) is getattr(Callback, event):
                continue
            with untouched(self.train_state, label), self._tolerate_failure(label, event):
                getattr(callback, event)(GuardedContext(label, self), *arguments)
        self.features.clear()

    @contextmanager
    def _tolerate_failure(self, label: str, event: str) -> Iterator[None]:
        """Count any exception but an MtlError, and continue the run."""
        try:
            yield
        except MtlError as error:
            raise MtlError(f"callback.{label}: {error}") from error
        # A log server that cannot be reached must not cost days of training.
        except Exception as error:
            if event == "check":
                raise MtlError(f"callback.{label}: its check failed: {one_line(error)}") from error
            before = self.failures.get(label)
            self.failures[label] = {
                "times": before["times"] + 1 if before else 1,
                "last": f"{event}: {one_line(error)}",
            }
            # Report the first failure only: the same one may come back at each step.
            if before is None:
                self.reporter.note(
                    f"callback.{label} failed in {event}; the run continues: {one_line(error)}"
                )

    # ------------------------------------------------------------------------------ metrics

    def evaluated(self, metrics: dict[str, float]) -> dict[str, float]:
        """Pass the metrics of an evaluation to the callbacks.

        -> these metrics, and those of callbacks that no row of the log holds yet. The caller
        writes them.
        """
        self.measured = metrics
        self.call("on_validation_end")
        self.measured, self.added = self.metrics, {}
        return metrics | self.take_unwritten()

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last evaluation, and those added since the one before it."""
        return self.measured | self.added

    def take_unwritten(self) -> dict[str, float]:
        """Metrics that no row of the log holds yet. The caller writes them."""
        metrics, self.unwritten = self.unwritten, {}
        return metrics

    # ------------------------------------------------------------------------------ checkpoints

    def state(self) -> CallbacksState:
        """The state for a checkpoint.

        Raises MtlError if a callback keeps a value that cannot be loaded safely.
        """
        for label, state in self.states.items():
            for key, value in state.items():
                if not _is_safe(value):
                    raise MtlError(
                        f"callback.{label} keeps state[{key!r}] of type {type(value).__name__}: "
                        "expected numbers, strings, tensors, or lists, tuples and dicts of them"
                    )
        return {
            "states": self.states,
            "measured": self.measured,
            "added": self.added,
            "stopped": self.stopped,
            "failures": self.failures,
        }

    def load(self, state: CallbacksState) -> None:
        """Load what `state` returned. A callback that is new to the run starts with no state."""
        for label, saved in state["states"].items():
            if label in self.states:
                self.states[label] = saved
        self.measured, self.added = state["measured"], state["added"]
        self.stopped, self.failures = state["stopped"], state["failures"]


@frozen(eq=False)
class GuardedContext:
    """The run as one callback sees it: implements `contracts.CallbackContext`."""

    label: str
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
        return self._all.folder

    @property
    def validation(self) -> Mapping[str, float]:
        return self._all.metrics

    @property
    def better(self) -> Mapping[str, bool]:
        return dict(self._all.better)

    @property
    def main(self) -> str:
        return self._all.best_by

    @property
    def state(self) -> State:
        return self._all.states[self.label]

    @property
    def network(self) -> nn.Module:
        return _inference(self._all.train_state)

    def indices(self, split: str) -> np.ndarray:
        return self._all.data.split.get(split, np.zeros(0, dtype=np.int64))

    def features(self, indices: np.ndarray) -> Tensor:
        # Cached for one event: several callbacks and several labels share one forward pass.
        cache, key = self._all.features, indices.tobytes()
        if key not in cache:
            cache[key] = pooled_features(self._all.train_state, self._all.data, indices)
        return cache[key]

    def targets(self, task: str, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        data = self._all.data
        if task not in data.targets:
            raise MtlError(f"there is no task {task!r}; {nearest(task, data.targets)}")
        index = torch.from_numpy(indices)
        return data.targets[task][index], data.present[task][index]

    def annotation(self, name: str, indices: np.ndarray) -> Annotation:
        return self._all.data.annotation(name)[indices]

    def add(self, figures: Mapping[str, float]) -> None:
        metrics = {f"{self.label}/{name}": float(value) for name, value in figures.items()}
        self._all.added |= metrics
        self._all.unwritten |= metrics

    def stop(self, reason: str) -> None:
        # The first callback that asks is the one that run.json names.
        if self._all.stopped is None:
            self._all.stopped = self.label, reason

    def note(self, text: str) -> None:
        self._all.reporter.note(f"callback.{self.label}: {text}")


# ---------------------------------------------------------------------------------- metrics


def directions(experiment: Experiment) -> dict[str, bool]:
    """Every metric that can be better or worse -> True if higher values are better."""
    found: dict[str, bool] = {}
    for label, entry in experiment.entries.items():
        for name, metric in entry.component.metrics().items():
            if metric.higher_is_better is not None:
                found[f"{label}/{name}"] = metric.higher_is_better
    for label in experiment.pretexts:
        found[f"{label}/loss"] = False
    if not experiment.tasks:
        found["loss"] = False
    for label, callback in experiment.callbacks.items():
        for name, higher_is_better in callback.figures(experiment).items():
            found[f"{label}/{name}"] = higher_is_better
    return found


def best_by(experiment: Experiment) -> str:
    """Name of the metric that selects the best checkpoint. Raises MtlError if it does not exist."""
    name = experiment.train.best or ""
    label = name.partition("/")[0]
    if label not in experiment.callbacks:
        return main_metric(experiment)[0]
    known = [metric for metric in directions(experiment) if metric.startswith(f"{label}/")]
    if name not in known:
        raise MtlError(
            f"train.best = {name!r}: callback.{label} adds no such metric; {nearest(name, known)}"
        )
    return name


@single_rank()
@torch.no_grad()
def pooled_features(train_state: TrainState, data: RunData, indices: np.ndarray) -> Tensor:
    """(N, D) float32: pooled features of these samples, in eval mode, of the "validation" view."""
    experiment, device = train_state.experiment, train_state.fabric.device
    size = experiment.input.size
    augmentation = experiment.augmentation("validation")
    rng = KeyedRng((experiment.seed, 0), device)(VIEW)
    network = _inference(train_state)
    network.eval()
    found = []
    for start in range(0, len(indices), BATCH):
        images = data.images.take(indices[start : start + BATCH]).images.to(device)
        view = augmentation.view(images, size, rng)
        found.append(network.encoder(view.images).pooled.float())
    if not found:
        return torch.zeros(0, network.encoder.info.dim, device=device)
    return torch.cat(found)


def _inference(train_state: TrainState) -> Inference:
    """The network that is evaluated: the EMA copy if there is one."""
    if train_state.ema is None:
        return train_state.model.inference()
    copy = train_state.ema.copy
    assert isinstance(copy, Inference)
    return copy


# ---------------------------------------------------------------------------------- the guard


@contextmanager
def untouched(train_state: TrainState, label: str) -> Iterator[None]:
    """Restore what a callback may disturb, so that the run computes the same with and without it.

    Raises MtlError if the callback changed a weight or a buffer.
    """
    nets: list[nn.Module] = [train_state.model]
    if train_state.ema:
        nets.append(train_state.ema)
    modes = [(module, module.training) for net in nets for module in net.modules()]
    weights = [t for net in nets for t in (*net.parameters(), *net.buffers())]
    versions, norms = [t._version for t in weights], _norms(weights)

    device = train_state.fabric.device
    devices = [device] if device.type == "cuda" else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            for module, training in modes:
                module.training = training
            # The step left every gradient at None.
            for parameter in train_state.model.parameters():
                parameter.grad = None

    # A write through `.data` does not change the version of a tensor, but it does its norm.
    same_versions = [t._version for t in weights] == versions
    if not same_versions or not torch.equal(_norms(weights), norms):
        raise MtlError(
            f"callback.{label} changed the network: a callback may only read it (in eval mode)"
        )


@torch.no_grad()
def _norms(weights: Sequence[Tensor]) -> Tensor:
    """(N,) float32: the norm of each floating-point tensor."""
    floats = [weight for weight in weights if weight.is_floating_point()]
    return torch.stack([norm.float() for norm in torch._foreach_norm(floats)])


def _is_safe(value: object) -> bool:
    """Whether `torch.load` with `weights_only=True` can load it."""
    if isinstance(value, dict):
        return all(isinstance(k, str | int) and _is_safe(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_safe, value))
    return type(value) in SAFE_TYPES or isinstance(value, Tensor)
