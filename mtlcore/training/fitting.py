"""Check that the contents of state.pt fit the networks and optimizers of a run.

torch's fused optimizers write through the shapes of the parameters: a state of another shape
corrupts memory. So everything is checked before any of it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import MtlError
from .optim import adam
from .optimizer_state import MisfitError, check_optimizer_state, check_table, check_tensor
from .record import COUNTERS
from .state import TrainState

# Key -> the types of its value.
STATE = {
    "step": int,
    "optimizer": dict,
    "loss_weighting": dict,
    "loss_weighting_optimizer": dict,
    "precision": dict,
    "record": dict,
    "best": float | None,
    "pending": bool,
    "closed": bool,
    "cached_task_weights": list,
    "callbacks": dict,
}
CALLBACKS = {
    "states": dict,
    "failures": dict,
    "measured": dict,
    "tables": dict,
    "added": dict,
    "stopped": tuple | None,
    "unwritten": dict,
}
RECORD = dict.fromkeys(COUNTERS, int | float) | {"names": list, "pending": Tensor}
CACHED = {"names": list, "task_weight": Tensor, "step": int}


def require_fitting(state: Mapping[str, object], train_state: TrainState, file: Path) -> None:
    """Raise MtlError if the contents of a state.pt do not fit this run."""
    try:
        check_table("it", state, STATE)
        own, build = train_state.optimizer.optimizer, train_state.experiment.optimizer.build
        check_optimizer_state("optimizer", state["optimizer"], own, build)
        learned = train_state.loss_weighting_optimizer
        if learned is not None:
            saved = state["loss_weighting_optimizer"]
            check_optimizer_state("loss_weighting_optimizer", saved, learned, adam)
        _check_precision(state["precision"], train_state)
        check_table("callbacks", state["callbacks"], CALLBACKS)
        _check_record(state["record"])
        for cached in _items(state["cached_task_weights"]):
            _check_cached(cached, train_state)
    except MisfitError as misfit:
        raise MtlError(
            f"{file} does not fit this run: {misfit}. Copy it from a backup of the run"
        ) from misfit


def _check_precision(saved: object, train_state: TrainState) -> None:
    own = train_state.fabric.strategy.precision.state_dict()
    kinds = dict.fromkeys(own, int | float)
    check_table("precision", saved, kinds)


def _check_record(saved: object) -> None:
    check_table("record", saved, RECORD)
    assert isinstance(saved, dict)
    pending, names = saved["pending"], saved["names"]
    if pending.ndim != 2 or pending.shape[1] != len(names) or not all(map(_is_text, names)):
        raise MisfitError(
            f"record: pending has the shape {tuple(pending.shape)}, expected (n, {len(names)})"
        )


def _check_cached(cached: object, train_state: TrainState) -> None:
    check_table("cached_task_weights", cached, CACHED)
    assert isinstance(cached, dict)
    unknown = [name for name in cached["names"] if name not in train_state.experiment.entries]
    if unknown:
        raise MisfitError(f"cached_task_weights: the run has no task or pretext {unknown[0]!r}")
    shape = torch.Size([len(cached["names"])])
    check_tensor("cached_task_weights", cached["task_weight"], shape, torch.float32)


def _items(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str)
