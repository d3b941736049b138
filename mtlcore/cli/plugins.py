"""`mtl plugins`: all components, the plugins they come from, and the plugins that failed."""

from __future__ import annotations

import contextlib

from ._options import Json, PluginFiles

STYLES = {"ok": "green", "failed": "red", "blocked": "yellow", "shadowed": "yellow"}


def plugins(*, plugin: PluginFiles = (), json: Json = False) -> int:
    """List all components, and the plugins that failed, are blocked, or are replaced by a file.

    Parameters
    ----------
    plugin
        Load a one-file plugin, too. Repeatable.
    json
        Print JSON.
    """
    from ..errors import MtlError
    from ..registry.catalog import catalog
    from ..registry.plugin_file import PluginFile
    from ._shared import print_json

    extended = catalog().copy()
    for path in plugin:
        file = PluginFile.read(path)
        if not extended.holds(file):
            # A file that fails is on record, and its row in the table has the reason.
            with contextlib.suppress(MtlError):
                extended.load_file(file)
    if json:
        print_json(extended.records())
    else:
        _print_records(extended.records())
    return 0


def _print_records(records: list[dict[str, str | None]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ._shared import console, print_line

    table = Table("kind", "name", "status", "from", "origin")
    for row in sorted(records, key=lambda r: (r["kind"] or "", r["name"] or "")):
        status = str(row["status"])
        owner = f"{row['distribution']} {row['version']}" if row["distribution"] else "a file"
        table.add_row(
            Text(row["kind"] or ""),
            Text(str(row["name"])),
            Text(status, STYLES[status]),
            Text(owner),
            Text(str(row["origin"])),
        )
    console.print(table)
    for row in records:
        if row["reason"]:
            print_line(f"{row['name']} ({row['status']}): {row['reason']}")
