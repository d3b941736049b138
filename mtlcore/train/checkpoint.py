"""Checkpoints of a run: weights as safetensors, and the training state that resuming needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import torch

from ..callbacks.guard import Callbacks, CallbacksState
from ..callbacks.progress import ProgressReporter
from ..data.dataset import RunData
from ..errors import MtlError
from ..runs import Checkpoint, RunFolder, Which
from ..weights import load_weights
from .record import Record
from .state import CachedTaskWeights, TrainState

StateDict = dict[str, Any]
"""What `state_dict()` of a module or an optimizer returns."""


class SavedState(TypedDict):
    """The contents of `state.pt`: everything except the weights of the model and its EMA."""

    step: int
    optimizer: StateDict
    loss_weighting: StateDict
    loss_weighting_optimizer: StateDict  # empty if the weighting learns nothing
    precision: StateDict
    record: dict[str, float | int]
    best: float | None
    cached_task_weights: list[CachedTaskWeights]
    callbacks: CallbacksState


def save_checkpoint(
    folder: RunFolder,
    which: Which,
    train_state: TrainState,
    record: Record,
    callbacks: Callbacks,
    best: float | None,
) -> Path:
    """Write a checkpoint. best: the best validation value so far. -> its folder."""
    learned = train_state.loss_weighting_optimizer
    state: SavedState = {
        "step": train_state.step,
        "optimizer": train_state.optimizer.optimizer.state_dict(),
        "loss_weighting": train_state.loss_weighting.state_dict(),
        "loss_weighting_optimizer": learned.state_dict() if learned else {},
        "precision": train_state.fabric.strategy.precision.state_dict(),
        "record": record.state(),
        "best": best,
        "cached_task_weights": train_state.cached_task_weights_state(),
        "callbacks": callbacks.state(),
    }
    ema = train_state.ema.copy.state_dict() if train_state.ema else None
    saved = folder.save(which, train_state.step, train_state.model.state_dict(), ema, state)
    return saved.path


def load_checkpoint(
    checkpoint: Checkpoint,
    train_state: TrainState,
    record: Record,
    callbacks: Callbacks,
) -> float | None:
    """Restore weights and training state. -> the best validation value so far.

    Raises MtlError if the weights belong to another configuration, or if the EMA weights of a run
    with EMA are missing.
    """
    origin = str(checkpoint.path)
    load_weights(train_state.model, checkpoint.weights(), origin)
    if train_state.ema:
        load_weights(train_state.ema.copy, checkpoint.require_ema(), origin)

    state = checkpoint.state()
    train_state.optimizer.optimizer.load_state_dict(state["optimizer"])
    train_state.loss_weighting.load_state_dict(state["loss_weighting"])
    if train_state.loss_weighting_optimizer:
        train_state.loss_weighting_optimizer.load_state_dict(state["loss_weighting_optimizer"])
    train_state.fabric.strategy.precision.load_state_dict(state["precision"])
    train_state.step = int(state["step"])
    record.load(state["record"])
    train_state.load_cached_task_weights(state["cached_task_weights"])
    callbacks.load(state["callbacks"])
    best: float | None = state["best"]
    return best


def check_same_data(folder: RunFolder, data: RunData, reporter: ProgressReporter) -> None:
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
        reporter.note(
            f"this run began with {threads_before} threads and resumes with {threads}: "
            "it will not repeat an uninterrupted run bit for bit"
        )
