"""A component as a TOML table and back, by the configuration's own reader and writer."""

from __future__ import annotations

import tomllib
from typing import TypeVar

import tomli_w

from ..config.overrides import without_none
from ..config.problems import explain
from ..config.strict import converter
from ..config.write import component_table
from ..contracts import Component

C = TypeVar("C", bound=Component)


def table(component: Component) -> dict[str, object]:
    """The component's table, as read from a TOML file."""
    return tomllib.loads(tomli_w.dumps(without_none(component_table(component))))


def toml_round_trip(component: C) -> C:
    """Write the component as TOML and read it again."""
    values = table(component)
    del values["name"]
    again: C = converter.structure(values, type(component))
    return again


def message_about(component: Component, key: str) -> str:
    """The user's message about a key that is not a field; "" if the key is accepted."""
    try:
        converter.structure(converter.unstructure(component) | {key: 1}, type(component))
    except Exception as error:  # noqa: BLE001 - the user sees any error
        return "\n".join(explain(error, ""))
    return ""
