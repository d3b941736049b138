"""`mtl plugins`: what can stand in a configuration, who gives it, what failed, and what a plugin file took the place of."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def plugins(
    *,
    plugin: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """List every component there is, and every plugin that failed, is blocked or is shadowed by a file, with the reason.

    Parameters
    ----------
    plugin
        A one-file plugin to load besides. May be given often.
    json
        Print JSON.
    """
    from ..errors import MtlError
    from ..registry.catalog import catalog
    from ..registry.plugin_file import PluginFile
    from ._shared import print_json

    found = catalog().copy()
    for file in map(PluginFile.read, plugin):
        if not found.holds(file):
            with contextlib.suppress(MtlError):  # it is on record, and shown with its reason
                found.load_file(file)
    if json:
        print_json(found.records())
    else:
        _show(found.records())
    return 0


def _show(records: list[dict[str, str | None]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ._shared import console

    table = Table("kind", "name", "status", "from", "origin")
    for row in sorted(records, key=lambda r: (r["kind"] or "", r["name"] or "")):
        owner = f"{row['distribution']} {row['version']}" if row["distribution"] else "a file"
        style = {"ok": "green", "failed": "red", "blocked": "yellow", "shadowed": "yellow"}[
            str(row["status"])
        ]
        cells = (
            row["kind"] or "",
            row["name"],
            Text(str(row["status"]), style),
            owner,
            row["origin"],
        )
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells))
    console.print(table)
    for row in records:
        if row["reason"]:
            console.print(
                f"{row['name']} ({row['status']}): {row['reason']}", markup=False, highlight=False
            )
