"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..files import require_there
from ..kinds import KindName


def _require_there(_: object, file: Path | None) -> None:
    """A missing file is an error at once: reading it imports torch, which takes seconds."""
    if file is not None:
        require_there(file)


ConfigFile = Annotated[Path, Parameter(validator=_require_there)]
KindOption = Annotated[KindName | None, Parameter(name="--kind", show_default=False)]
Overrides = Annotated[tuple[str, ...], Parameter(name="--set", negative="", show_default=False)]
PluginFiles = Annotated[
    tuple[Path, ...], Parameter(name="--plugin", negative="", show_default=False)
]
Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
