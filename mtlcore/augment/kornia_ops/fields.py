"""The fields of an operation of kornia: the arguments of its constructor, in types of TOML."""

from __future__ import annotations

import functools
import inspect
import operator
import types
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import torch
from attrs.validators import and_, ge, le

HIDDEN = frozenset(
    {
        "keepdim",
        "data_keys",
        "kwargs",
        "transformation_matrix_mode",
        "num_mix",  # a view has one partner
        "use_correct_lambda",  # of labels as kornia returns them
    }
)
"""Arguments that say how kornia is called, not what it does."""

ENUMS = {"resample": ("nearest", "bilinear", "bicubic")}
"""Argument -> its words, where kornia accepts a string, a number or a member of an Enum."""

_NONE = type(None)
_SCALARS = (bool, int, float, str)


@attrs.frozen
class Argument:
    """One argument of the constructor of an operation.

    type: as TOML can hold it.
    default: `attrs.NOTHING` if a table must set it.
    is_tensor: kornia accepts a tensor alone.
    """

    name: str
    type: Any
    default: Any
    is_tensor: bool

    def field(self) -> Any:
        """Return the attrs field of this argument."""
        is_probability = self.name in ("p", "p_batch")
        validator = and_(ge(0.0), le(1.0)) if is_probability else None
        return attrs.field(type=self.type, default=self.default, validator=validator)


def arguments(cls: type, hidden: frozenset[str]) -> tuple[Argument, ...]:
    """Return the arguments that a table can set. hidden: further ones that it can't."""
    construct: Callable[..., None] = cls.__init__  # type: ignore[misc]  # of this class alone
    hints = get_type_hints(construct)
    found: list[Argument] = []
    for name, parameter in inspect.signature(construct).parameters.items():
        if name == "self" or name in HIDDEN | hidden:
            continue
        kind = toml_type(hints[name])
        if kind is None:
            continue
        if name in ENUMS:
            kind = Literal[ENUMS[name]]
        has_default = parameter.default is not inspect.Parameter.empty
        default = _plain(parameter.default, name) if has_default else attrs.NOTHING
        found.append(Argument(name, kind, default, _is_tensor_alone(hints[name])))
    return tuple(found)


def toml_type(hint: Any) -> Any:
    """Return the type as TOML can hold it, or None if it can't.

    A tensor becomes a list of numbers. A number or a list stays, where kornia also accepts tensors.
    """
    if hint in _SCALARS or hint is _NONE:
        return hint
    if hint is torch.Tensor:
        return tuple[float, ...]
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _union(get_args(hint))
    if origin in (list, Sequence) or getattr(origin, "__name__", "") == "Sequence":
        item: Any = toml_type(get_args(hint)[0])
        return None if item is None else tuple[item, ...]
    if origin is tuple:
        items = [item if item is ... else toml_type(item) for item in get_args(hint)]
        return None if None in items else tuple[tuple(items)]  # type: ignore[misc]
    return None


def _union(members: Sequence[Any]) -> Any:
    named = any(isinstance(member, type) and issubclass(member, Enum) for member in members)
    kept = [member for member in members if member is not torch.Tensor]
    if all(member is _NONE for member in kept):
        kept = list(members)
    found: list[Any] = []
    for member in kept:
        kind = toml_type(member)
        is_number_of_enum = named and kind is int
        if kind is not None and kind not in found and not is_number_of_enum:
            found.append(kind)
    # A list of a fixed length says more than one of any length.
    fixed = [kind for kind in found if get_origin(kind) is tuple and ... not in get_args(kind)]
    if fixed:
        found = [k for k in found if get_origin(k) is not tuple or ... not in get_args(k)]
    if not found or found == [_NONE]:
        return None
    return functools.reduce(operator.or_, found)


def _plain(default: Any, name: str) -> Any:
    if isinstance(default, Enum):
        default = default.name
    if isinstance(default, list):
        default = tuple(default)
    # "ZEROS" is the name of a member of an Enum, "zeros" the same as a word.
    is_name = isinstance(default, str) and default.isupper()
    return default.lower() if is_name or name in ENUMS else default


def _is_tensor_alone(hint: Any) -> bool:
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return torch.Tensor in members and set(members) <= {torch.Tensor, _NONE}
