"""Helper for tests of components that must refuse values out of range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def assert_refused(component: Callable[..., object], *faults: dict[str, Any]) -> None:
    """Assert that each of these sets of fields raises a ValueError that names the first field."""
    wrong: list[str] = []
    for fields in faults:
        message = _refusal(component, fields)
        if next(iter(fields)) not in message:
            wrong.append(f"{fields}: {message or 'accepted'}")
    assert not wrong, "\n".join(wrong)


def _refusal(component: Callable[..., object], fields: dict[str, Any]) -> str:
    """Return the message of the error, or "" if there is none."""
    try:
        component(**fields)
    except ValueError as error:
        return str(error)
    return ""
