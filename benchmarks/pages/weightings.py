"""The table of docs/which-weighting.md: what each strategy brings over `equal`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mtlcore.registry.catalog import catalog
from mtlcore.study.definition import Arm
from mtlcore.study.tables import Table

from .protocol import UNKNOWN, Protocol


def weightings(known: Mapping[str, Protocol]) -> str:
    """Return one row for each strategy: its difference from the same arm with constant weights."""
    found: dict[str, list[str]] = {}
    for protocol in known.values():
        for name in protocol.arms():
            strategy, same = _weighted(protocol, name)
            difference = protocol.spread(name, same)
            if difference is not None:
                pair = f"(`{protocol.name}`: `{name}` minus `{same}`)"
                cell = f"{difference.signed()}, n = {difference.n} {pair}"
                found.setdefault(strategy, []).append(cell)
    names = [name for name in sorted(catalog().of_kind("weighting")) if name != "torchjd"]
    lines = []
    for name in [*names, *sorted(set(found) - set(names))]:
        if name != "equal":
            lines.append((f"`{name}`", "; ".join(found.get(name, [UNKNOWN]))))
    lines.append(("other `torchjd:<Name>`", UNKNOWN))
    return Table("", ("strategy", "points over constant weights"), tuple(lines)).markdown()


def _weighted(protocol: Protocol, name: str) -> tuple[str, str | None]:
    """Return the strategy of an arm, and the arm that differs from it in the strategy.

    It is the baseline of the protocol, if that is such an arm.
    """
    definition = protocol.plan.definition
    arms = definition.arms
    strategy = _strategy(arms.get(name))
    if not strategy:
        return "", None
    for other in sorted(arms.values(), key=lambda arm: arm.name != definition.baseline):
        alike = other.pretexts == arms[name].pretexts and other.views == arms[name].views
        if alike and not _strategy(other) and other.name in protocol.arms():
            return strategy, other.name
    return strategy, None


def _strategy(arm: Arm | None) -> str:
    found = re.search(r'weighting\.name="([^"]+)"', " ".join(arm.set)) if arm else None
    return found[1] if found else ""
