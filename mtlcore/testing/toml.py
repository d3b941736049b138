"""A component as a TOML table and back, by the configuration's own reader and writer."""

from __future__ import annotations

import tomllib
from typing import Any

import tomli_w

from ..config.problems import explain
from ..config.strict import converter
from ..config.write import _component, _given


def there_and_back(component: Any) -> Any:
    """The component that its own table describes."""
    return _read(component, tomllib.loads(tomli_w.dumps(_given(_component(component)))))


def message_about(component: Any, key: str) -> str:
    """What a user is told of a key that is no field; "" where it is taken."""
    table = converter.unstructure(component) | {key: 1}
    try:
        converter.structure(table, type(component))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the user is told
        return "\n".join(explain(error, ""))
    return ""


def _read(component: Any, table: dict[str, Any]) -> Any:
    del table["name"]
    return converter.structure(table, type(component))
