"""Describe a component: its keys with types, defaults and ranges, what it lacks, a table to copy.

Everything is read from the class itself: attrs fields and validators, docstrings, `cites`, `lacks`.
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

from ..config.experiment import Experiment, ParameterGroups
from ..config.read import ENTRY_CLASSES, MODULE_ATTRIBUTES, Reader
from ..config.strict import converter, describe
from ..config.values import as_read
from ..contracts import Component
from ..errors import MtlError, nearest
from ..kinds import KINDS
from ..registry.catalog import Catalog
from ..registry.components import component_name

LONG = 80  # characters: an example does not repeat a longer default
OWN_RULE = "checked by the component"

# attrs does not export the classes of its validators, so they are taken from samples.
_SAMPLES: tuple[object, ...] = (
    ge(0),
    and_(),
    optional(ge(0)),
    in_(()),
    deep_iterable(ge(0)),
    min_len(0),
    max_len(0),
)
_NUMBER, _ALL, _OPTIONAL, _ONE_OF, _EACH, _MIN_LENGTH, _MAX_LENGTH = map(type, _SAMPLES)
_MATCHES = type(matches_re(""))
_IS_A = type(instance_of(int))
_COMPARED = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


@frozen
class Key:
    """One key of a table.

    type, range: in words.
    default: as TOML; "" where there is none.
    required: a table must set the key.
    """

    name: str
    type: str
    default: str
    range: str
    required: bool


@frozen
class Capability:
    """Something that the conformance kit expects of a kind.

    expected: what that is, in words.
    lacks: why this component does not have it; "" where it has it.
    """

    name: str
    expected: str
    lacks: str


@frozen
class Description:
    """One component.

    doc: its docstring.
    distribution, version, origin: where it comes from, as in `mtl plugins`.
    cites: its source.
    keys: its own fields.
    core_keys: the keys of its table that the core reads.
    example: a TOML table that a configuration accepts, or the command that uses a detector.
    """

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

    def as_json(self) -> dict[str, object]:
        """The output of `mtl plugins show --json`."""
        return attrs.asdict(self)


def describe_component(kind: str, name: str, catalog: Catalog) -> Description:
    """Describe one component. name: "timm:resnet18" for a member of a family.

    Raises MtlError on an unknown name.
    """
    cls = catalog.find(kind, name)
    wanted = ("ok", kind, _base(name))
    record = next(
        row for row in catalog.records() if (row["status"], row["kind"], row["name"]) == wanted
    )
    return Description(
        name=name,
        kind=kind,
        # vars(), not cls.__doc__, which a class without its own docstring inherits.
        doc=inspect.cleandoc(vars(cls).get("__doc__") or ""),
        distribution=record["distribution"],
        version=record["version"],
        origin=record["origin"],
        cites=cls.cites,
        keys=keys_of(cls),
        core_keys=_core_keys(kind),
        capabilities=_capabilities(kind, name, cls, catalog),
        example=example(cls, name),
    )


def describe_member(kind: str, name: str, catalog: Catalog) -> Description | None:
    """Describe one table of a component's list: name = "kornia:ColorJiggle".

    Returns None if the component has no such tables. Raises MtlError on an unknown member.
    """
    base, _, member = name.partition(":")
    owner = catalog.find(kind, base)
    members = owner.members()
    if not member or not members:
        return None
    if member not in members:
        raise MtlError(f"{kind} {base!r} has no {member!r}; {nearest(member, members)}")
    whole = describe_component(kind, base, catalog)
    cls = members[member]
    refused = getattr(cls, "refused", "")
    doc = f"{cls.__doc__}\n\n{_facts(cls)}"
    return attrs.evolve(
        whole,
        name=name,
        doc=doc.strip(),
        keys=keys_of(cls),
        core_keys=(),
        capabilities=(),
        example="" if refused else member_example(owner, cls, member),
    )


def _facts(cls: type) -> str:
    """What a member says about itself, one sentence for each fact; "" if it says nothing."""
    facts = getattr(cls, "facts", None)
    return facts() if callable(facts) else ""


def member_example(owner: type[Component], cls: type, member: str) -> str:
    """A table of the component whose list holds this member, with the required keys."""
    values = [f'op = "{member}"']
    for field in _fields(cls):
        if field.default is attrs.NOTHING:
            values.append(f"{field.alias} = {_member_value(field)}")
    base = component_name(owner)
    list_key = next(field.alias for field in _fields(owner))
    title = KINDS[owner.kind].title(base)
    return f"{title}\nname = {_toml(base)}\n{list_key} = [{{ {', '.join(values)} }}]\n"


def _member_value(field: Attribute[object]) -> str:
    """A value of the right type for a required key."""
    for value in (3, [3, 3], [0.1, 0.2]):
        read, problems = as_read(value, field.type, field.name)
        if not problems and read is not None:
            return _toml(value)
    return _toml(field.name)


def keys_of(cls: type) -> tuple[Key, ...]:
    """The fields of an attrs class, as keys of its table."""
    attrs.resolve_types(cls)
    keys = []
    for field in _fields(cls):
        key = Key(
            name=field.alias or field.name,
            type=describe(field.type),
            default=_default(field),
            range=range_of(field.validator),
            required=field.default is attrs.NOTHING,
        )
        keys.append(key)
    return tuple(keys)


def _core_keys(kind: str) -> tuple[Key, ...]:
    """The keys of a kind's tables that the core reads, except `name`."""
    if kind == "encoder":
        return tuple(key for key in keys_of(Experiment) if key.name == "freeze")
    if kind == "optimizer":
        return keys_of(ParameterGroups)
    if kind in ENTRY_CLASSES:
        return tuple(key for key in keys_of(ENTRY_CLASSES[kind]) if key.name != "component")
    return ()


def needed(cls: type, name: str = "") -> list[str]:
    """The keys that a table must set. name: "timm:resnet18" already sets the first key."""
    fields = _fields(cls)
    if ":" in name:
        fields = fields[1:]
    return [field.alias or field.name for field in fields if field.default is attrs.NOTHING]


def component_of(kind: str, name: str, table: Mapping[str, object], catalog: Catalog) -> Component:
    """Build a component from a table, as a configuration does.

    Raises MtlError with one line per problem.
    """
    reader = Reader(catalog)
    component: Component = reader.component(kind, f"{kind} {name}", {**table, "name": name}, name)
    reader.raise_problems()
    return component


def range_of(validator: Any) -> str:
    """The range that an attrs validator accepts, in words; "" where it adds nothing to the type.

    and_(ge(0), lt(1)) -> "at least 0, less than 1"; in_((2, 3)) -> "one of 2, 3".
    """
    kind = type(validator)
    if validator is None or kind is _IS_A:
        return ""
    if kind is _NUMBER:
        return f"{_COMPARED[validator.compare_op]} {validator.bound}"
    if kind is _ALL:
        ranges = [text for text in map(range_of, validator._validators) if text]
        # "checked by the component" adds nothing to a range that has words.
        return ", ".join([text for text in ranges if text != OWN_RULE] or ranges[:1])
    if kind is _OPTIONAL:
        return range_of(validator.validator)
    if kind is _ONE_OF:
        return f"one of {', '.join(map(repr, validator.options))}"
    if kind is _EACH:
        members = range_of(validator.member_validator)
        whole = range_of(validator.iterable_validator)
        each = f"each {members}" if members else ""
        return ", ".join(text for text in (each, whole) if text)
    if kind is _MIN_LENGTH:
        return f"at least {validator.min_length} long"
    if kind is _MAX_LENGTH:
        return f"at most {validator.max_length} long"
    if kind is _MATCHES:
        return f"matches {validator.pattern.pattern}"
    return _own_rule(validator)


def example(cls: type[Component], name: str) -> str:
    """A table of this component that a configuration accepts; for a detector, the command.

    Its keys have their defaults, and a placeholder where there is none.
    """
    base = _base(name)
    full = name
    if cls.family and ":" not in name:
        full = f"{base}:{_member(cls, base)}"

    kind, label = KINDS[cls.kind], _label(base)
    if not kind.table:
        return _command(cls, full)
    lines = [kind.title(label)]
    if not kind.labeled or full != label:  # a table without `name` takes the component of its label
        lines.append(f"name = {_toml(full)}")
    if cls.kind in ("task", "pretext"):
        lines.append("weight = 1.0")

    fields = _fields(cls)
    if cls.family:
        fields = fields[1:]  # the name sets the first one
    for field in fields:
        value = _example_value(field, base)
        if value:
            lines.append(f"{field.alias} = {value}")
    return "\n".join(lines) + "\n"


def _command(cls: type[Component], name: str) -> str:
    """The command that predicts with a detector, and sets each of its keys."""
    lines = [f"mtl predict RUN photos/ --detector {name}"]
    for field in _fields(cls):
        value = _example_value(field, _base(name))
        if value:
            lines.append(f"--set detector.{field.alias}={value}")
    return " \\\n    ".join(lines) + "\n"


# ------------------------------------------------------------ one field


def _fields(cls: type) -> list[Attribute[object]]:
    """The fields that a table can set."""
    return [field for field in attrs.fields(cls) if field.init]


def _default(field: Attribute[object]) -> str:
    """The default as TOML; "" where there is none, for None, and where other keys decide it."""
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # typed as a function
        default = None if default.takes_self else default.factory()
    if default is attrs.NOTHING or default is None:
        return ""
    return _toml(converter.unstructure(default))


def _example_value(field: Attribute[object], name: str) -> str:
    """The value of a field in an example, as TOML; "" where the example omits the key."""
    if field.default is not attrs.NOTHING:
        default = _default(field)
        empty = default in ('""', "[]", "{}")
        return "" if empty or len(default) > LONG else default
    if "example" in field.metadata:
        return _toml(field.metadata["example"])
    options = getattr(field.validator, "options", None)
    if options:
        return _toml(next(iter(options)))
    bound = getattr(field.validator, "bound", 1)
    by_type: dict[object, object] = {
        Path: f"path/to/{name}",
        str: field.name,
        bool: True,
        int: int(bound) + 1,
        float: float(bound) + 1,
    }
    return _toml(by_type.get(field.type, field.name))


def _own_rule(validator: object) -> str:
    """A validator that the plugin defines: the first line of its docstring."""
    own = inspect.getdoc(validator) if inspect.isroutine(validator) else None
    return own.splitlines()[0].rstrip(".") if own else OWN_RULE


def _toml(value: object) -> str:
    """One value as TOML, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path):
        import tomli_w

        return tomli_w.dumps({"v": str(value)}).removeprefix("v = ").rstrip("\n")
    if isinstance(value, Mapping):
        items = ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


# ------------------------------------------------------------ the component


def _base(name: str) -> str:
    """ "timm:resnet18" -> "timm"."""
    return name.partition(":")[0]


def _label(name: str) -> str:
    """A label for the table of a component: its name, where that can be a label.

    Labels become keys of torch's containers, which refuse the names of their own attributes.
    """
    taken = name in MODULE_ATTRIBUTES
    return name if name.isidentifier() and not taken else f"my_{name}"


def _member(cls: type, base: str) -> str:
    """A member of a family: the first one in its docstrings, such as `timm:resnet18`."""
    module = inspect.getmodule(cls)
    module_doc = (module.__doc__ if module else "") or ""
    docs = "\n".join([cls.__doc__ or "", module_doc])
    found = re.search(rf"\b{base}:([\w.]*\w)", docs)
    return found[1] if found else component_name(cls)


def _capabilities(
    kind: str, name: str, cls: type[Component], catalog: Catalog
) -> tuple[Capability, ...]:
    """The capabilities that the kit expects of this kind, and those that the component lacks.

    What a component lacks may depend on its fields, so it is built with their defaults.
    """
    from ..testing.api import lists  # imported late: only capabilities need the kit

    if kind not in lists():
        return ()
    checks, harness = lists()[kind]
    required = needed(cls)
    fields: dict[str, object] = {}
    if ":" in name and required:
        fields[required[0]] = name.partition(":")[2]

    lacks: Mapping[str, str] = {}
    if not set(required) - set(fields):  # else it can't be built
        lacks = harness(name, cls, fields, catalog).lacks
    return tuple(
        Capability(capability, expected, lacks.get(capability, ""))
        for capability, expected in checks.capabilities.items()
    )
