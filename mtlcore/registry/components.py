"""The name of a component class, and the rules that the class must meet."""

from __future__ import annotations

import inspect
import re
from typing import TypeGuard

import attrs

from ..contracts import BASES, Component

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
            "license",
        }
    ),
    "encoder": frozenset({"name", "freeze"}),
    "optimizer": frozenset({"name", "encoder_lr", "layer_decay", "groups"}),
}
"""kind -> the keys of its tables that the core reads. No plugin may have a field of this name."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


def reserved(kind: str) -> frozenset[str]:
    """The keys that the core reads in the tables of this kind."""
    return RESERVED.get(kind, frozenset({"name"}))


def component_name(cls: type) -> str:
    """The class's own `name`, or the class name in snake_case: PCGrad -> pc_grad.

    A subclass does not inherit the `name` of its base.
    """
    own = vars(cls).get("name")
    return own if isinstance(own, str) else snake(cls.__name__)


def snake(name: str) -> str:
    """LocalRotation -> local_rotation, PCGrad -> pc_grad."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def is_component(cls: object) -> TypeGuard[type[Component]]:
    """Whether this object is a class of one of the known kinds."""
    return isinstance(cls, type) and any(issubclass(cls, base) for base in BASES.values())


def fault(cls: type[Component]) -> str | None:
    """Why this class can't be a component; None where it can."""
    name = component_name(cls)
    if inspect.isabstract(cls):
        return f"{cls.__name__} does not implement {', '.join(sorted(cls.__abstractmethods__))}"
    if "__attrs_attrs__" not in vars(cls):  # attrs.has() is also true where only a base has fields
        return f"{cls.__name__} lacks @frozen (from attrs), so its fields would be ignored"
    if not _is_frozen(cls):
        return f"{cls.__name__} can be changed after it is built: use attrs' @frozen"
    if not _NAME.fullmatch(name):
        return f"{cls.__name__} is named {name!r}: expected lower-case letters, digits and _"
    if cls.kind == "task" and not hasattr(cls, "reads"):
        return f"{cls.__name__} does not say which annotation it `reads`: add a field `reads`"
    return _fault_of_fields(cls)


def default_of(cls: type[Component]) -> Component | None:
    """Return the component with every key at its default, or None if it requires a key."""
    fields = attrs.fields(cls)  # type: ignore[arg-type]  # a component is an attrs class
    if any(f.init and f.default is attrs.NOTHING for f in fields):
        return None
    return cls()


def is_default(label: str, component: Component) -> bool:
    """Return whether the catalog has the same component under this label without a table."""
    cls = type(component)
    return component_name(cls) == label and default_of(cls) == component


def _fault_of_fields(cls: type[Component]) -> str | None:
    fields = attrs.fields(cls)  # type: ignore[arg-type]  # checked above: it is an attrs class
    taken = sorted(reserved(cls.kind) & {f.name for f in fields})
    if taken:
        return (
            f"{cls.__name__} has a field {taken[0]!r}: "
            f"the core itself reads that key in the tables of a {cls.kind}; rename the field"
        )
    if cls.family and not fields:
        return f"{cls.__name__} is a family, but has no field for the part of the name after ':'"
    try:
        attrs.resolve_types(cls)  # type: ignore[type-var]
    except (NameError, TypeError, AttributeError) as error:
        return f"{cls.__name__} has a field whose type can't be resolved: {error}"
    return None


def _is_frozen(cls: type) -> bool:
    """Whether setting an attribute raises.

    It is tried, since attrs does not record on the class whether it is frozen.
    """
    try:
        setattr(object.__new__(cls), "probe", None)  # noqa: B010 - mypy refuses an assignment
    except attrs.exceptions.FrozenInstanceError:
        return True
    except AttributeError:
        # A class with slots that is not frozen has no attribute `probe`; its fields can be set.
        return False
    return False
