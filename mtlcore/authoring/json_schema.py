"""The JSON Schema of a configuration: editors complete keys, and mark wrong values.

Everything is read from the classes that read a configuration, so plugins are part of it. Keys of
components that the schema does not know are allowed: `mtl config check` is exact.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from ..config.experiment import Experiment, Freeze, ParameterGroups
from ..config.read import ENTRY_CLASSES, SETTINGS
from ..contracts import Component
from ..kinds import KINDS
from ..registry.catalog import Catalog
from .describe import range_of

Schema = dict[str, Any]

_SIMPLE: dict[object, str] = {bool: "boolean", int: "integer", float: "number"}
_SIMPLE |= {str: "string", Path: "string"}
_DRAFT = "http://json-schema.org/draft-07/schema#"


def config_schema(catalog: Catalog) -> Schema:
    """Return the JSON Schema (draft 7) of a TOML configuration.

    catalog: the known components.
    """
    docs = _docs(Experiment)
    properties: dict[str, Schema] = {
        "seed": {"type": "integer", "description": docs["seed"]},
        "plugins": {
            "type": "array",
            "items": {"type": "string"},
            "description": docs["plugins"],
        },
    }
    for section, cls in SETTINGS.items():
        properties[section] = _object(cls)
    for kind in KINDS.values():
        if kind.table:
            properties[kind.table] = _single(kind.name)
            if kind.labeled:
                properties[kind.table] = _labeled(kind.name, catalog)
    definitions: dict[str, Schema] = {}
    for kind in KINDS.values():
        if kind.table:
            definitions[kind.name] = _any_component(kind.name, catalog)
            for name, cls in _classes(kind.name, catalog).items():
                definitions[f"{kind.name} {name}"] = {"properties": _properties(cls)}
    return {
        "$schema": _DRAFT,
        "title": "mtlcore configuration",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "definitions": definitions,
    }


def _single(kind: str) -> Schema:
    """A section with one component, such as [encoder]."""
    return {"allOf": [_ref(kind)], "description": f"the {kind}"}


def _labeled(kind: str, catalog: Catalog) -> Schema:
    """A section with a component under each label. Without `name`, the label is the name."""
    by_label: dict[str, Schema] = {}
    for name in _classes(kind, catalog):
        unnamed = {"if": {"not": {"required": ["name"]}}, "then": _ref(f"{kind} {name}")}
        by_label[name] = {"allOf": [_ref(kind), unnamed]}
    return {"type": "object", "properties": by_label, "additionalProperties": _ref(kind)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name.replace(' ', '%20')}"}


def _any_component(kind: str, catalog: Catalog) -> Schema:
    """A table of any component of a kind."""
    core: dict[str, Schema] = {}
    if kind == "encoder":
        core["freeze"] = {**_type(Freeze), "description": _docs(Experiment)["freeze"]}
    if kind == "optimizer":
        core |= _properties(ParameterGroups)
    if kind in ENTRY_CLASSES:
        core = _properties(ENTRY_CLASSES[kind])
        core.pop("component", None)
    return _component(kind, catalog, core)


def _component(kind: str, catalog: Catalog, core: Mapping[str, Schema]) -> Schema:
    """A table with the keys of the core, and those of the component that `name` chooses."""
    classes = _classes(kind, catalog)
    names: list[Schema] = [{"enum": sorted(classes)}]
    families = [name for name, cls in classes.items() if cls.family]
    if families:
        names.append({"type": "string", "pattern": f"^({'|'.join(map(re.escape, families))}):"})
    chosen = []
    for name in classes:
        pattern = f"^{re.escape(name)}(:|$)"
        named = {"properties": {"name": {"pattern": pattern}}, "required": ["name"]}
        chosen.append({"if": named, "then": _ref(f"{kind} {name}")})
    found: Schema = {
        "type": "object",
        "properties": {"name": {"anyOf": names, "description": f"the {kind}"}, **core},
    }
    return {**found, "allOf": chosen} if chosen else found


def _classes(kind: str, catalog: Catalog) -> dict[str, type[Component]]:
    rows = catalog.records()
    names = [str(row["name"]) for row in rows if (row["status"], row["kind"]) == ("ok", kind)]
    return {name: catalog.find(kind, name) for name in sorted(names)}


# ---------------------------------------------------------------------------------- classes


def _object(cls: type) -> Schema:
    """A table whose keys are the fields of a class, and no others."""
    return {"type": "object", "properties": _properties(cls), "additionalProperties": False}


def _properties(cls: type) -> dict[str, Schema]:
    attrs.resolve_types(cls)
    docs = _docs(cls)
    found: dict[str, Schema] = {}
    for field in attrs.fields(cls):
        if field.init and not field.name.startswith("_"):
            name = field.alias or field.name
            words = [docs.get(field.name, ""), range_of(field.validator)]
            description = ". ".join(text.rstrip(".") for text in words if text)
            found[name] = _type(field.type)
            if description:
                found[name]["description"] = description
    return found


def _docs(cls: type) -> dict[str, str]:
    """Key -> its paragraph of the docstring: "key: text", or "a, b: text"."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=[\w, ]+: )", inspect.cleandoc(vars(cls).get("__doc__") or "")):
        keys, colon, text = block.partition(": ")
        if colon and re.fullmatch(r"[\w, ]+", keys):
            text = " ".join(text.partition("\n\n")[0].split())
            found |= dict.fromkeys((key.strip() for key in keys.split(",")), text)
    return found


def _type(hint: Any) -> Schema:
    """The schema of a type; {} accepts everything that it has no words for."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        options = [_type(one) for one in arguments if one is not type(None)]
        return options[0] if len(options) == 1 else {"anyOf": options}
    if origin in (tuple, list):
        repeated = [one for one in arguments if one is not Ellipsis]
        one_type = len(repeated) == 1
        return {"type": "array", "items": _type(repeated[0])} if one_type else {"type": "array"}
    if isinstance(hint, type) and attrs.has(hint):
        return _object(hint)
    return {}
