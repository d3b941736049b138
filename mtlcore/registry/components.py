"""What a component class is called, and what is wrong with one that can't be used."""

from __future__ import annotations

import inspect
import re
from typing import Any, TypeGuard

import attrs

from ..contracts import KINDS, Component

RESERVED: dict[str, frozenset[str]] = {
    "task": frozenset({"name", "weight"}),
    "pretext": frozenset({"name", "weight", "supervised", "samples", "control"}),
    "dataset": frozenset(
        {
            "name",
            "labels",
            "unlabeled",
            "limit",
            "split",
            "group",
            "weight",
            "max_bad",
            "exclude_duplicates",
        }
    ),
}
"""The keys that the core itself reads in the tables of a kind: no plugin may have a field of such a name."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


def reserved(kind: str) -> frozenset[str]:
    """The keys of a kind's tables that are the core's own."""
    return RESERVED.get(kind, frozenset({"name"}))


def component_name(cls: type) -> str:
    """The class's own `name`, or its name in snake_case: PCGrad -> pc_grad. A name is not inherited."""
    own = vars(cls).get("name")
    return own if isinstance(own, str) else snake(cls.__name__)


def snake(name: str) -> str:
    """LocalRotation -> local_rotation, PCGrad -> pc_grad."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def is_component(cls: object) -> TypeGuard[type[Component]]:
    """A class of one of the known kinds?"""
    return isinstance(cls, type) and any(issubclass(cls, base) for base in KINDS.values())


def fault(cls: type[Component]) -> str | None:
    """Why this class can't be a component; None where it can."""
    if inspect.isabstract(cls):
        return f"{cls.__name__} does not implement {', '.join(sorted(cls.__abstractmethods__))}"
    if "__attrs_attrs__" not in vars(cls):  # attrs.has() is true by inheritance
        return f"{cls.__name__} lacks @frozen (from attrs), so its fields would be ignored"
    if not _is_frozen(cls):
        return f"{cls.__name__} can be changed after it is built: use attrs' @frozen"
    if not _NAME.fullmatch(component_name(cls)):
        return f"{cls.__name__} is named {component_name(cls)!r}: expected lower-case letters, digits and _"
    if cls.kind == "task" and not hasattr(cls, "reads"):
        return f"{cls.__name__} does not say which annotation it `reads`"
    return _fault_of_fields(cls)


def _fault_of_fields(cls: Any) -> str | None:
    taken = sorted(reserved(cls.kind) & {f.name for f in attrs.fields(cls)})
    if taken:
        return f"{cls.__name__} has a field {taken[0]!r}: in the tables of a {cls.kind} that key is the core's own"
    if cls.family and not attrs.fields(cls):
        return f"{cls.__name__} is a family, and has no field for the part of the name after ':'"
    try:
        attrs.resolve_types(cls)
    except (NameError, TypeError, AttributeError) as error:
        return f"{cls.__name__} has a field whose type can't be resolved: {error}"
    return None


def _is_frozen(cls: Any) -> bool:
    try:
        setattr(object.__new__(cls), "probe", None)  # noqa: B010 - the question is whether it can be set
    except attrs.exceptions.FrozenInstanceError:
        return True
    except AttributeError:  # slots
        return False
    return False
