"""Convert values from Python code to the values that a TOML file would give.

Paths become absolute, a string becomes a `Path` or a member of an Enum, and a list becomes a tuple,
as the type of the field requires. A value of a wrong type raises the same error as in a TOML file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, cast

import attrs
from cattrs import StructureHandlerNotFoundError

from ..contracts import Component, SupervisedTask
from ..errors import MtlError, nearest
from .overrides import without_none
from .problems import explain
from .strict import TypeHint, admits_none, converter

T = TypeVar("T")
A = TypeVar("A", bound=type)
C = TypeVar("C", bound=Component)
E = TypeVar("E", bound="Settings")


def suggests_names(cls: A) -> A:
    """Make the constructor of an attrs class raise MtlError for an unknown argument.

    The message has the nearest valid name. Python's own TypeError has none.
    """
    construct: Callable[..., None] = cls.__init__  # type: ignore[misc]  # of this class alone

    @functools.wraps(construct)
    def checked(self: object, *args: object, **kwargs: object) -> None:
        known = [field.alias for field in attrs.fields(cls) if field.init]
        unknown = [name for name in kwargs if name not in known]
        if unknown:
            shown = (f"{cls.__name__}({name}=...): {nearest(name, known)}" for name in unknown)
            raise MtlError("\n".join(shown))
        construct(self, *args, **kwargs)

    cls.__init__ = checked  # type: ignore[misc]
    return cls


class Settings:
    """Base of the settings of a run: all fields are checked when an object is created.

    section: the table in a TOML file, such as "input".
    """

    __slots__ = ()
    section: ClassVar[str]

    def __attrs_pre_init__(self, *args: object, **kwargs: object) -> None:
        """Raise MtlError with one line for each argument of a wrong type or out of range."""
        cls: type = type(self)
        fields = _fields(cls) or {}
        given = dict(zip(fields, args)) | kwargs
        problems: list[str] = []
        for name, value in given.items():
            if value is not attrs.NOTHING and name != "component":
                problems += _problems(value, fields[name], f"{self.section}.{name}")
        if problems:
            raise MtlError("\n".join(problems))


def entries_as_read(
    given: Mapping[str, object], entry: type[E], kind: type, section: str
) -> dict[str, E]:
    """Return label -> entry. A component becomes an entry with defaults for all other keys.

    entry: `TaskEntry`, `PretextEntry` or `DataEntry`. kind: the base class of its component.

    Raises MtlError if a value has a wrong type.
    """
    items = _mapping(given, section).items()
    return {label: _entry(value, entry, kind, f"{section}.{label}") for label, value in items}


def _entry(value: object, cls: Any, kind: type, path: str) -> Any:
    """Return the entry of one label. An empty `reads` of a task becomes the label."""
    if not isinstance(value, kind | cls):
        raise MtlError(f"{path} = {value!r}: expected {_in_words(kind)}, or {cls.__name__}(...)")
    label = path.partition(".")[2]
    if isinstance(value, kind):
        return cls(component=_with_reads(instance_as_read(value, kind, path), label))
    entry: Any = instance_as_read(value, cls, path)
    component = _with_reads(instance_as_read(entry.component, kind, path), label)
    return entry if component is entry.component else attrs.evolve(entry, component=component)


def components_as_read(given: Mapping[str, C], kind: type, section: str) -> dict[str, C]:
    """Return label -> component. Raises MtlError if a value has a wrong type."""
    items = _mapping(given, section).items()
    return {label: instance_as_read(value, kind, f"{section}.{label}") for label, value in items}


def instance_as_read(given: T, cls: type, path: str) -> T:
    """Return a component or settings with the values that a TOML file with its table would give.

    Return the object itself if nothing changes. None and fields of a type that TOML can't hold are
    not changed: they raise an error when the experiment is written. Raises MtlError with one line
    for each problem.
    """
    if given is None:
        return given
    if not isinstance(given, cls):
        raise MtlError(f"{path} = {given!r}: expected {_in_words(cls)}")
    if not attrs.has(type(given)):
        name = type(given).__name__
        raise MtlError(f"{path}: {name} lacks @frozen (from attrs), so its fields would be ignored")
    changes: dict[str, object] = {}
    problems: list[str] = []
    own: type = type(given)
    for name, field in (_fields(own) or {}).items():
        if name == "component":
            continue
        value = getattr(given, field.name)
        read, found = as_read(value, field.type, f"{path}.{name}")
        problems += found
        if read is not value:
            changes[name] = read
    if problems:
        raise MtlError("\n".join(problems))
    if not changes:
        return given
    changed: T = attrs.evolve(given, **changes)  # type: ignore[misc]  # an attrs class
    return changed


def value_as_read(value: object, kind: type[T], path: str) -> T:
    """Convert a value to its type. Raises MtlError if it has another type."""
    read, problems = as_read(value, kind, path)
    if problems:
        raise MtlError("\n".join(problems))
    done: T = read
    return done


def _mapping(given: Mapping[str, T], section: str) -> Mapping[str, T]:
    if isinstance(given, Mapping) and all(isinstance(label, str) for label in given):
        return given
    raise MtlError(f"{section} = {given!r}: expected a dict: label -> component")


def _in_words(cls: type) -> str:
    if issubclass(cls, Component):
        return f"a component of the kind {cls.kind!r}"
    return f"mtlcore.{cls.__name__}(...)"


def _with_reads(component: Any, label: str) -> Any:
    """Return a task that reads the annotation of its label if it names none."""
    cls: type = type(component)
    field = (_fields(cls) or {}).get("reads")
    is_task = isinstance(component, SupervisedTask)
    if not is_task or field is None or field.default not in ("", attrs.NOTHING) or component.reads:
        return component
    return attrs.evolve(component, reads=label)


def as_read(value: object, kind: TypeHint, path: str) -> tuple[Any, list[str]]:
    """Convert a value to its type. Return it, and the problems with it, one line each.

    Return the value itself if it equals what a TOML file would give, or if it has a problem.
    """
    if kind is Any or (value is None and admits_none(kind)):
        return value, []
    try:
        read = converter.structure(without_none(converter.unstructure(value)), kind)
    except Exception as error:  # noqa: BLE001 - raised by a validator or a converter
        return value, [] if _is_beyond_toml(error) else list(explain(error, path))
    try:
        is_same = type(read) is type(value) and bool(read == value)
    except ValueError:  # the truth value of an array is ambiguous
        is_same = True
    return (value if is_same else read), []


def _is_beyond_toml(error: BaseException) -> bool:
    """Return whether the reason is a type that TOML can't hold, such as an array."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_beyond_toml, error.exceptions))
    return isinstance(error, StructureHandlerNotFoundError)


def _problems(value: object, field: attrs.Attribute[Any], path: str) -> list[str]:
    """Return the problems with the value of a field: of its type, else of its validator."""
    read, problems = as_read(value, field.type, path)
    if problems or field.validator is None:
        return problems
    try:
        field.validator(cast("Any", None), field, read)
    except (ValueError, TypeError) as error:
        return list(explain(error, path))
    return []


@functools.cache
def _fields(cls: type) -> dict[str, attrs.Attribute[Any]] | None:
    """Return keyword -> field of the constructor. None if the types can't be resolved."""
    try:
        attrs.resolve_types(cls)
    except (NameError, TypeError, AttributeError):
        return None  # registering such a class raises an error with the reason
    return {field.alias: field for field in attrs.fields(cls) if field.init}
