"""What a callback is, and what it sees of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from .components import Component
from .samples import Annotation


class CallbackContext(Protocol):
    """What a callback sees of a run, and what it may do to it. Alive during the call alone: don't keep it.

    Figures are named as in the log, without "validation/": "fer/accuracy", "puzzling/loss", "loss" (without tasks), and
    "<callback's label>/<name>".
    """

    @property
    def step(self) -> int:
        """Optimizer steps done; `steps` are all that there will be."""
        ...

    @property
    def steps(self) -> int: ...

    @property
    def epoch(self) -> int:
        """Whole passes over the labeled training samples that are done."""
        ...

    @property
    def experiment(self) -> Any:
        """The resolved experiment, frozen: `.tasks[label].component`, `.pretexts`, `.train`, `.seed`, as in the configuration."""
        ...

    @property
    def folder(self) -> Path:
        """Where the run lies. Not there yet in `check`."""
        ...

    @property
    def validation(self) -> Mapping[str, float]:
        """The latest figures: those of the last evaluation, and what callbacks added since the one before it."""
        ...

    @property
    def better(self) -> Mapping[str, bool]:
        """Each figure that has a better and a worse -> is more of it better?"""
        ...

    @property
    def main(self) -> str:
        """The figure that names the best checkpoint (`train.best`)."""
        ...

    @property
    def state(self) -> dict[str, Any]:
        """The callback's own memory: numbers, strings, tensors, and lists, tuples, dicts of them. It lies in every checkpoint."""
        ...

    @property
    def network(self) -> nn.Module:
        """What is kept when training is over, averaged where the run averages: `.encoder` (images in [0, 1] -> Features), `.heads`.

        For looking at. A changed weight or buffer is an error.
        """
        ...

    def indices(self, split: str) -> np.ndarray:
        """(N,) int64: the samples of "train" or "validation"; empty where there is no such split."""
        ...

    def features(self, indices: np.ndarray) -> Tensor:
        """(N, D) float32 on the run's device: pooled features of `network`, evaluated, of the "validation" view."""
        ...

    def targets(self, task: str, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """(N, ...) targets of a task's label, zeros where absent; and (N,) bool: present. On the CPU."""
        ...

    def annotation(self, name: str, indices: np.ndarray) -> Annotation:
        """What the datasets say of these samples; missing where the label was cut from train. Raises MtlError on an unknown name."""
        ...

    def add(self, figures: Mapping[str, float]) -> None:
        """Report figures of this step as "validation/<label>/<name>": log, TensorBoard, final figures."""
        ...

    def stop(self, reason: str) -> None:
        """End the run at this step, on every rank: evaluated, saved, and marked in run.json as stopped early, by whom and why."""
        ...

    def note(self, text: str) -> None:
        """Tell whoever watches the terminal."""
        ...


class Callback(Component):
    """Watches a run from outside: logs elsewhere, adds figures, stops early. Every method is optional, and called between steps.

    On the main process alone, except `check`. Nothing a callback does may change what the run computes: random generators, modes
    and gradients are put back after each call, a changed weight is an error. MtlError ends the run; any other exception is told,
    counted in run.json, and the run goes on: a log that can't be reached must not cost days of training.
    A handle that lives between calls (a connection) may stand in a field with `init=False`, which is no configuration.
    """

    kind = "callback"

    def figures(self, experiment: Any) -> Mapping[str, bool]:
        """The names that it adds -> is more of it better? Those may be `train.best`. experiment: as `CallbackContext.experiment`."""
        return {}

    def check(self, run: CallbackContext) -> None:
        """Before anything is written, on every process: raise MtlError where this run can't serve it."""

    def on_train_start(self, run: CallbackContext) -> None:
        """Before the first step, also of a resumed run: then `run.step` is not 0."""

    def on_log(self, run: CallbackContext, row: Mapping[str, Any]) -> None:
        """A line was written to metrics.jsonl: losses and learning rate every `log_every` steps, or figures "validation/...".

        After a resume the lines behind the checkpoint come once more.
        """

    def on_epoch_end(self, run: CallbackContext) -> None:
        """A pass over the labeled training samples is done; before the evaluation, where one falls on this step."""

    def on_validation_end(self, run: CallbackContext) -> None:
        """The run was measured: `run.validation` holds the figures, those of callbacks that stand before this one too."""

    def on_checkpoint(self, run: CallbackContext, checkpoint: Path) -> None:
        """This folder ("last-<step>" or "best-<step>") was written, `state` included: what changes here is not in it."""

    def on_train_end(self, run: CallbackContext) -> None:
        """The run is over: all its steps, or stopped early. Not called when it is interrupted: it goes on with --resume."""
