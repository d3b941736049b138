"""`mtl plugins show`: what a component is, which keys its table takes, and a table to copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._options import Json, KindOption, PluginFiles

if TYPE_CHECKING:
    from rich.table import Table

    from ..authoring.describe import Capability, Description, Key


def show(
    name: str,
    *,
    kind: KindOption = None,
    plugin: PluginFiles = (),
    json: Json = False,
) -> int:
    """Show the component NAME: its keys, its capabilities, its source, and a table to copy.

    Parameters
    ----------
    name
        A name from `mtl plugins`. kornia:ColorJiggle shows one operation of kornia.
    kind
        The kind, where components of several kinds have this name.
    plugin
        Load a one-file plugin, too. Repeatable.
    json
        Print JSON.
    """
    from ..authoring.describe import describe_component, describe_member
    from ..registry.lookup import catalog_with, kind_of
    from ._shared import print_json

    catalog = catalog_with(plugin)
    base_kind = kind_of(name.partition(":")[0], kind, catalog)
    description = describe_member(base_kind, name, catalog)
    if description is None:
        description = describe_component(kind_of(name, kind, catalog), name, catalog)
    if json:
        print_json(description.as_json())
    else:
        _print_description(description)
    return 0


def _print_description(found: Description) -> None:
    from rich.text import Text

    from ._shared import console

    owner = f"{found.distribution} {found.version}" if found.distribution else "a file"
    title = Text(f"{found.kind} {found.name}", "bold")
    console.print(title, Text(f"from {owner} ({found.origin})"))
    for paragraph in (found.doc or "It has no description.").split("\n\n"):
        console.print(Text(f"\n{' '.join(paragraph.split())}"))
    console.print()
    if found.cites:
        console.print(Text(f"source: {found.cites}\n"))
    if found.keys:
        console.print(_key_table("keys of this component", found.keys))
    if found.core_keys:
        console.print(_key_table(f"keys of every table of kind {found.kind}", found.core_keys))
    if found.capabilities:
        console.print(_capability_table(found.capabilities))
    console.print(Text(f"\n{found.example}"))


def _key_table(title: str, keys: Sequence[Key]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("key", "expects", "default", "range", title=Text(title), title_justify="left")
    for key in keys:
        default = Text("required", "yellow") if key.required else Text(key.default or "-")
        table.add_row(Text(key.name), Text(key.type), default, Text(key.range))
    return table


def _capability_table(capabilities: Sequence[Capability]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "capability", "meaning", "available", title=Text("capabilities"), title_justify="left"
    )
    for each in capabilities:
        available = Text("yes", "green")
        if each.lacks:
            available = Text(f"no: {each.lacks}", "yellow")
        table.add_row(Text(each.name), Text(each.expected), available)
    return table
