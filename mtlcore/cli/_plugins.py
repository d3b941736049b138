"""What the commands on plugins share: which catalog, and which kind a name is of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import MtlError, nearest

if TYPE_CHECKING:
    from ..registry.catalog import Catalog

Kind = Literal["pretext", "task", "encoder", "weighting", "dataset", "augmentation", "callback"]
"""What a user may write after --kind."""


def catalog_with(files: Sequence[Path]) -> Catalog:
    """Every installed plugin, and these one-file plugins. Raises MtlError where one of the files can't be loaded."""
    from ..registry.catalog import catalog
    from ..registry.plugin_file import PluginFile

    found = catalog().copy()
    for file in map(PluginFile.read, files):
        if not found.holds(file):
            found.load_file(file)
    return found


def kind_of(name: str, said: Kind | None, known: Catalog) -> str:
    """The kind of the component of this name. Raises MtlError: no such name (with the nearest), or one in several kinds."""
    if said is not None:
        known.find(said, name)
        return said
    base = name.partition(":")[0]
    kinds = sorted(k for k, n in known.classes if n == base)
    if len(kinds) > 1:
        raise MtlError(f"{name!r} is a {' and a '.join(kinds)}: say which by --kind")
    if kinds:
        known.find(kinds[0], name)
        return kinds[0]
    for row in known.records():
        if row["status"] != "ok" and row["name"] == base:
            known.find(
                row["kind"] or "plugin", name
            )  # its own message: why that plugin failed or is blocked
    raise MtlError(f"there is no plugin {name!r}; {nearest(name, {n for _, n in known.classes})}")
