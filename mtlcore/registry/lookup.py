"""Look up components for a user: the catalog with plugin files, and the kind of a name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contracts import Augmentation
from ..errors import MtlError, nearest
from .catalog import Catalog, catalog
from .components import default_of
from .plugin_file import MARK, PluginFile


def catalog_with(files: Sequence[Path]) -> Catalog:
    """All installed plugins and these files. Raises MtlError where a file can't be loaded."""
    extended = catalog().copy()
    for path in files:
        file = PluginFile.read(path)
        if not extended.holds(file):
            extended.load_file(file)
    return extended


def default_component(kind: str, name: str) -> Any:
    """Return an installed component with every key at its default."""
    return catalog().find(kind, name)()


def default_augmentations(plugins: Sequence[str]) -> dict[str, Augmentation]:
    """Return name -> augmentation for each one without required keys.

    plugins: further one-file plugins: "PATH", or "PATH#sha256=...".
    """
    files = [Path(listed.partition(MARK)[0]) for listed in plugins]
    known = catalog_with(files) if files else catalog()
    defaults: dict[str, Augmentation] = {}
    for name, cls in known.of_kind("augmentation").items():
        default = default_of(cls)
        if isinstance(default, Augmentation):
            defaults[name] = default
    return defaults


def kind_of(name: str, kind: str | None, catalog: Catalog) -> str:
    """The kind of the component with this name. kind: the value of --kind.

    Raises MtlError where no component has the name (with the nearest ones), and where components of
    several kinds have it.
    """
    if kind is not None:
        catalog.find(kind, name)
        return kind
    base = name.partition(":")[0]
    kinds = sorted(k for k, n in catalog.classes if n == base)
    if len(kinds) > 1:
        raise MtlError(
            f"{name!r} is the name of several kinds, {', '.join(kinds)}: select one with --kind"
        )
    if kinds:
        catalog.find(kinds[0], name)
        return kinds[0]
    for row in catalog.records():
        if row["status"] != "ok" and row["name"] == base:
            # This raises the message about the plugin: why it failed or is blocked.
            catalog.find(row["kind"] or "plugin", name)
    names = {n for _, n in catalog.classes}
    raise MtlError(f"there is no plugin {name!r}; {nearest(name, names)}")
