"""The other choices of a plugin's settings: each bool, and each word or number of a Literal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import attrs

from ..errors import MtlError
from .encoder.offline import offline
from .kit import message_of
from .requirements import Skip, require
from .subject import Subject
from .trees import equal

S = TypeVar("S", bound=Subject[Any])
Choice = tuple[str, object]
"""The key of a setting, and one of its values."""


def require_effects(subject: S, *behaviors: Callable[[S], object]) -> None:
    """Require that no other choice leaves the behavior of the component as it is.

    A choice without an effect of its own is tried again beside each other choice.

    behaviors: each returns a tree of what the component computes. Choices that it refuses, or that
    need the network, are left out.
    """
    fields = attrs.fields(subject.cls)
    optional = [f.alias for f in fields if f.default is not attrs.NOTHING]
    if set(optional) & set(subject.fields):
        raise Skip("it is only tested with defaults: one setting may overrule another")
    choices = _other_choices(subject)
    if not choices:
        raise Skip("it has no setting that is a bool or a Literal")
    default = [behavior(subject) for behavior in behaviors]
    current = {f.alias: getattr(subject.component, f.name) for f in fields}
    idle: list[str] = []
    same_as: dict[str, None] = {}
    for choice in choices:
        key, value = choice
        others = [other for other in choices if other[0] != key]
        same = equal(default, _computed(subject, behaviors, choice))
        if same and not any(_matters_beside(other, choice, subject, behaviors) for other in others):
            idle.append(f"{key} = {value!r}")
            same_as[f"{key} = {current[key]!r}"] = None
    require(not idle, f"{', '.join(idle)} computes the same as {', '.join(same_as)}")


def _matters_beside(
    other: Choice, choice: Choice, subject: S, behaviors: Sequence[Callable[[S], object]]
) -> bool:
    """Whether a choice changes what the component computes with another one."""
    without = _computed(subject, behaviors, other)
    both = _computed(subject, behaviors, other, choice)
    return without is not None and both is not None and not equal(without, both)


def _computed(
    subject: S, behaviors: Sequence[Callable[[S], object]], *choices: Choice
) -> list[object] | None:
    """Return what the component computes with these choices. None: it refuses them.

    Raises AssertionError, which names the choices, if it fails with them.
    """
    fields = {**subject.fields, **dict(choices)}
    other = type(subject)(subject.name, subject.cls, fields, subject.catalog)
    with offline() as requests:
        try:
            _ = other.component
        except (MtlError, ValueError, TypeError):
            return None
        try:
            return [behavior(other) for behavior in behaviors]
        except (MtlError, Skip):
            return None
        except Exception as error:
            if isinstance(error, OSError) and requests:
                return None
            made = ", ".join(f"{key} = {value!r}" for key, value in choices)
            raise AssertionError(f"with {made}: {message_of(error)}") from error


def _other_choices(subject: Subject[Any]) -> list[Choice]:
    """Return each choice that the component has not made."""
    hints = get_type_hints(subject.cls)
    found: list[Choice] = []
    for field in attrs.fields(subject.cls):
        values: tuple[object, ...] = ()
        if hints[field.name] is bool:
            values = (False, True)
        elif get_origin(hints[field.name]) is Literal:
            values = get_args(hints[field.name])
        current = getattr(subject.component, field.name)
        found += [(field.alias, value) for value in values if field.init and value != current]
    return found
