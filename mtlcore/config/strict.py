"""The cattrs converter of configurations. It never changes the type of a value.

By default, cattrs silently converts 3.7 to 3, True to 1, "12" to 12 and "abc" to ("a", "b", "c").
Here an int must be an int. A float may be written as an int. Lists must be lists, and unknown keys
are errors. The validator of a field runs together with its type check. So all problems of a table
are found at once, each with its own path.
"""

from __future__ import annotations

import contextlib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter, IterableValidationError
from cattrs.errors import AttributeValidationNote, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from ..contracts import BASES
from ..files import Location, location
from ..image_size import WORDS as IMAGE_SIZE_IN_WORDS
from ..image_size import ImageSize, image_size, written
from .overrides import Word, plain
from .variants import Variant

TypeHint = Any
"""A type as written in an annotation: a class, a union, a Literal, `tuple[int, ...]`."""

LARGEST_INT = 2**63
"""The limit of whole numbers: torch and numpy have no larger ones."""

Hook = Callable[[Any, TypeHint], Any]
"""Convert a value to a type. Raises an exception if it can't."""


class IllTypedError(ValueError):
    """A value that does not have the type of its field.

    value: the value. expected: the type, in words. known: valid names, to suggest the nearest.
    """

    def __init__(self, value: object, expected: str, known: Iterable[str] = ()) -> None:
        super().__init__(value, expected)
        self.value = plain(value)
        self.expected = expected
        self.known = tuple(known)


# ------------------------------------------------------------------------------- types in words

_WORDS: dict[TypeHint, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path (a string)",
    Location: "a folder or a URL (a string)",
    ImageSize: IMAGE_SIZE_IN_WORDS,
}


def describe(kind: TypeHint) -> str:
    """Return a type in the words of a user."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if _is_union(kind):
        return " or ".join(describe(member) for member in _members(kind))
    if _is_enum(kind):
        return f"one of {', '.join(repr(member.value) for member in kind)}"
    if _is_list(kind):
        return _describe_list(kind)
    if _is_mapping(kind) or attrs.has(kind) or _is_variant(kind):
        return "a table"
    return _WORDS.get(kind, str(kind))


def _describe_list(kind: TypeHint) -> str:
    inner = get_args(kind)
    if not inner:
        return "a list"
    if _is_open(kind):
        return f"a list, each item {describe(inner[0])}"
    return f"a list of {len(inner)}: {', '.join(describe(item) for item in inner)}"


# ------------------------------------------------------------------------------------- scalars


def _bool(value: object, _: TypeHint) -> bool:
    scalar = plain(value)
    if isinstance(scalar, bool):
        return scalar
    raise IllTypedError(value, describe(bool))


def _int(value: object, _: TypeHint) -> int:
    scalar = plain(value)
    if isinstance(scalar, int) and not isinstance(scalar, bool):
        if abs(scalar) < LARGEST_INT:
            return scalar
        raise IllTypedError(value, f"{describe(int)} between -2^63 and 2^63")
    raise IllTypedError(value, describe(int))


def _float(value: object, _: TypeHint) -> float:
    scalar = plain(value)
    if isinstance(scalar, int | float) and not isinstance(scalar, bool):
        with contextlib.suppress(OverflowError):
            if math.isfinite(scalar):
                return float(scalar)
        raise IllTypedError(value, "a finite number")
    raise IllTypedError(value, describe(float))


def _str(value: object, _: TypeHint) -> str:
    if isinstance(value, str):
        return _without_nul(str(value))
    raise IllTypedError(value, describe(str))


def _path(value: object, _: TypeHint) -> Path:
    # Absolute, so that a saved configuration means the same from any folder.
    if not isinstance(value, str) or not value:
        raise IllTypedError(value, describe(Path))
    try:
        return Path(_without_nul(str(value))).expanduser().absolute()
    except RuntimeError as error:  # "~name" of an unknown user
        raise IllTypedError(value, f"a path: {error}") from error


def _location(value: object, _: TypeHint) -> Path | str:
    if isinstance(value, str) and isinstance(location(value), str):
        return _without_nul(str(value))
    return _path(value, Path)


def _without_nul(text: str) -> str:
    # No file can have such a name: functions that open it raise a ValueError.
    if "\0" in text:
        raise IllTypedError(text, "a string without the character \\0")
    return text


def _image_size(value: object, _: TypeHint) -> tuple[int, int]:
    scalar = plain(value)
    if isinstance(scalar, int | list | tuple):
        with contextlib.suppress(ValueError):
            return image_size(scalar)
    raise IllTypedError(value, IMAGE_SIZE_IN_WORDS)


def _choice(known: Sequence[object], results: Sequence[object], expected: str) -> Hook:
    """Return a hook that accepts the values `known`, and converts each to its result."""
    names = [option for option in known if isinstance(option, str)]

    def structure(value: object, _: TypeHint) -> object:
        # `--set precision=32` is the number 32 in TOML, but the choice may be the string "32".
        candidates = (plain(value), str(value)) if isinstance(value, Word) else (value,)
        for candidate in candidates:
            for option, result in zip(known, results):
                # Types must be equal, too: 1 == True == 1.0 in Python.
                if type(option) is type(candidate) and option == candidate:
                    return result
        raise IllTypedError(value, expected, known=names)

    return structure


# ------------------------------------------------------------------------- containers and unions


def _is_enum(kind: TypeHint) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _is_union(kind: TypeHint) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _members(union: TypeHint) -> list[TypeHint]:
    # TOML has no null: a key is there, or it is not.
    return [member for member in get_args(union) if member is not type(None)]


def admits_none(kind: TypeHint) -> bool:
    """Return whether None is a value of this type. In TOML, such a key is left out."""
    return kind in (None, Any, object) or (_is_union(kind) and type(None) in get_args(kind))


def _container(kind: TypeHint) -> TypeHint:
    """Return the class of a container: list[int] -> list, list -> list."""
    return get_origin(kind) or kind


def _is_list(kind: TypeHint) -> bool:
    return _container(kind) in (tuple, list, set, frozenset, Sequence)


def _is_mapping(kind: TypeHint) -> bool:
    return _container(kind) in (dict, Mapping)


def _is_open(kind: TypeHint) -> bool:
    """Return whether a list type has any number of items, all of one type."""
    return get_origin(kind) is not tuple or get_args(kind)[1:] == (...,)


def _list_hook(kind: TypeHint, converter: Converter) -> Hook:
    inner = get_args(kind)
    make = _container(kind)
    if make is Sequence:
        make = tuple

    def structure(value: object, _: TypeHint) -> object:
        if not isinstance(value, list | tuple):
            raise IllTypedError(value, describe(kind))
        if not inner:
            return make(value)
        if not _is_open(kind) and len(value) != len(inner):
            raise IllTypedError(value, describe(kind))
        kinds = [inner[0]] * len(value) if _is_open(kind) else inner
        return make(_each(zip(range(len(value)), value, kinds), kind, converter))

    return structure


def _mapping_hook(kind: TypeHint, converter: Converter) -> Hook:
    arguments = get_args(kind)
    inner = arguments[1] if arguments else Any

    def structure(value: object, _: TypeHint) -> object:
        if not isinstance(value, Mapping):
            raise IllTypedError(value, "a table")
        items = [(key, item, inner) for key, item in value.items()]
        return dict(zip(value, _each(items, kind, converter)))

    return structure


def _each(
    items: Iterable[tuple[object, object, TypeHint]], kind: TypeHint, converter: Converter
) -> list[object]:
    """Convert items (index, value, type). Raises one error with all problems and their indices."""
    done: list[object] = []
    errors = []
    for index, value, inner in items:
        try:
            done.append(converter.structure(value, inner))
        except Exception as error:  # noqa: BLE001 - raised below, with its place
            note: Any = index  # a number in a list, a key in a table
            error.add_note(IterableValidationNote(f"at {index}", note, inner))
            errors.append(error)
    if errors:
        raise IterableValidationError("list", errors, kind)
    return done


def _union_hook(kind: TypeHint, converter: Converter) -> Hook:
    members = _members(kind)
    literals = [member for member in members if get_origin(member) is Literal]
    names = [option for member in literals for option in get_args(member)]

    def structure(value: object, _: TypeHint) -> object:
        # With one member (`int | None`) its own error is more precise.
        if len(members) == 1:
            return converter.structure(value, members[0])
        for candidate in (plain(value), value):
            for member in members:
                try:
                    return converter.structure(candidate, member)
                except Exception:  # noqa: BLE001 - the next member may accept it
                    continue
        raise IllTypedError(value, describe(kind), known=filter(_is_text, names))

    return structure


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# --------------------------------------------------------------------------------- attrs classes


def _attrs_hook(cls: TypeHint, converter: Converter) -> Hook:
    attrs.resolve_types(cls)
    hooks: dict[str, Any] = {}
    for field in attrs.fields(cls):
        if field.init:
            hooks[field.name] = override(struct_hook=_field_hook(field, converter))
    inner = make_dict_structure_fn(
        cls,
        converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
        _cattrs_use_alias=True,
        **hooks,
    )

    def structure(value: object, _: TypeHint) -> object:
        if not isinstance(value, Mapping):
            raise IllTypedError(value, "a table")
        return inner(value, cls)

    return structure


def _field_hook(field: attrs.Attribute[Any], converter: Converter) -> Hook:
    """Return a hook that checks a field's type, then its validator."""
    kind = Any if field.type is None else field.type

    def structure(value: object, _: TypeHint) -> object:
        result = converter.structure(value, kind)
        if field.validator is not None and field.converter is None:
            # There is no instance yet. A validator that reads other fields of it raises
            # AttributeError here. It runs when the object is built.
            with contextlib.suppress(AttributeError):
                field.validator(typing.cast("Any", None), field, result)
        return result

    return structure


def _is_variant(kind: TypeHint) -> bool:
    return isinstance(kind, type) and issubclass(kind, Variant)


def _variant_hook(base: type[Variant], converter: Converter) -> Hook:
    """Return a hook for tables that name their own class."""
    if base.variant:
        return _attrs_hook(base, converter)

    def structure(value: object, _: TypeHint) -> object:
        if not isinstance(value, Mapping):
            raise IllTypedError(value, f"a table with the key {base.key!r}")
        table = dict(value)
        name = table.pop(base.key, None)
        known = base.variants()
        if not isinstance(name, str) or name not in known:
            raise _wrong_name(base, name, known)
        return converter.structure(table, known[name])

    return structure


def _wrong_name(base: type[Variant], name: object, known: Iterable[str]) -> Exception:
    """Return the error about a table without a valid name of its class."""
    if name is None:
        return ValueError(f"the key {base.key!r} is missing: expected {base.what}")
    error = IllTypedError(name, base.what, known)
    error.add_note(AttributeValidationNote(f"at {base.key}", base.key, str))
    return ClassValidationError("variant", [error], base)


def _write_variant(cls: type[Variant], converter: Converter) -> Callable[[Any], Any]:
    """Return a function that converts an object to its table."""
    if not cls.variant:
        return lambda value: converter.unstructure(value, unstructure_as=type(value))
    fields = make_dict_unstructure_fn(cls, converter, _cattrs_use_alias=True)
    return lambda value: {cls.key: cls.variant, **fields(value)}


# ----------------------------------------------------------------------------------- the converter


def _literal_hook(kind: TypeHint, _: Converter) -> Hook:
    return _choice(get_args(kind), get_args(kind), describe(kind))


def _enum_hook(kind: TypeHint, _: Converter) -> Hook:
    members = list(kind)
    return _choice([member.value for member in members], members, describe(kind))


def _plain_hook(_kind: TypeHint, _: Converter) -> Hook:
    def structure(value: object, _: TypeHint) -> object:
        scalar = plain(value)
        if not _is_finite(scalar):
            raise IllTypedError(value, "finite numbers")
        return scalar

    return structure


def _is_finite(value: object) -> bool:
    """Return whether no number at any depth is nan or infinite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_is_finite, value))


def _component_hook(_kind: TypeHint, _: Converter) -> Hook:
    return lambda value, _: value  # `Reader` has built it already


def _image_size_hook(_kind: TypeHint, _: Converter) -> Hook:
    return _image_size


def _is_image_size(kind: TypeHint) -> bool:
    return kind == ImageSize


def _location_hook(_kind: TypeHint, _: Converter) -> Hook:
    return _location


def _is_location(kind: TypeHint) -> bool:
    return kind == Location


def _is_literal(kind: TypeHint) -> bool:
    return get_origin(kind) is Literal


def _is_anything(kind: TypeHint) -> bool:
    return kind is Any or kind is object


def _is_component_kind(kind: TypeHint) -> bool:
    return kind in BASES.values()


def _converter() -> Converter:
    made = Converter(forbid_extra_keys=True)

    # cattrs asks the last registered factory first, so the order matters.
    factories: list[tuple[Callable[[Any], bool], Callable[[Any, Converter], Hook]]] = [
        (attrs.has, _attrs_hook),
        (_is_list, _list_hook),
        (_is_mapping, _mapping_hook),
        (_is_union, _union_hook),
        (_is_literal, _literal_hook),
        (_is_enum, _enum_hook),
        (_is_anything, _plain_hook),
        (_is_component_kind, _component_hook),
        (_is_image_size, _image_size_hook),
        (_is_variant, _variant_hook),
        (_is_location, _location_hook),
    ]
    for predicate, factory in factories:
        made.register_structure_hook_factory(predicate, factory)

    scalars: dict[TypeHint, Hook] = {bool: _bool, int: _int, float: _float, str: _str, Path: _path}
    for scalar, hook in scalars.items():
        made.register_structure_hook(scalar, hook)

    made.register_unstructure_hook(Path, str)
    made.register_unstructure_hook_func(_is_image_size, written)
    made.register_unstructure_hook_func(_is_location, str)
    made.register_unstructure_hook_factory(
        attrs.has, lambda cls: make_dict_unstructure_fn(cls, made, _cattrs_use_alias=True)
    )
    made.register_unstructure_hook_factory(_is_variant, lambda cls: _write_variant(cls, made))
    return made


converter = _converter()
