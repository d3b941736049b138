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

# Optimizer -> the tensors that it keeps for a parameter that was updated.
KEPT = {
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}


class _MisfitError(Exception):
    """A part of the state that does not fit. Its text says what was found, and expected."""


def require_fitting(state: Mapping[str, object], train_state: TrainState, file: Path) -> None:
    """Raise MtlError if the contents of a state.pt do not fit this run."""
    try:
        _check_table("it", state, STATE)
        _check_optimizer("optimizer", state["optimizer"], train_state.optimizer.optimizer)
        learned = train_state.loss_weighting_optimizer
        if learned is not None:
            _check_optimizer("loss_weighting_optimizer", state["loss_weighting_optimizer"], learned)
        _check_precision(state["precision"], train_state)
        _check_table("callbacks", state["callbacks"], CALLBACKS)
        _check_record(state["record"])
        for cached in _items(state["cached_task_weights"]):
            _check_cached(cached, train_state)
    except _MisfitError as misfit:
        raise MtlError(
            f"{file} does not fit this run: {misfit}. Copy it from a backup of the run"
        ) from misfit


def _check_table(name: str, table: object, expected: Mapping[str, object]) -> None:
    """Check the keys of a dict, and the types of its values."""
    if not isinstance(table, dict) or table.keys() != expected.keys():
        raise _MisfitError(f"{name}: expected exactly the keys {', '.join(expected)}")
    for key, kind in expected.items():
        # isinstance takes classes and unions of them.
        if not isinstance(table[key], kind):  # type: ignore[arg-type]
            raise _MisfitError(f"{name}: {key} has the type {type(table[key]).__name__}")


def _check_optimizer(name: str, saved: object, optimizer: torch.optim.Optimizer) -> None:
    _check_table(name, saved, {"state": dict, "param_groups": list})
    assert isinstance(saved, dict)
    own = optimizer.state_dict()["param_groups"]
    if len(saved["param_groups"]) != len(own):
        raise _MisfitError(
            f"{name} has {len(saved['param_groups'])} parameter groups, expected {len(own)}"
        )
    for number, (group, expected) in enumerate(zip(saved["param_groups"], own)):
        _check_group(f"{name}: parameter group {number}", group, expected)

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = KEPT[type(optimizer)]
    for number, tensors in saved["state"].items():
        if not isinstance(number, int) or not 0 <= number < len(parameters):
            raise _MisfitError(f"{name} has a parameter {number!r} of {len(parameters)}")
        _check_kept(f"{name}: parameter {number}", tensors, parameters[number], kept)


def _check_group(name: str, group: object, expected: Mapping[str, object]) -> None:
    if not isinstance(group, dict) or group.keys() != expected.keys():
        raise _MisfitError(f"{name}: expected exactly the keys {', '.join(expected)}")
    if group["params"] != expected["params"]:
        raise _MisfitError(f"{name} has other parameters")
    for key, value in expected.items():
        if not _same_kind(group[key], value):
            raise _MisfitError(
                f"{name}: {key} = {group[key]!r}, expected a value such as {value!r}"
            )


def _check_kept(name: str, tensors: object, parameter: Tensor, kept: set[str]) -> None:
    if not isinstance(tensors, dict) or tensors.keys() != kept:
        raise _MisfitError(f"{name}: expected exactly the keys {', '.join(sorted(kept))}")
    for key, tensor in tensors.items():
        if key == "step":
            _check_tensor(f"{name}: {key}", tensor, torch.Size(), torch.float32)
        else:
            _check_tensor(f"{name}: {key}", tensor, parameter.shape, parameter.dtype)


def _check_tensor(name: str, tensor: object, shape: torch.Size, dtype: torch.dtype) -> None:
    expected = f"expected {dtype} of shape {tuple(shape)}"
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        raise _MisfitError(f"{name} is not a dense tensor, {expected}")
    if tensor.shape != shape or tensor.dtype != dtype:
        raise _MisfitError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, {expected}")


def _check_precision(saved: object, train_state: TrainState) -> None:
    own = train_state.fabric.strategy.precision.state_dict()
    kinds = dict.fromkeys(own, int | float)
    _check_table("precision", saved, kinds)


def _check_record(saved: object) -> None:
    _check_table("record", saved, RECORD)
    assert isinstance(saved, dict)
    pending, names = saved["pending"], saved["names"]
    if pending.ndim != 2 or pending.shape[1] != len(names) or not all(map(_is_text, names)):
        raise _MisfitError(
            f"record: pending has the shape {tuple(pending.shape)}, expected (n, {len(names)})"
        )


def _check_cached(cached: object, train_state: TrainState) -> None:
    _check_table("cached_task_weights", cached, CACHED)
    assert isinstance(cached, dict)
    unknown = [name for name in cached["names"] if name not in train_state.experiment.entries]
    if unknown:
        raise _MisfitError(f"cached_task_weights: the run has no task or pretext {unknown[0]!r}")
    shape = torch.Size([len(cached["names"])])
    _check_tensor("cached_task_weights", cached["task_weight"], shape, torch.float32)


def _items(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _same_kind(value: object, expected: object) -> bool:
    """Whether two hyperparameters have the same type; any number may replace another one."""
    numbers = (int, float)
    if type(value) in numbers and type(expected) in numbers:
        return True
    if isinstance(value, tuple | list) and isinstance(expected, tuple | list):
        return len(value) == len(expected)
    return type(value) is type(expected)
