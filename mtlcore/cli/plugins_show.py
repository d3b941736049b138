"""`mtl plugins show`: what a component is, which keys its table takes, and a table to copy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ._plugins import Kind

if TYPE_CHECKING:
    from rich.table import Table

    from ..authoring.describe import Description, Key


def show(
    name: str,
    *,
    kind: Annotated[Kind | None, Parameter(show_default=False)] = None,
    plugin: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """What NAME is: its keys with types, defaults and ranges, what it can't do, its source, a table to copy.

    Parameters
    ----------
    name
        A name of `mtl plugins`.
    kind
        Its kind, where several kinds have the name.
    plugin
        A one-file plugin to load besides. May be given often.
    json
        Print JSON.
    """
    from ..authoring.describe import describe_component
    from ._plugins import catalog_with, kind_of
    from ._shared import print_json

    known = catalog_with(plugin)
    found = describe_component(kind_of(name, kind, known), name, known)
    if json:
        print_json(found.as_json())
    else:
        _show(found)
    return 0


def _show(found: Description) -> None:
    from rich.text import Text

    from ._shared import console

    giver = f"{found.distribution} {found.version}" if found.distribution else "a file"
    console.print(Text(f"{found.kind} {found.name}", "bold"), Text(f"of {giver} ({found.origin})"))
    for paragraph in (found.doc or "It has no description.").split("\n\n"):
        console.print(Text(f"\n{' '.join(paragraph.split())}"))
    console.print()
    if found.cites:
        console.print(Text(f"source: {found.cites}\n"))
    if found.keys:
        console.print(_keys("its own keys", found.keys))
    if found.core_keys:
        console.print(_keys("keys that every such table takes", found.core_keys))
    if found.capabilities:
        console.print(_capabilities(found))
    console.print(Text(f"\n{found.example}"))


def _keys(title: str, keys: Sequence[Key]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("key", "expects", "default", "range", title=Text(title), title_justify="left")
    for key in keys:
        default = Text("needed", "yellow") if key.required else Text(key.default or "-")
        table.add_row(Text(key.name), Text(key.type), default, Text(key.range))
    return table


def _capabilities(found: Description) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "capability", "what is expected", "", title=Text("capabilities"), title_justify="left"
    )
    for each in found.capabilities:
        said = Text(f"lacks it: {each.lacks}", "yellow") if each.lacks else Text("has it", "green")
        table.add_row(Text(each.name), Text(each.expected), said)
    return table
