"""Checkpoints of a run: weights as safetensors, and the training state that resuming needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from attrs import define
from torch import Tensor

from ..callbacks.guard import Callbacks, CallbacksState
from ..checkpoints import STATE, Checkpoint, Contents, Manifest, Saved, Which
from ..data.dataset import RunData
from ..errors import MtlError
from ..runs import RunFolder
from ..weights import load_weights
from .fitting import require_fitting
from .record import Diverged, Record, RecordState
from .state import CachedTaskWeights, TrainState

StateDict = dict[str, Any]
"""What `state_dict()` of a module or an optimizer returns."""


class SavedState(TypedDict):
    """The contents of `state.pt`: everything except the weights of the model and its EMA.

    best: the best validation value so far. `fitting` checks it when a run resumes.
    pending: the evaluation of this step, and all that follows it, was still to be done.
    closed: `on_train_end` was called. A checkpoint that lacks this key was saved before it.
    """

    step: int
    optimizer: StateDict
    loss_weighting: StateDict
    loss_weighting_optimizer: StateDict  # empty if the weighting learns nothing
    precision: StateDict
    record: RecordState
    best: float | None
    pending: bool
    closed: bool
    cached_task_weights: list[CachedTaskWeights]
    callbacks: CallbacksState


@define(eq=False)
class Checkpoints:
    """Saves and resumes a run.

    config: the text of config.toml, for each checkpoint; empty before the first step.
    best: the best validation value so far, of the metric that selects the best checkpoint.
    pending_step: the step of a checkpoint that was saved before the evaluation of that step.
    closed_step: the step of a checkpoint that was saved after `on_train_end`.
    """

    folder: RunFolder
    train_state: TrainState
    record: Record
    callbacks: Callbacks
    config: str = ""
    best: float | None = None
    pending_step: int | None = None
    closed_step: int | None = None

    def save(self, which: Which, pending: bool = False, closed: bool = False) -> None:
        """Write a checkpoint; on the main process only. Raises Diverged: see `require_finite`.

        pending: the evaluation of this step comes afterwards. Older checkpoints remain, and
        callbacks are not called: the same step will be saved again.
        closed: `on_train_end` was called.
        """
        self.require_finite()
        callbacks, train_state = self.callbacks, self.train_state
        if pending:
            self.pending_step = train_state.step
        if not callbacks.is_main:
            return
        ema = train_state.ema.copy.state_dict() if train_state.ema else None
        contents = Contents(
            run=self.folder.provenance().get("run", ""),
            step=train_state.step,
            steps=train_state.steps,
            config=self.config,
            model=train_state.model.state_dict(),
            ema=ema,
            state=self._state(pending, closed),
        )
        saved = self.folder.save(which, contents, keep_older=pending)
        if callbacks.running and not pending:
            callbacks.call("on_checkpoint", saved.path)

    def require_finite(self) -> None:
        """Raise Diverged if a weight is not finite, on every rank. It waits for the device.

        A step with finite gradients can do that: its update overflows.
        """
        train_state = self.train_state
        nets = [train_state.model, train_state.loss_weighting]
        nets += [train_state.ema.copy] if train_state.ema else []
        weights: list[Tensor] = []
        for net in nets:
            weights += [p for p in net.parameters() if p.is_floating_point()]
        with torch.no_grad():
            largest = torch.stack([x.float() for x in torch._foreach_norm(weights, math.inf)])
        if bool(largest.isfinite().all()):
            return
        has_saved = self.folder.checkpoint("last") is not None
        start = f'; encoder.weights = "{self.folder.path}" starts it from this one'
        raise Diverged(
            f"after step {train_state.step}, a weight is not finite: the run has diverged, and "
            "this step is not saved. Start a new run with a lower optimizer.lr or "
            f"optimizer.weight_decay{start if has_saved else ''}"
        )

    def _state(self, pending: bool, closed: bool) -> SavedState:
        train_state = self.train_state
        learned = train_state.loss_weighting_optimizer
        return {
            "step": train_state.step,
            "optimizer": train_state.optimizer.optimizer.state_dict(),
            "loss_weighting": train_state.loss_weighting.state_dict(),
            "loss_weighting_optimizer": learned.state_dict() if learned else {},
            "precision": train_state.fabric.strategy.precision.state_dict(),
            "record": self.record.state(),
            "best": self.best,
            "pending": pending,
            "closed": closed,
            "cached_task_weights": train_state.cached_task_weights_state(),
            "callbacks": self.callbacks.state(),
        }

    def save_if_best(self, metrics: Mapping[str, float]) -> None:
        """Save the best checkpoint if the metric `train.best` improved."""
        name = self.callbacks.best_by
        value = metrics.get(name, math.nan)
        if not math.isnan(value) and self._is_better(value, self.callbacks.better[name]):
            self.best = value
            self.save("best")

    def _is_better(self, value: float, higher_is_better: bool) -> bool:
        if self.best is None:
            return True
        return value > self.best if higher_is_better else value < self.best

    def resume(self, data: RunData) -> bool:
        """Restore the last checkpoint, and cut the log back to its step.

        -> False if there is no checkpoint yet: the run then starts from step 0.
        Raises MtlError if the data, the network or the configuration differ from those of the run
        so far, or if a file of the run is missing or damaged.
        """
        folder, callbacks = self.folder, self.callbacks
        if strange := folder.passed_over():
            callbacks.note(strange)
        checkpoint, finished = folder.checkpoint("last"), folder.provenance().get("finished")
        if checkpoint is None:
            if folder.provenance().get("saved"):
                raise MtlError(
                    f"{folder.path} has saved checkpoints, but the last one is missing: "
                    "restore it from a backup of the run"
                )
            callbacks.note("no checkpoint was saved yet: starting from step 0")
            if callbacks.is_main:
                folder.log.truncate(Saved.of(b""))
            return False

        manifest = checkpoint.manifest()
        folder.require_own(manifest, checkpoint.path)
        check_same_data(folder, data, callbacks)
        self._require_no_fewer_steps(manifest)
        self._load(checkpoint)
        self._reconsider_stop(manifest)
        folder.log.require(manifest.log)
        if callbacks.is_main and (self.goes_on or not finished):
            folder.log.truncate(manifest.log)
        if callbacks.is_main:
            # The evaluation of a pending step comes again, too.
            kept = self.train_state.step - (self.pending_step is not None)
            folder.forget_best_after(kept)
        callbacks.note(f"resuming from step {self.train_state.step}")
        return True

    def _require_no_fewer_steps(self, manifest: Manifest) -> None:
        steps = self.train_state.steps
        if steps < manifest.steps:
            raise MtlError(
                f"train.steps: {self.folder.path} was started for {manifest.steps} steps, now "
                f"{steps}: a resumed run can take more steps, not fewer"
            )

    def _reconsider_stop(self, manifest: Manifest) -> None:
        """Let a run go on if the callback that ended it has other settings now.

        Raises MtlError if it has the same ones, and the run is to take more steps.
        """
        callbacks, steps = self.callbacks, self.train_state.steps
        if callbacks.stopped is None:
            return
        label, folder = callbacks.stopped[0], self.folder
        before, now = folder.experiment().callbacks, self.train_state.experiment.callbacks
        if before.get(label) != now[label]:
            callbacks.stopped = None
        elif steps > manifest.steps:
            raise MtlError(
                f"train.steps = {steps}: callback.{label} ended {folder.path} at step "
                f"{self.train_state.step} of {manifest.steps}: to go on, change its settings, or "
                f"remove [callback.{label}] from {folder.config}"
            )

    @property
    def goes_on(self) -> bool:
        """Whether steps remain, and no callback has ended the run."""
        train_state = self.train_state
        return train_state.step < train_state.steps and self.callbacks.stopped is None

    def _load(self, checkpoint: Checkpoint) -> None:
        """Restore weights and training state.

        Raises MtlError if they belong to another configuration, or if the EMA weights of a run with
        EMA are missing.
        """
        train_state = self.train_state
        state = {"closed": False, **checkpoint.state()}
        require_fitting(state, train_state, checkpoint.path / STATE)
        origin = str(checkpoint.path)
        load_weights(train_state.model, checkpoint.weights(), origin, dtypes=True)
        if train_state.ema:
            load_weights(train_state.ema.copy, checkpoint.require_ema(), origin, dtypes=True)
        load_weights(
            train_state.loss_weighting,
            state["loss_weighting"],
            f"{origin}: loss_weighting",
            dtypes=True,
        )

        train_state.optimizer.optimizer.load_state_dict(state["optimizer"])
        if train_state.loss_weighting_optimizer:
            train_state.loss_weighting_optimizer.load_state_dict(state["loss_weighting_optimizer"])
        train_state.fabric.strategy.precision.load_state_dict(state["precision"])
        train_state.step = checkpoint.step
        self.record.load(state["record"], train_state.fabric.device)
        train_state.load_cached_task_weights(state["cached_task_weights"])
        self.callbacks.load(state["callbacks"])
        self.best = state["best"]
        self.pending_step = train_state.step if state["pending"] else None
        self.closed_step = train_state.step if state["closed"] else None


def check_same_data(folder: RunFolder, data: RunData, callbacks: Callbacks) -> None:
    """Raise MtlError if the data differs from that of the run so far.

    Another number of threads is only reported: it changes rounding, and nothing else.
    """
    provenance = folder.provenance()
    before, now = provenance.get("data_fingerprint"), data.fingerprint
    if before is not None and before != now:
        raise MtlError(
            f"{folder.path}: the data has changed since this run began (fingerprint {before}, "
            f"now {now}): start a new run; encoder.weights = RUN starts it from these weights"
        )
    threads = torch.get_num_threads()
    threads_before = provenance.get("threads", threads)
    if threads_before != threads:
        callbacks.note(
            f"this run began with {threads_before} threads and resumes with {threads}: "
            "it will not repeat an uninterrupted run bit for bit"
        )
