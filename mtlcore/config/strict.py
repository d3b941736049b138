"""The cattrs converter of configurations: nothing is converted that the user did not write.

cattrs alone turns 3.7 into 3, True into 1, "12" into 12 and "abc" into ("a", "b", "c") without a word. Here an int is
an int; a float may be written as an int; lists are lists; unknown keys are refused; each field's validator runs beside
its type check, so that every problem of a table is found at once, each with its own path.
"""

from __future__ import annotations

import contextlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from cattrs import Converter, IterableValidationError
from cattrs.errors import IterableValidationNote
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from ..contracts import KINDS
from .overrides import Word, plain

Hook = Callable[[Any, Any], Any]


class IllTypedError(ValueError):
    """A value that is not what its field expects."""

    def __init__(self, value: Any, expected: str, known: Iterable[str] = ()) -> None:
        super().__init__(value, expected)
        self.value, self.expected, self.known = plain(value), expected, tuple(known)


def describe(kind: Any) -> str:
    """A type in a user's words."""
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        Path: "a path (a string)",
    }
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if _is_union(kind):
        return " or ".join(describe(k) for k in _members(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(repr(m.value) for m in kind)}"
    if _is_list(kind):
        return _describe_list(kind)
    return "a table" if _is_mapping(kind) or attrs.has(kind) else words.get(kind, str(kind))


def _describe_list(kind: Any) -> str:
    inner = get_args(kind)
    if not inner:
        return "a list"
    if _is_open(kind):
        return f"a list, each {describe(inner[0])}"
    return f"a list of {len(inner)}: {', '.join(describe(k) for k in inner)}"


# ------------------------------------------------------------------------------------------------ scalars


def _bool(value: Any, _: Any) -> bool:
    if isinstance(said := plain(value), bool):
        return said
    raise IllTypedError(value, describe(bool))


def _int(value: Any, _: Any) -> int:
    said = plain(value)
    if isinstance(said, int) and not isinstance(said, bool):
        return said
    raise IllTypedError(value, describe(int))


def _float(value: Any, _: Any) -> float:
    said = plain(value)
    if isinstance(said, int | float) and not isinstance(said, bool):
        try:
            return float(said)
        except OverflowError:
            pass
    raise IllTypedError(value, describe(float))


def _str(value: Any, _: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise IllTypedError(value, describe(str))


def _path(value: Any, _: Any) -> Path:
    """Absolute, so that a saved configuration means the same from any folder."""
    if not isinstance(value, str) or not value:
        raise IllTypedError(value, describe(Path))
    try:
        return Path(str(value)).expanduser().absolute()
    except RuntimeError as error:  # "~nobody"
        raise IllTypedError(value, f"a path: {error}") from error


def _choice(known: Sequence[Any], results: Sequence[Any], expected: str) -> Hook:
    def structure(value: Any, _: Any) -> Any:
        for said in (plain(value), str(value)) if isinstance(value, Word) else (value,):
            for option, result in zip(known, results):
                if type(option) is type(said) and option == said:
                    return result
        raise IllTypedError(value, expected, known=[o for o in known if isinstance(o, str)])

    return structure


# ------------------------------------------------------------------------------------------------ what holds others


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _members(union: Any) -> list[Any]:
    return [
        k for k in get_args(union) if k is not type(None)
    ]  # TOML has no null: a key is there, or it is not


def _is_list(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (tuple, list, set, frozenset, Sequence)


def _is_mapping(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (dict, Mapping)


def _is_open(kind: Any) -> bool:
    """Any number of items, all of one type?"""
    return get_origin(kind) is not tuple or get_args(kind)[1:] == (...,)


def _list_hook(kind: Any, converter: Converter) -> Hook:
    inner, make = get_args(kind), get_origin(kind) or kind
    make = tuple if make is Sequence else make

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise IllTypedError(value, describe(kind))
        if not inner:
            return make(value)
        if not _is_open(kind) and len(value) != len(inner):
            raise IllTypedError(value, describe(kind))
        kinds = [inner[0]] * len(value) if _is_open(kind) else inner
        return make(_each(zip(range(len(value)), value, kinds), kind, converter))

    return structure


def _mapping_hook(kind: Any, converter: Converter) -> Hook:
    inner = (*get_args(kind), Any, Any)[1] if get_args(kind) else Any

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise IllTypedError(value, "a table")
        return dict(zip(value, _each(((k, v, inner) for k, v in value.items()), kind, converter)))

    return structure


def _each(items: Iterable[tuple[Any, Any, Any]], kind: Any, converter: Converter) -> list[Any]:
    """(index, value, type) -> the structured values; all that went wrong, with its index."""
    done, errors = [], []
    for index, value, inner in items:
        try:
            done.append(converter.structure(value, inner))
        except Exception as error:  # noqa: BLE001 - kept with its place, and raised below
            error.add_note(IterableValidationNote(f"at {index}", index, inner))
            errors.append(error)
    if errors:
        raise IterableValidationError("list", errors, kind)
    return done


def _union_hook(kind: Any, converter: Converter) -> Hook:
    members = _members(kind)

    def structure(value: Any, _: Any) -> Any:
        if len(members) == 1:
            return converter.structure(value, members[0])
        for said in (plain(value), value):
            for member in members:
                try:
                    return converter.structure(said, member)
                except Exception:  # noqa: BLE001 - another member may take it
                    continue
        raise IllTypedError(value, describe(kind))

    return structure


def _attrs_hook(cls: Any, converter: Converter) -> Hook:
    attrs.resolve_types(cls)
    hooks: dict[str, Any] = {
        f.name: override(struct_hook=_field_hook(f, converter)) for f in attrs.fields(cls) if f.init
    }
    inner = make_dict_structure_fn(
        cls,
        converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
        _cattrs_use_alias=True,
        **hooks,
    )

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise IllTypedError(value, "a table")
        return inner(value, cls)

    return structure


def _field_hook(field: attrs.Attribute[Any], converter: Converter) -> Hook:
    kind = Any if field.type is None else field.type

    def structure(value: Any, _: Any) -> Any:
        result = converter.structure(value, kind)
        if field.validator is not None and field.converter is None:
            with contextlib.suppress(
                AttributeError
            ):  # it reads other fields: it has its say when the object is built
                field.validator(typing.cast("Any", None), field, result)
        return result

    return structure


def _converter() -> Converter:
    made = Converter(forbid_extra_keys=True)
    factories: list[tuple[Callable[[Any], bool], Callable[[Any, Converter], Hook]]] = [
        (attrs.has, _attrs_hook),
        (_is_list, _list_hook),
        (_is_mapping, _mapping_hook),
        (_is_union, _union_hook),
        (
            lambda k: get_origin(k) is Literal,
            lambda k, _: _choice(get_args(k), get_args(k), describe(k)),
        ),
        (lambda k: isinstance(k, type) and issubclass(k, Enum), lambda k, _: _enum(k)),
        (lambda k: k is Any or k is object, lambda _, __: lambda value, ___: plain(value)),
        (lambda k: k in KINDS.values(), lambda _, __: lambda value, ___: value),  # built already
    ]
    for predicate, factory in factories:
        made.register_structure_hook_factory(predicate, factory)
    scalars: dict[Any, Hook] = {bool: _bool, int: _int, float: _float, str: _str, Path: _path}
    for scalar, hook in scalars.items():
        made.register_structure_hook(scalar, hook)
    made.register_unstructure_hook(Path, str)
    made.register_unstructure_hook_factory(
        attrs.has, lambda cls: make_dict_unstructure_fn(cls, made, _cattrs_use_alias=True)
    )
    return made


def _enum(kind: type[Enum]) -> Hook:
    return _choice([m.value for m in kind], list(kind), describe(kind))


converter = _converter()
