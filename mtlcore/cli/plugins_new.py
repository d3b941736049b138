"""`mtl plugins new`: create a plugin, a folder that passes its tests and trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..kinds import CheckedKind


def new(
    name: str,
    *,
    kind: CheckedKind,
    out: Annotated[Path, Parameter(show_default=False)] = Path(),
) -> int:
    """Create the folder NAME: a module, its packaging, a conformance test and a README.

    Parameters
    ----------
    name
        The name of the component in configurations: lower-case letters, digits and _.
    kind
        The kind of the component.
    out
        Create the folder NAME in this one; default: the current folder.
    """
    from ..authoring.scaffold import scaffold
    from ..files import in_shell
    from ._shared import print_line

    folder = scaffold(name, kind, out)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        print_line(str(file))
    module = folder / f"{name}.py"
    print_line("")
    print_line(f"edit {module}")
    print_line(f"check it: mtl plugins check {name} --plugin {in_shell(module)}")
    print_line(f"install it: pip install --no-deps --editable {in_shell(folder)}")
    return 0
