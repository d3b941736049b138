"""Run a plugin's module again, as a new process would: without state that earlier calls left."""

from __future__ import annotations

import importlib.util
import sys
from typing import TypeVar

from ..contracts import Component

C = TypeVar("C", bound=Component)


def reload(cls: type[C]) -> type[C]:
    """Return the same class from a new copy of its module; `cls` if the module can't run again."""
    module = sys.modules.get(cls.__module__)
    spec = getattr(module, "__spec__", None)
    if module is None or spec is None or spec.loader is None or "<locals>" in cls.__qualname__:
        return cls

    copy = importlib.util.module_from_spec(spec)
    sys.modules[cls.__module__] = copy  # annotations are resolved there while the module runs
    try:
        spec.loader.exec_module(copy)
    except Exception:  # noqa: BLE001 - a module may refuse a second run in any way
        return cls
    finally:
        sys.modules[cls.__module__] = module

    again: type[C] | None = getattr(copy, cls.__qualname__, None)
    return again if isinstance(again, type) and issubclass(again, Component) else cls
