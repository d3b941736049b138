"""A component as a TOML table and back, by the configuration's own reader and writer."""

from __future__ import annotations

import tomllib
from typing import Any

import tomli_w

from ..config.problems import explain
from ..config.strict import converter
from ..config.write import component_table, given


def table(component: Any) -> dict[str, Any]:
    """Its table, as a TOML file gives it."""
    return tomllib.loads(tomli_w.dumps(given(component_table(component))))


def there_and_back(component: Any) -> Any:
    """The component that its own table describes."""
    return _read(component, table(component))


def message_about(component: Any, key: str) -> str:
    """What a user is told of a key that is no field; "" where it is taken."""
    try:
        converter.structure(converter.unstructure(component) | {key: 1}, type(component))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the user is told
        return "\n".join(explain(error, ""))
    return ""


def _read(component: Any, written: dict[str, Any]) -> Any:
    del written["name"]
    return converter.structure(written, type(component))
