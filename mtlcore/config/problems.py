"""From cattrs' tree of exceptions to lines that help: path, value, what was expected, nearest valid name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
from cattrs import (
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    StructureHandlerNotFoundError,
)

from ..errors import MtlError, nearest
from ..registry.catalog import one_line
from .strict import IllTypedError, describe


def unknown_key(path: str, key: str, known: Iterable[str]) -> str:
    """The line about a key that the table at `path` ("": the top) does not have."""
    return f"{path}.{key}".lstrip(".") + f": unknown key; {nearest(key, known)}"


def explain(error: BaseException, path: str) -> Iterator[str]:
    """One line for each thing that went wrong below `path`."""
    if isinstance(error, ClassValidationError):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            yield from _explain_field(inner, f"{path}.{note.name}", note.name, note.type)
        for other in others:
            yield from explain(other, path)
    elif isinstance(error, IterableValidationError):
        for inner, place in error.group_exceptions()[0]:
            yield from explain(inner, f"{path}[{place.index}]")
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [f.alias for f in attrs.fields(error.cl) if f.init]
        yield from (unknown_key(path, key, known) for key in sorted(error.extra_fields))
    else:
        yield _leaf(error, path)


def _explain_field(error: BaseException, path: str, name: str, kind: Any) -> Iterator[str]:
    if type(error) is KeyError and len(error.args) == 1 and error.args[0] == name:
        yield f"{path} is missing: expected {describe(kind)}"
    else:
        yield from explain(error, path)


def _leaf(error: BaseException, path: str) -> str:
    if isinstance(error, IllTypedError):
        hint = (
            f"; {nearest(error.value, error.known)}"
            if isinstance(error.value, str) and error.known
            else ""
        )
        return f"{path} = {_shown(error.value)}: expected {error.expected}{hint}"
    if isinstance(error, StructureHandlerNotFoundError):
        return f"{path}: its type {error.type_!r} can't be written in TOML"
    if isinstance(error, MtlError):
        said = one_line(error)
        return said if said.startswith(f"[{path}]") else f"{path}: {said}"
    if (
        isinstance(error, ValueError | TypeError) and error.args
    ):  # attrs' validators: (message, attribute, ...)
        field = error.args[1] if len(error.args) > 1 else None
        if isinstance(field, attrs.Attribute) and not path.endswith(f".{field.name}"):
            path = f"{path}.{field.name}"
        return f"{path}: {error.args[0]}"
    return f"{path}: {one_line(error)}"


def _shown(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:77]}..."
