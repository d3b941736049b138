"""`mtl plugins new`: begin a plugin with a folder that passes its tests and trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def new(
    name: str,
    *,
    kind: Literal["pretext", "task", "encoder", "weighting", "dataset", "augmentation"],
    out: Annotated[Path, Parameter(show_default=False)] = Path(),
) -> int:
    """Write the folder NAME: a module, its packaging, a conformance test, a README.

    Parameters
    ----------
    name
        What configurations call it: lower-case letters, digits and _.
    kind
        What it shall be.
    out
        The folder in which the folder NAME is made; default: the current one.
    """
    import shlex

    from ..authoring.scaffold import scaffold
    from ._shared import say

    folder = scaffold(name, kind, out)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        say(str(file))
    module = folder / f"{name}.py"
    say(f"\nedit {module}, and prove it: mtl plugins check {name} --plugin {module}")
    say(f"install it: pip install --no-deps --editable {shlex.quote(str(folder))}")
    return 0
