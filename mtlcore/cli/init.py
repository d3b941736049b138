"""`mtl init`: a commented configuration for own data, from three questions or from options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import MtlError

Optional = Parameter(show_default=False)


def init(
    *,
    for_: Annotated[str | None, Parameter(name="--for", show_default=False)] = None,
    data: Annotated[Path | None, Optional] = None,
    reads: Annotated[str | None, Optional] = None,
    unlabeled: Annotated[Path | None, Optional] = None,
    network: str = "cnn",
    out: Annotated[Path | None, Optional] = None,
) -> int:
    """Write a commented configuration for your own images, and check it.

    Asks for what is not given as an option.

    Parameters
    ----------
    for_
        "folders": a folder for each class. "csv": a table of images or paths, and labels: a .csv
        file, a .parquet file, or a folder of .parquet files. "faces": cropped faces, a folder for
        each class.
    data
        The folder of the images, or the table.
    reads
        With --for csv: the column of labels; default: label.
    unlabeled
        A folder of further images without labels, for the pretext.
    network
        "cnn": a small ResNet, with the pretext puzzling. "vit": a small vision transformer, with
        the pretext masked_image; it needs the extra `timm`.
    out
        The TOML file to write.
    """
    from ..authoring.starter import STARTS, write_starter
    from ..files import expanded, in_shell
    from ._shared import print_line

    kind = for_ or _ask(f"What are your data? ({' | '.join(STARTS)})", "folders", "--for")
    if reads is not None and kind != "csv":
        raise MtlError(f"--reads is for --for csv: remove it, or choose csv instead of {kind}")
    where = data or Path(_ask("Where are they? (a folder, or a table)", "", "--data"))
    file = out or Path(_ask("Which file should mtl write?", "my.toml", "--out"))
    more = None if unlabeled is None else expanded(unlabeled)
    write_starter(kind, expanded(where), file, reads or "label", more, network)
    print_line(f"wrote {file}: read and edit it")
    print_line(f"try it: mtl train {in_shell(file)} --dry-run")
    return 0


def _ask(question: str, default: str, option: str) -> str:
    """Ask in a terminal. Raises MtlError where nobody can answer."""
    missing = f"mtl init needs {option} where no terminal can answer: {question}"
    if sys.stdin is None or not sys.stdin.isatty():
        raise MtlError(missing)
    from ._shared import console

    shown = f" \\[{default}]" if default else ""
    try:
        return console.input(f"{question}{shown} ").strip() or default
    except EOFError as error:  # Ctrl-D
        raise MtlError(missing) from error
