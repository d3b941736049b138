"""The other choices of a plugin's settings: each bool, and each word or number of a Literal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import attrs

from ..errors import MtlError
from .encoder.offline import offline
from .requirements import Skip, require
from .subject import Subject
from .trees import equal

S = TypeVar("S", bound=Subject[Any])


def require_effects(subject: S, *behaviors: Callable[[S], object]) -> None:
    """Require that no other choice leaves the behavior of the component as it is.

    behaviors: each returns a tree of what the component computes. Choices that it refuses, or that
    need the network, are left out.
    """
    optional = [f.name for f in attrs.fields(subject.cls) if f.default is not attrs.NOTHING]
    if set(optional) & set(subject.fields):
        raise Skip("it is only tested with defaults: one setting may overrule another")
    other_fields = _other_choices(subject)
    if not other_fields:
        raise Skip("it has no setting that is a bool or a Literal")
    before = [behavior(subject) for behavior in behaviors]
    idle: list[str] = []
    current: dict[str, None] = {}
    for name, value in other_fields:
        fields = {**subject.fields, name: value}
        other = type(subject)(subject.name, subject.cls, fields, subject.catalog)
        try:
            with offline():
                same = all(equal(b, behavior(other)) for b, behavior in zip(before, behaviors))
        except (MtlError, ValueError, OSError):
            continue
        if same:
            idle.append(f"{name} = {value!r}")
            current[f"{name} = {getattr(subject.component, name)!r}"] = None
    require(not idle, f"{', '.join(idle)} computes the same as {', '.join(current)}")


def _other_choices(subject: Subject[Any]) -> list[tuple[str, object]]:
    """(field, value) of each choice that the component has not made."""
    hints = get_type_hints(subject.cls)
    found: list[tuple[str, object]] = []
    for field in attrs.fields(subject.cls):
        values: tuple[object, ...] = ()
        if hints[field.name] is bool:
            values = (False, True)
        elif get_origin(hints[field.name]) is Literal:
            values = get_args(hints[field.name])
        current = getattr(subject.component, field.name)
        found += [(field.name, value) for value in values if field.init and value != current]
    return found
