"""The callbacks of a run: what they are shown, what they may ask for, and what is put back after each call.

They are called between steps, on the main process. Their figures go through the trainer, which owns the log; a wish to stop is a flag
that ranks agree on. A callback can't change what the run computes: `untouched` restores generators, modes and gradients, and finds
a changed weight.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from ..config.experiment import Experiment
from ..contracts import Annotation, Callback
from ..data.dataset import RunData
from ..errors import MtlError, nearest
from ..evaluation.measure import BATCH, main_metric
from ..networks import alone
from ..registry.catalog import one_line
from ..rng import VIEW, KeyedRng

if TYPE_CHECKING:
    from ..train.step import TrainState
    from .progress import ProgressReporter

PLAIN = (bool, int, float, str, type(None), Tensor)


@define(eq=False)
class Callbacks:
    """All callbacks of a run, in the order of the configuration.

    measured: the figures of the last evaluation. added: by callbacks since then. unwritten: of these, what no log line holds yet.
    stopped: who asked to end the run, and why. failures: label -> exceptions that were passed over.
    """

    train_state: TrainState
    data: RunData
    folder: Path
    reporter: ProgressReporter
    main: bool
    better: dict[str, bool]
    best_by: str
    measured: dict[str, float] = field(factory=dict)
    added: dict[str, float] = field(factory=dict)
    unwritten: dict[str, float] = field(factory=dict)
    stopped: tuple[str, str] | None = None
    failures: dict[str, dict[str, Any]] = field(factory=dict)
    states: dict[str, dict[str, Any]] = field(factory=dict)
    features: dict[bytes, Tensor] = field(factory=dict)

    @classmethod
    def of(
        cls,
        train_state: TrainState,
        data: RunData,
        folder: Path,
        reporter: ProgressReporter,
        main: bool,
    ) -> Callbacks:
        """Raises MtlError where `train.best` names no figure."""
        better, name = directions(train_state.experiment), best_by(train_state.experiment)
        states: dict[str, dict[str, Any]] = {
            label: {} for label in train_state.experiment.callbacks
        }
        return cls(train_state, data, folder, reporter, main, better, name, states=states)

    def check(self) -> None:
        """Before anything is written, on every process. Raises MtlError where a callback can't serve this run."""
        self._call("check")

    def tell(self, event: str, *given: Any) -> None:
        """Call `event` of each callback that implements it; on the main process."""
        if self.main:
            self._call(event, *given)

    def _call(self, event: str, *given: Any) -> None:
        for label, callback in self.train_state.experiment.callbacks.items():
            if getattr(type(callback), event) is getattr(Callback, event):
                continue
            with untouched(self.train_state, label), self._tolerated(label, event):
                getattr(callback, event)(GuardedContext(label, self), *given)
        self.features.clear()

    @contextmanager
    def _tolerated(self, label: str, event: str) -> Iterator[None]:
        try:
            yield
        except MtlError as error:
            raise MtlError(f"callback.{label}: {error}") from error
        except Exception as error:  # a log that can't be reached must not cost days of training
            if event == "check":
                raise MtlError(f"callback.{label}: its check failed: {one_line(error)}") from error
            before = self.failures.get(label, {"times": 0})
            self.failures[label] = {
                "times": before["times"] + 1,
                "last": f"{event}: {one_line(error)}",
            }
            if not before["times"]:
                self.reporter.note(
                    f"callback.{label} failed in {event}, and the run goes on: {one_line(error)}"
                )

    # ------------------------------------------------------------------------------------------------ figures

    def evaluated(self, metrics: dict[str, float]) -> dict[str, float]:
        """The run was measured -> these figures, with those of callbacks that no log line holds yet; the caller writes them."""
        self.measured = metrics
        self.tell("on_validation_end")
        self.measured, self.added = self.figures, {}
        return metrics | self.taken()

    @property
    def figures(self) -> dict[str, float]:
        """Those of the last evaluation, and what was added since the one before it."""
        return self.measured | self.added

    def taken(self) -> dict[str, float]:
        """What no log line holds yet; the caller writes it."""
        figures, self.unwritten = self.unwritten, {}
        return figures

    # ------------------------------------------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps. Raises MtlError where a callback remembers what can't be loaded safely."""
        for label, state in self.states.items():
            for key, value in state.items():
                if not _is_plain(value):
                    raise MtlError(
                        f"callback.{label} keeps state[{key!r}] of type {type(value).__name__}: expected numbers, strings, "
                        "tensors, or lists, tuples, dicts of them"
                    )
        return {
            "states": self.states,
            "measured": self.measured,
            "added": self.added,
            "stopped": self.stopped,
            "failures": self.failures,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """As a checkpoint left it; a callback that is new to the run begins with an empty memory."""
        self.states |= {
            label: kept for label, kept in state["states"].items() if label in self.states
        }
        self.measured, self.added, self.stopped = (
            state["measured"],
            state["added"],
            state["stopped"],
        )
        self.failures = state["failures"]


@frozen(eq=False)
class GuardedContext:
    """The run as one callback sees it (`contracts.CallbackContext`)."""

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
        return self._all.figures

    @property
    def better(self) -> Mapping[str, bool]:
        return dict(self._all.better)

    @property
    def main(self) -> str:
        return self._all.best_by

    @property
    def state(self) -> dict[str, Any]:
        return self._all.states[self.label]

    @property
    def network(self) -> nn.Module:
        train_state = self._all.train_state
        return train_state.ema.copy if train_state.ema else train_state.model.inference()

    def indices(self, split: str) -> np.ndarray:
        return self._all.data.split.get(split, np.zeros(0, dtype=np.int64))

    def features(self, indices: np.ndarray) -> Tensor:
        """Remembered while one event lasts: several callbacks, and several questions about the same samples, cost one pass."""
        known, key = self._all.features, indices.tobytes()
        if key not in known:
            known[key] = pooled(self.network, self._all.train_state, self._all.data, indices)
        return known[key]

    def targets(self, task: str, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        data = self._all.data
        if task not in data.targets:
            raise MtlError(f"there is no task {task!r}; {nearest(task, data.targets)}")
        index = torch.from_numpy(indices)
        return data.targets[task][index], data.present[task][index]

    def annotation(self, name: str, indices: np.ndarray) -> Annotation:
        return self._all.data.annotation(name)[indices]

    def add(self, figures: Mapping[str, float]) -> None:
        mine = {f"{self.label}/{name}": float(value) for name, value in figures.items()}
        self._all.added |= mine
        self._all.unwritten |= mine

    def stop(self, reason: str) -> None:
        if self._all.stopped is None:
            self._all.stopped = self.label, reason

    def note(self, text: str) -> None:
        self._all.reporter.note(f"callback.{self.label}: {text}")


# ------------------------------------------------------------------------------------------------ figures and features


def directions(experiment: Experiment) -> dict[str, bool]:
    """Every figure that has a better and a worse -> is more of it better?"""
    found: dict[str, bool] = {}
    for label, entry in experiment.entries.items():
        metrics = entry.component.metrics().items()
        found |= {
            f"{label}/{k}": m.higher_is_better for k, m in metrics if m.higher_is_better is not None
        }
    found |= {f"{label}/loss": False for label in experiment.pretexts}
    found |= {} if experiment.tasks else {"loss": False}
    for label, callback in experiment.callbacks.items():
        found |= {f"{label}/{name}": up for name, up in callback.figures(experiment).items()}
    return found


def best_by(experiment: Experiment) -> str:
    """The figure that names the best checkpoint. Raises MtlError where there is no such."""
    name = experiment.train.best or ""
    label = name.partition("/")[0]
    if label not in experiment.callbacks:
        return main_metric(experiment)[0]
    mine = [figure for figure in directions(experiment) if figure.startswith(f"{label}/")]
    if name not in mine:
        raise MtlError(
            f"train.best = {name!r}: callback.{label} adds no such figure; {nearest(name, mine)}"
        )
    return name


@alone()
@torch.no_grad()
def pooled(network: Any, train_state: TrainState, data: RunData, indices: np.ndarray) -> Tensor:
    """(N, D) float32: features of these samples in evaluation mode, of the "validation" view."""
    experiment, device, size = (
        train_state.experiment,
        train_state.fabric.device,
        train_state.experiment.input.size,
    )
    augmentation, rng = (
        experiment.augmentation("validation"),
        KeyedRng((experiment.seed, 0), device)(VIEW),
    )
    network.eval()
    found = []
    for start in range(0, len(indices), BATCH):
        images = data.images.take(indices[start : start + BATCH]).to(device)
        found.append(
            network.encoder(augmentation.view(images, (size, size), rng).images).pooled.float()
        )
    return torch.cat(found) if found else torch.zeros(0, network.encoder.info.dim, device=device)


# ------------------------------------------------------------------------------------------------ what is put back


@contextmanager
def untouched(train_state: TrainState, label: str) -> Iterator[None]:
    """Whatever is done inside, the run computes what it would have computed. Raises MtlError where a weight was changed."""
    nets = [train_state.model, *([train_state.ema] if train_state.ema else [])]
    modes = [(m, m.training) for net in nets for m in net.modules()]
    weights = [t for net in nets for t in (*net.parameters(), *net.buffers())]
    versions, sizes = [t._version for t in weights], _sizes(weights)
    devices = [train_state.fabric.device] if train_state.fabric.device.type == "cuda" else []
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
            for module, training in modes:
                module.training = training
            for parameter in train_state.model.parameters():
                parameter.grad = None  # as the step left it
    if [t._version for t in weights] != versions or not torch.equal(_sizes(weights), sizes):
        raise MtlError(
            f"callback.{label} changed the network: a callback may only look at it (in evaluation mode)"
        )


@torch.no_grad()
def _sizes(weights: Sequence[Tensor]) -> Tensor:
    """The norm of each: what is written through `.data` leaves no trace in a tensor's version."""
    return torch.stack(
        [n.float() for n in torch._foreach_norm([w for w in weights if w.is_floating_point()])]
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str | int) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return type(value) in PLAIN or isinstance(value, Tensor)
