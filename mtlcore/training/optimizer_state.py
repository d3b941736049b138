"""Check that the saved state of an optimizer fits this one, before any of it is loaded.

What an optimizer keeps for a parameter is found by a step of a new one, built the same way, on one
parameter of each shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from ..contracts import ParameterGroup

Build = Callable[[Sequence[ParameterGroup]], torch.optim.Optimizer]
Kept = Mapping[str, object]
"""What an optimizer keeps for one parameter: tensors, numbers, None."""


class MisfitError(Exception):
    """A part of the state that does not fit. Its text says what was found, and expected."""


@frozen
class _Examples:
    """States after a step. kept: (group, shape) -> what is kept. groups: their further keys."""

    kept: Mapping[tuple[int, torch.Size], Kept]
    groups: Sequence[Mapping[str, object]]


def check_optimizer_state(
    name: str, saved: object, optimizer: torch.optim.Optimizer, build: Build
) -> None:
    """Raise MisfitError if a saved state does not fit. build: as the optimizer was built."""
    check_table(name, saved, {"state": dict, "param_groups": list})
    assert isinstance(saved, dict)
    own = optimizer.state_dict()["param_groups"]
    if len(saved["param_groups"]) != len(own):
        raise MisfitError(
            f"{name} has {len(saved['param_groups'])} parameter groups, expected {len(own)}"
        )
    examples = _examples(optimizer, build)
    for number, (group, expected) in enumerate(zip(saved["param_groups"], own)):
        where = f"{name}: parameter group {number}"
        _check_group(where, group, expected, examples.groups[number])

    parameters: list[tuple[int, nn.Parameter]] = []
    for number, group in enumerate(optimizer.param_groups):
        parameters += [(number, p) for p in group["params"]]
    for number, kept in saved["state"].items():
        if not isinstance(number, int) or not 0 <= number < len(parameters):
            raise MisfitError(f"{name} has a parameter {number!r} of {len(parameters)}")
        in_group, parameter = parameters[number]
        expected = examples.kept[in_group, parameter.shape]
        _check_kept(f"{name}: parameter {number}", kept, parameter, expected)


def check_table(name: str, table: object, expected: Mapping[str, object]) -> None:
    """Check the keys of a dict, and the types of its values."""
    if not isinstance(table, dict) or table.keys() != expected.keys():
        raise MisfitError(f"{name}: expected exactly the keys {', '.join(expected)}")
    for key, kind in expected.items():
        # isinstance takes classes and unions of them.
        if not isinstance(table[key], kind):  # type: ignore[arg-type]
            raise MisfitError(f"{name}: {key} has the type {type(table[key]).__name__}")


def check_tensor(name: str, tensor: object, shape: torch.Size, dtype: torch.dtype) -> None:
    """Check that a value is a dense tensor of this shape and dtype."""
    expected = f"expected {dtype} of shape {tuple(shape)}"
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        raise MisfitError(f"{name} is not a dense tensor, {expected}")
    if tensor.shape != shape or tensor.dtype != dtype:
        raise MisfitError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, {expected}")


def _examples(optimizer: torch.optim.Optimizer, build: Build) -> _Examples:
    """Take a step of a new optimizer on one parameter of each shape of each group."""
    groups: list[ParameterGroup] = []
    keys: list[tuple[int, torch.Size]] = []
    for number, group in enumerate(optimizer.param_groups):
        by_shape = {p.shape: p for p in group["params"]}
        copies: list[nn.Parameter] = []
        for shape, parameter in by_shape.items():
            copy = nn.Parameter(torch.zeros_like(parameter))
            copy.grad = torch.ones_like(parameter)
            copies.append(copy)
            keys.append((number, shape))
        groups.append({"params": copies, "weight_decay": group["weight_decay"]})

    with torch.random.fork_rng(devices=[]):
        made = build(groups)
        made.step()
    state = made.state_dict()
    kept = {key: state["state"].get(number, {}) for number, key in enumerate(keys)}
    return _Examples(kept, state["param_groups"])


def _check_group(
    name: str, group: object, expected: Mapping[str, object], later: Mapping[str, object]
) -> None:
    """Check the hyperparameters of a group. later: those of one that took a step."""
    if not isinstance(group, dict):
        raise MisfitError(f"{name} is no table")
    if not expected.keys() <= group.keys() <= expected.keys() | later.keys():
        raise MisfitError(f"{name}: expected exactly the keys {', '.join(expected)}")
    if group["params"] != expected["params"]:
        raise MisfitError(f"{name} has other parameters")
    known = {**later, **expected}
    for key, value in group.items():
        if key != "params" and not _same_kind(value, known[key]):
            raise _misfit(f"{name}: {key}", value, known[key])


def _check_kept(name: str, kept: object, parameter: nn.Parameter, expected: Kept) -> None:
    if not isinstance(kept, dict) or not expected.keys() <= kept.keys():
        raise MisfitError(f"{name}: expected exactly the keys {', '.join(sorted(expected))}")
    for key, value in kept.items():
        # Lookahead keeps a copy of the parameter from its sixth step on.
        like = expected.get(key, parameter)
        if isinstance(like, Tensor):
            check_tensor(f"{name}: {key}", value, like.shape, like.dtype)
        elif not _same_kind(value, like):
            raise _misfit(f"{name}: {key}", value, like)


def _misfit(name: str, value: object, expected: object) -> MisfitError:
    return MisfitError(f"{name} = {_shown(value)}, expected a value such as {_shown(expected)}")


def _shown(value: object) -> str:
    """The value for a message; a tensor by its shape."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple) and any(isinstance(x, Tensor) for x in value):
        return f"a {type(value).__name__} of length {len(value)}"
    return repr(value)


def _same_kind(value: Any, expected: Any) -> bool:
    """Whether two values have the same type; any number may replace another one."""
    numbers = (int, float)
    if type(value) in numbers and type(expected) in numbers:
        return True
    if isinstance(value, tuple | list) and isinstance(expected, tuple | list):
        return len(value) == len(expected)
    return type(value) is type(expected)
