"""What a component is, for a person who chooses one: its keys with types, defaults and ranges, what it lacks, a table to copy.

Everything is read from the class itself: attrs' fields and validators, docstrings, `cites`, `lacks`; nothing is written twice.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import Attribute, frozen
from attrs.validators import (
    and_,
    deep_iterable,
    ge,
    in_,
    instance_of,
    matches_re,
    max_len,
    min_len,
    optional,
)
from torch import nn

from ..config.experiment import DataEntry, PretextEntry, TaskEntry
from ..config.read import Reader
from ..config.strict import converter, describe
from ..registry.catalog import Catalog
from ..registry.components import component_name

ENTRIES: dict[str, type] = {"task": TaskEntry, "pretext": PretextEntry, "dataset": DataEntry}
TABLES = {
    "task": "task",
    "pretext": "pretext",
    "dataset": "data",
    "callback": "callback",
}  # under a label of the user's
SINGLE = {"augmentation": "augment"}  # kinds whose table has another name
LONG = 80  # characters of a default that an example need not repeat
OWN_RULE = "by a rule of its own"

_SAMPLES: tuple[Any, ...] = (
    ge(0),
    and_(),
    optional(ge(0)),
    in_(()),
    deep_iterable(ge(0)),
    min_len(0),
    max_len(0),
)
_NUMBER, _ALL, _MAYBE, _ONE_OF, _EACH, _LEAST, _MOST = map(type, _SAMPLES)
_MATCHES, _IS_A = type(matches_re("")), type(instance_of(int))
_COMPARED = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


@frozen
class Key:
    """One key of a table. type, range: in words. default: as it would stand in TOML; "" where there is none.

    required: a table must give it.
    """

    name: str
    type: str
    default: str
    range: str
    required: bool


@frozen
class Capability:
    """Something that the conformance kit expects of a kind. lacks: why this component does not have it; "" where it has."""

    name: str
    expected: str
    lacks: str


@frozen
class Description:
    """One component. keys: its own fields; core_keys: those of its table that the core reads. example: TOML that parses."""

    name: str
    kind: str
    doc: str
    distribution: str | None
    version: str | None
    origin: str | None
    cites: str
    keys: tuple[Key, ...]
    core_keys: tuple[Key, ...]
    capabilities: tuple[Capability, ...]
    example: str

    def as_json(self) -> dict[str, Any]:
        """What `mtl plugins show --json` prints."""
        return attrs.asdict(self)


def describe_component(kind: str, name: str, catalog: Catalog) -> Description:
    """What there is to say of one component. name: a family's may have a part behind ":". Raises MtlError on an unknown name."""
    cls: Any = catalog.find(kind, name)
    entry = ENTRIES.get(kind)
    giver = next(
        r
        for r in catalog.records()
        if (r["status"], r["kind"], r["name"]) == ("ok", kind, _base(name))
    )
    return Description(
        name=name,
        kind=kind,
        doc=inspect.cleandoc(vars(cls).get("__doc__") or ""),
        distribution=giver["distribution"],
        version=giver["version"],
        origin=giver["origin"],
        cites=cls.cites,
        keys=keys_of(cls),
        core_keys=tuple(key for key in keys_of(entry) if key.name != "component") if entry else (),
        capabilities=_capabilities(kind, name, cls, catalog),
        example=example(cls, name),
    )


def keys_of(cls: Any) -> tuple[Key, ...]:
    """The fields of an attrs class, as keys of its table."""
    attrs.resolve_types(cls)
    return tuple(
        Key(
            f.alias or f.name,
            describe(f.type),
            _default(f),
            range_of(f.validator),
            f.default is attrs.NOTHING,
        )
        for f in attrs.fields(cls)
        if f.init
    )


def needed(cls: Any, name: str = "") -> list[str]:
    """The keys that a table must give. name: of a family, the part behind ":" gives the first one."""
    fields = [f for f in attrs.fields(cls) if f.init]
    given = fields[:1] if ":" in name else []
    return [f.alias or f.name for f in fields if f.default is attrs.NOTHING and f not in given]


def component_of(kind: str, name: str, table: Mapping[str, Any], catalog: Catalog) -> Any:
    """The component that this table describes, as a configuration reads it. Raises MtlError, one line a problem."""
    reader = Reader(catalog)
    component = reader.component(kind, f"{kind} {name}", {**table, "name": name}, name)
    reader.raise_problems()
    return component


def range_of(validator: Any) -> str:
    """What an attrs validator demands, in words; "" where it demands nothing that the type does not say.

    and_(ge(0), lt(1)) -> "at least 0, less than 1"; in_((2, 3)) -> "one of 2, 3".
    """
    kind = type(validator)
    if validator is None or kind is _IS_A:
        return ""
    if kind is _NUMBER:
        return f"{_COMPARED[validator.compare_op]} {validator.bound}"
    if kind is _ALL:
        said = [part for part in map(range_of, validator._validators) if part]
        return ", ".join([part for part in said if part != OWN_RULE] or said[:1])
    if kind is _MAYBE:
        return range_of(validator.validator)
    if kind is _ONE_OF:
        return f"one of {', '.join(map(repr, validator.options))}"
    if kind is _EACH:
        return ", ".join(
            filter(
                None, (_each(validator.member_validator), range_of(validator.iterable_validator))
            )
        )
    if kind in (_LEAST, _MOST):
        least = kind is _LEAST
        return (
            f"at least {validator.min_length} long"
            if least
            else f"at most {validator.max_length} long"
        )
    return f"matches {validator.pattern.pattern}" if kind is _MATCHES else _said(validator)


def example(cls: Any, name: str) -> str:
    """A table of this component that a configuration takes: its keys at their defaults, a placeholder where one is needed."""
    kind, base = cls.kind, _base(name)
    label = base if base.isidentifier() and base not in dir(nn.ModuleDict()) else f"my_{base}"
    full = name if ":" in name or not cls.family else f"{base}:{_member(cls, base)}"
    section = TABLES.get(kind)
    lines = [f"[{section}.{label}]" if section else f"[{SINGLE.get(kind, kind)}]"]
    if section is None or full != label:
        lines.append(f"name = {_toml(full)}")
    lines += ["weight = 1.0"] if kind in ("task", "pretext") else []
    fields = [f for f in attrs.fields(cls) if f.init][1 if cls.family else 0 :]
    lines += [f"{f.alias} = {said}" for f in fields if (said := _exemplary(f, base))]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------- one field


def _default(field: Attribute[Any]) -> str:
    """As TOML; "" where there is none, where it is None, and where other keys decide it."""
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = None if default.takes_self else default.factory()
    return (
        "" if default is attrs.NOTHING or default is None else _toml(converter.unstructure(default))
    )


def _exemplary(field: Attribute[Any], name: str) -> str:
    if field.default is not attrs.NOTHING:
        said = _default(field)
        return said if said not in ('""', "[]", "{}") and len(said) <= LONG else ""
    options = getattr(field.validator, "options", None)
    if options:
        return _toml(next(iter(options)))
    bound = getattr(field.validator, "bound", 1)
    by_type: dict[Any, Any] = {
        Path: f"path/to/{name}",
        str: field.name,
        bool: True,
        int: int(bound) + 1,
        float: float(bound) + 1,
    }
    return _toml(by_type.get(field.type, field.name))


def _each(members: Any) -> str:
    said = range_of(members)
    return f"each {said}" if said else ""


def _said(validator: Any) -> str:
    """A function of the plugin's: the first line of its docstring."""
    own = inspect.getdoc(validator) if inspect.isroutine(validator) else None
    return own.splitlines()[0].rstrip(".") if own else OWN_RULE


def _toml(value: Any) -> str:
    """One value as TOML, in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path):
        import tomli_w

        return tomli_w.dumps({"v": str(value)}).removeprefix("v = ").rstrip("\n")
    if isinstance(value, Mapping):
        return (
            "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
            if value
            else "{}"
        )
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


# ---------------------------------------------------------------------------------------------------- the component


def _base(name: str) -> str:
    return name.partition(":")[0]


def _member(cls: Any, base: str) -> str:
    """A member of a family: the first that its docstrings name, as in `timm:resnet18`."""
    module = inspect.getmodule(cls)
    texts = [cls.__doc__ or "", (module.__doc__ if module else "") or ""]
    found = re.search(rf"\b{base}:([\w.]*\w)", "\n".join(texts))
    return found[1] if found else component_name(cls)


def _capabilities(kind: str, name: str, cls: Any, catalog: Catalog) -> tuple[Capability, ...]:
    """Those that the kit expects of the kind. What a component lacks may depend on its fields: it is asked at their defaults."""
    from ..testing.api import lists  # late: Hypothesis

    if kind not in lists():
        return ()
    checks, harness = lists()[kind]
    fields = {needed(cls)[0]: name.partition(":")[2]} if ":" in name and needed(cls) else {}
    lacks = {} if set(needed(cls)) - set(fields) else harness(name, cls, fields, catalog).lacks
    return tuple(
        Capability(c, expected, lacks.get(c, "")) for c, expected in checks.capabilities.items()
    )
