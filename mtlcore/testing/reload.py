"""A plugin's module run once more, as a new process would run it: nothing that earlier calls left in it is there."""

from __future__ import annotations

import importlib.util
import sys

from ..contracts import Component


def reload(cls: type[Component]) -> type[Component]:
    """The class of the same name in a fresh copy of its module; the class itself where its module can't be run twice."""
    module = sys.modules.get(cls.__module__)
    spec = getattr(module, "__spec__", None)
    if module is None or spec is None or spec.loader is None or "<locals>" in cls.__qualname__:
        return cls
    copy = importlib.util.module_from_spec(spec)
    sys.modules[cls.__module__] = copy  # while it runs, annotations are looked up there
    try:
        spec.loader.exec_module(copy)
    except Exception:  # noqa: BLE001 - a module may refuse a second run in any way
        return cls
    finally:
        sys.modules[cls.__module__] = module
    again = getattr(copy, cls.__qualname__, None)
    return again if isinstance(again, type) and issubclass(again, Component) else cls
