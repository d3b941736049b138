"""Look up components by name: in the installed catalog and in plugin files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..contracts import Augmentation, Component
from ..errors import MtlError, nearest
from .catalog import Catalog, catalog
from .components import component_name, default_of
from .plugin_file import PluginFile, file_of, split_entry


def catalog_with(files: Sequence[Path]) -> Catalog:
    """All installed plugins and these files. Raises MtlError where a file can't be loaded."""
    extended = catalog().copy()
    for path in files:
        file = PluginFile.read(path)
        if not extended.holds(file):
            extended.load_file(file)
    return extended


def default_component(kind: str, name: str, plugins: Sequence[str] = ()) -> Any:
    """Return a component with all keys at their defaults.

    plugins: one-file plugins, "PATH" or "PATH#sha256=...". They may replace the component.
    """
    return catalog_of(plugins).find(kind, name)()


def default_augmentations(plugins: Sequence[str]) -> dict[str, Augmentation]:
    """Return name -> augmentation for each one without required keys.

    plugins: one-file plugins, "PATH" or "PATH#sha256=...".
    """
    defaults: dict[str, Augmentation] = {}
    for name, cls in catalog_of(plugins).of_kind("augmentation").items():
        default = default_of(cls)
        if isinstance(default, Augmentation):
            defaults[name] = default
    return defaults


def catalog_of(plugins: Sequence[str]) -> Catalog:
    """Return the installed catalog, with these one-file plugins if there are any."""
    files = [Path(split_entry(listed)[0]) for listed in plugins]
    return catalog_with(files) if files else catalog()


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


Origin = dict[str, str | None]
"""Where a component comes from: kind, name, class, and the package, its version, or the file."""


def origin_of(cls: type[Component], known: Catalog) -> Origin:
    """Where the class of a component comes from, for run.json."""
    kind, name = cls.kind, component_name(cls)
    row: Mapping[str, str | None] = {}
    for record in known.records():
        if record["status"] == "ok" and (record["kind"], record["name"]) == (kind, name):
            row = record
    file = file_of(cls.__module__)
    return {
        "kind": kind,
        "name": name,
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "package": row.get("distribution"),
        "version": row.get("version"),
        "file": None if file is None else file.name,
    }


def missing_component(origin: Mapping[str, str | None]) -> str:
    """How to get a missing component. "" if it is installed, or if the run holds its plugin file.

    origin: as `origin_of` returned it when the run was trained.
    """
    kind, name = origin.get("kind"), origin.get("name")
    if kind is None or name is None or origin.get("file") or (kind, name) in catalog().classes:
        return ""
    shown = f"{kind} {name!r} was the class {origin.get('class')}"
    package, used = origin.get("package"), origin.get("version")
    if package is None:
        return (
            f"{shown}, registered in the process that trained the run: first run the code that "
            "defines and registers it (mtlcore.register), or put the class into a plugin"
        )
    try:
        now = version(package)
    except PackageNotFoundError:
        return (
            f'{shown} of {package} {used}, which is not installed: pip install "{package}=={used}"'
        )
    return f"{shown} of {package} {used}, but {now} is installed: see `mtl plugins`"
