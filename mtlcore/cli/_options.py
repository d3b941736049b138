"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..kinds import KindName

KindOption = Annotated[KindName | None, Parameter(name="--kind", show_default=False)]
Overrides = Annotated[tuple[str, ...], Parameter(name="--set", negative="", show_default=False)]
PluginFiles = Annotated[
    tuple[Path, ...], Parameter(name="--plugin", negative="", show_default=False)
]
Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
