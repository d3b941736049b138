"""The table of docs/protocols.md: the question of each protocol, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping

from hmtl.protocols import FOLDER

from mtlcore.study.tables import Table

from .protocol import Protocol, question


def protocol_list(known: Mapping[str, Protocol]) -> str:
    """Return one row for each protocol: its question, and how far it is."""
    lines = []
    for file in sorted(FOLDER.glob("*.toml")):
        name = file.stem
        link = f"[`{name}`](../benchmarks/protocols/{name}.toml)"
        protocol = known.get(name)
        if protocol is None:
            lines.append((link, question(file), "0", "all"))
            continue
        done, left = len(protocol.plan.results.rows), len(protocol.plan.left())
        pending = protocol.plan.pending_stages()
        missing = f"{left}, then {', '.join(pending)}" if pending else str(left)
        table = f"[{done}](../benchmarks/results/hmtl-{name}/table.md)"
        lines.append((link, question(file), table, missing))
    return Table("", ("protocol", "what", "runs done", "left"), tuple(lines)).markdown()
