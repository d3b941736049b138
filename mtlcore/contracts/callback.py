"""The callback kind, and the view of a run that its methods receive.

A callback observes training between steps: it logs elsewhere, adds metrics, or stops the run
early. It never changes what the run computes. The log file, the progress bars and TensorBoard are
callbacks too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from torch import Tensor, nn

from .components import Component
from .samples import Annotation

if TYPE_CHECKING:
    # For type checkers alone: at run time, contracts import nothing of the configuration.
    from ..config.experiment import Experiment


class CallbackContext(Protocol):
    """What a callback can read of a run, and the few actions that it can take.

    A context is valid only during the call that receives it: do not store it.

    Metrics have the names of the log, without "validation/":
    "<task>/<metric>" ("fer/accuracy"), "<pretext>/<metric>" ("puzzling/loss"),
    "<callback>/<name>" for the metrics of callbacks, each under its label, and "loss" in a run
    without tasks.
    """

    @property
    def step(self) -> int:
        """Number of optimizer steps that are done."""
        ...

    @property
    def steps(self) -> int:
        """Number of optimizer steps of the whole run."""
        ...

    @property
    def epoch(self) -> int:
        """Number of completed passes over the labeled training samples."""
        ...

    @property
    def experiment(self) -> Experiment:
        """The resolved experiment. It is frozen.

        Its attributes follow the configuration: `.tasks[label].component`, `.pretexts`, `.train`,
        `.seed`.
        """
        ...

    @property
    def folder(self) -> Path:
        """The run folder. It does not exist yet during `Callback.check`."""
        ...

    @property
    def validation(self) -> Mapping[str, float]:
        """Latest validation metrics, by name.

        They are those of the last evaluation, and those that callbacks have added since the
        evaluation before it.
        """
        ...

    @property
    def tables(self) -> Mapping[str, list[list[float]]]:
        """Matrices of the last evaluation by name, such as "fer/confusion".

        A confusion matrix is (K, K): numbers of samples, with true classes as rows and predicted
        classes as columns.
        """
        ...

    @property
    def better(self) -> Mapping[str, bool]:
        """Name of a metric -> True if higher values are better.

        Metrics without a better direction are not listed.
        """
        ...

    @property
    def main(self) -> str:
        """Name of the metric that selects the best checkpoint (`train.best`)."""
        ...

    @property
    def state(self) -> dict[str, Any]:
        """State of this callback. Every checkpoint saves it, and resuming restores it.

        It may hold numbers, strings, tensors, and lists, tuples or dicts of them.
        """
        ...

    @property
    def handles(self) -> dict[str, Any]:
        """Open resources of this callback: connections, files, processes.

        It may hold any object. It is empty when the run starts or resumes, and checkpoints do not
        save it. Close its contents in `teardown`.
        """
        ...

    @property
    def network(self) -> nn.Module:
        """The inference network, with EMA weights if the run uses EMA.

        It has `.encoder` (images in [0, 1] -> Features) and `.heads`, by task label. It is
        read-only: a changed weight or buffer is an error.
        """
        ...

    def indices(self, split: str) -> np.ndarray:
        """Return (N,) int64: indices of the samples of "train" or "validation".

        The result is empty if the run has no such split.
        """
        ...

    def features(self, indices: np.ndarray) -> Tensor:
        """Return (N, D) float32 on the run's device: pooled features of these samples.

        `network` computes them in eval mode, from the "validation" augmentation.
        """
        ...

    def targets(self, task: str, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the targets of one task, and which of them are present, on the CPU.

        targets: (N, ...), zeros where a sample has no label of this task.
        present: (N,) bool.
        """
        ...

    def annotation(self, name: str, indices: np.ndarray) -> Annotation:
        """Return (N, ...): an annotation of the datasets for these samples.

        Labels that `labels < 1` removed from training are missing here, too. Raises MtlError if
        the name is unknown.
        """
        ...

    def add(self, figures: Mapping[str, float]) -> None:
        """Add metrics of this step, under the callback's label.

        The log and the final metrics show them as "validation/<label>/<name>".
        """
        ...

    def stop(self, reason: str) -> None:
        """Stop the run after this step, on every rank.

        The run is evaluated and saved. run.json records which callback stopped it, and why.
        """
        ...

    def note(self, text: str) -> None:
        """Print a message in the terminal of the run."""
        ...


class Callback(Component):
    """Observe a run: log elsewhere, add metrics, stop early. Every method is optional.

    Methods are called between steps, on the main process (`check`: on every process). The order:

        check
        on_train_start
        on_log, on_epoch_end, on_validation_end, on_checkpoint    as the run proceeds
        on_train_end, or on_exception                             if complete, or if not
        teardown                                                  always

    A callback must not change what the run computes. After each call the core restores random
    generators, train/eval modes and gradients. A changed weight is an error.

    MtlError ends the run. Any other exception becomes a warning and is counted in run.json, and
    training continues: an unreachable log server must not end a run of several days. In
    `on_exception` and `teardown`, this also holds for MtlError.

    reads_network: set it to False if the callback uses neither `run.network` nor `run.features`.
    Both then raise MtlError, and the core skips its comparison of all weights before and after each
    call.
    """

    kind = "callback"
    reads_network: ClassVar[bool] = True

    def figures(self, experiment: Experiment) -> Mapping[str, bool]:
        """Return the metrics that it adds: name -> True if higher values are better.

        `train.best` may name them. experiment: as `CallbackContext.experiment`.
        """
        return {}

    def check(self, run: CallbackContext) -> None:
        """Raise MtlError if the callback can't serve this run.

        Called on every process, before the run reads its images and writes anything. Do not open
        resources here: `teardown` is called only after `on_train_start`.
        """

    def on_train_start(self, run: CallbackContext) -> None:
        """Called before the first step. In a resumed run, `run.step` is not 0."""

    def on_log(self, run: CallbackContext, row: Mapping[str, Any]) -> None:
        """Called after a line was written to metrics.jsonl.

        row: losses and learning rate (every `log_every` steps), or metrics "validation/...".

        After resuming, the lines that follow the checkpoint are sent again.
        """

    def on_epoch_end(self, run: CallbackContext) -> None:
        """Called after a pass over the labeled training samples.

        If this step also has an evaluation, the evaluation comes after this call.
        """

    def on_validation_end(self, run: CallbackContext) -> None:
        """Called after an evaluation. `run.validation` and `run.tables` hold the results.

        They include the metrics of callbacks that come before this one in the configuration.
        """

    def on_checkpoint(self, run: CallbackContext, checkpoint: Path) -> None:
        """Called after a checkpoint was written, with `run.state` in it.

        checkpoint: the folder "last-<step>" or "best-<step>".

        Changes of `run.state` that are made here are saved by the next checkpoint.
        """

    def on_train_end(self, run: CallbackContext) -> None:
        """Called when the run is complete: after the last step, or after an early stop.

        Metrics that are added here are logged afterwards.
        """

    def on_exception(self, run: CallbackContext, error: BaseException) -> None:
        """Called when the run ends before it is complete. The run can be resumed.

        error: `Interrupted` after a signal, with the run saved at this step. `Diverged` after too
            many steps without a finite gradient. Otherwise, the exception that was raised.
        """

    def teardown(self, run: CallbackContext) -> None:
        """Called last, in any case: close the resources in `run.handles`.

        Also called after a failed `on_train_start`, so handles may be missing.
        """
