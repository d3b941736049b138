"""Checkpoints of a run: weights as safetensors, and the training state that resuming needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from attrs import define
from torch import Tensor

from ..callbacks.guard import Callbacks, CallbacksState
from ..data.dataset import RunData
from ..errors import MtlError
from ..runs import FORMAT, Checkpoint, RunFolder, Which
from ..weights import load_weights
from .record import Diverged, Record
from .state import CachedTaskWeights, TrainState

StateDict = dict[str, Any]
"""What `state_dict()` of a module or an optimizer returns."""


class SavedState(TypedDict):
    """The contents of `state.pt`: everything except the weights of the model and its EMA.

    format: `runs.FORMAT`. best: the best validation value so far.
    pending: the evaluation of this step, and all that follows it, was still to be done.
    """

    format: int
    step: int
    optimizer: StateDict
    loss_weighting: StateDict
    loss_weighting_optimizer: StateDict  # empty if the weighting learns nothing
    precision: StateDict
    record: dict[str, float | int]
    best: float | None
    pending: bool
    cached_task_weights: list[CachedTaskWeights]
    callbacks: CallbacksState


@define(eq=False)
class Checkpoints:
    """Saves and resumes a run.

    best: the best validation value so far, of the metric that selects the best checkpoint.
    pending_step: the step of a checkpoint that was saved before the evaluation of that step.
    """

    folder: RunFolder
    train_state: TrainState
    record: Record
    callbacks: Callbacks
    best: float | None = None
    pending_step: int | None = None

    def save(self, which: Which, pending: bool = False) -> None:
        """Write a checkpoint; on the main process only. Raises Diverged: see `require_finite`.

        pending: the evaluation of this step comes afterwards. Older checkpoints remain, and
        callbacks are not called: the same step will be saved again.
        """
        self.require_finite()
        callbacks, train_state = self.callbacks, self.train_state
        if pending:
            self.pending_step = train_state.step
        if not callbacks.is_main:
            return
        ema = train_state.ema.copy.state_dict() if train_state.ema else None
        weights = train_state.model.state_dict()
        state = self._state(pending)
        saved = self.folder.save(which, train_state.step, weights, ema, state, keep_older=pending)
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
        checkpoint = self.folder.checkpoint("last")
        intact = f"resume from {checkpoint.path} with --resume" if checkpoint else "train it again"
        raise Diverged(
            f"after step {train_state.step}, a weight is not finite: the run has diverged, and "
            f"this step is not saved. Set a lower optimizer.lr or optimizer.weight_decay, then "
            f"{intact}"
        )

    def _state(self, pending: bool) -> SavedState:
        train_state = self.train_state
        learned = train_state.loss_weighting_optimizer
        return {
            "format": FORMAT,
            "step": train_state.step,
            "optimizer": train_state.optimizer.optimizer.state_dict(),
            "loss_weighting": train_state.loss_weighting.state_dict(),
            "loss_weighting_optimizer": learned.state_dict() if learned else {},
            "precision": train_state.fabric.strategy.precision.state_dict(),
            "record": self.record.state(),
            "best": self.best,
            "pending": pending,
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
        Raises MtlError if the data or the network differ from those of the run so far.
        """
        checkpoint, callbacks = self.folder.checkpoint("last"), self.callbacks
        if checkpoint is None:
            callbacks.note("no checkpoint was saved yet: starting from step 0")
        else:
            check_same_data(self.folder, data, callbacks)
            self._load(checkpoint)
            callbacks.note(f"resuming from step {self.train_state.step}")
        if callbacks.is_main:
            is_pending = self.pending_step == self.train_state.step
            self.folder.truncate_log(self.train_state.step, evaluated=not is_pending)
        return checkpoint is not None

    def _load(self, checkpoint: Checkpoint) -> None:
        """Restore weights and training state.

        Raises MtlError if the weights belong to another configuration, or if the EMA weights of a
        run with EMA are missing.
        """
        train_state = self.train_state
        # Read the state first, since it holds the format number.
        state = checkpoint.state()
        origin = str(checkpoint.path)
        load_weights(train_state.model, checkpoint.weights(), origin)
        if train_state.ema:
            load_weights(train_state.ema.copy, checkpoint.require_ema(), origin)

        train_state.optimizer.optimizer.load_state_dict(state["optimizer"])
        train_state.loss_weighting.load_state_dict(state["loss_weighting"])
        if train_state.loss_weighting_optimizer:
            train_state.loss_weighting_optimizer.load_state_dict(state["loss_weighting_optimizer"])
        train_state.fabric.strategy.precision.load_state_dict(state["precision"])
        train_state.step = int(state["step"])
        self.record.load(state["record"])
        train_state.load_cached_task_weights(state["cached_task_weights"])
        self.callbacks.load(state["callbacks"])
        self.best = state["best"]
        self.pending_step = train_state.step if state["pending"] else None


def check_same_data(folder: RunFolder, data: RunData, callbacks: Callbacks) -> None:
    """Raise MtlError if the data differs from that of the run so far.

    Another number of threads is only reported: it changes rounding, and nothing else.
    """
    provenance = folder.provenance()
    before, now = provenance.get("data_fingerprint"), data.fingerprint
    if before is not None and before != now:
        raise MtlError(
            f"{folder.path}: the data has changed since this run began (fingerprint {before}, "
            f"now {now}): start a new run; set train.init_from to continue from these weights"
        )
    threads = torch.get_num_threads()
    threads_before = provenance.get("threads", threads)
    if threads_before != threads:
        callbacks.note(
            f"this run began with {threads_before} threads and resumes with {threads}: "
            "it will not repeat an uninterrupted run bit for bit"
        )
