"""From cattrs' tree of exceptions to lines for a user.

Each line has the path of the key, its value, what was expected, and the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
from cattrs import (
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    StructureHandlerNotFoundError,
)

from ..errors import MtlError, nearest
from ..registry.records import one_line
from .strict import IllTypedError, TypeHint, describe

LONGEST_VALUE = 80  # characters of a value that a message shows


def unknown_key(path: str, key: str, known: Iterable[str]) -> str:
    """Return the line about an unknown key of the table at `path` ("" for the top)."""
    return f"{path}.{key}".lstrip(".") + f": unknown key; {nearest(key, known)}"


def explain(error: BaseException, path: str) -> Iterator[str]:
    """Yield one line for each problem below `path`."""
    if isinstance(error, ClassValidationError):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            yield from _explain_field(inner, f"{path}.{note.name}", note.name, note.type)
        for other in others:
            yield from explain(other, path)
    elif isinstance(error, IterableValidationError):
        noted_items, _ = error.group_exceptions()
        for inner, place in noted_items:
            yield from explain(inner, f"{path}[{place.index}]")
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [f.alias for f in attrs.fields(error.cl) if f.init]
        for key in sorted(error.extra_fields):
            yield unknown_key(path, key, known)
    else:
        yield _explain_leaf(error, path)


def _explain_field(error: BaseException, path: str, name: str, kind: TypeHint) -> Iterator[str]:
    # cattrs reports a missing required field as a KeyError of its name.
    if type(error) is KeyError and error.args == (name,):
        yield f"{path} is missing: expected {describe(kind)}"
    else:
        yield from explain(error, path)


def _explain_leaf(error: BaseException, path: str) -> str:
    """Return the line about one exception that holds no others."""
    if isinstance(error, IllTypedError):
        line = f"{path} = {_shorten(error.value)}: expected {error.expected}"
        if isinstance(error.value, str) and error.known:
            line += f"; {nearest(error.value, error.known)}"
        return line

    if isinstance(error, StructureHandlerNotFoundError):
        return f"{path}: its type {error.type_!r} can't be written in TOML"

    if isinstance(error, MtlError):
        line = one_line(error)
        return line if line.startswith(f"[{path}]") else f"{path}: {line}"

    # Validators of attrs raise with the arguments (message, attribute, ...).
    if isinstance(error, ValueError | TypeError) and error.args:
        field = error.args[1] if len(error.args) > 1 else None
        if isinstance(field, attrs.Attribute) and not path.endswith(f".{field.name}"):
            path = f"{path}.{field.name}"
        return f"{path}: {error.args[0]}"

    return f"{path}: {one_line(error)}"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
