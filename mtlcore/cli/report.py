"""`mtl report`: one HTML file about a run or a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ._options import Overrides


def report(
    where: Path,
    *,
    out: Path,
    split: Annotated[str | None, Parameter(show_default=False)] = None,
    set_: Overrides = (),
) -> int:
    """Write a report of a run or a study: one HTML file that needs no network.

    Parameters
    ----------
    where
        The folder of a run, the file of a study, or the folder of a study.
    out
        The HTML file to write. An existing one is replaced.
    split
        For a run: the split to evaluate on; default: test, or validation if it is not finished.
    set_
        For a run: set one key, such as `--set data.fer2013.root=DIR`. Repeatable.
    """
    from ..callbacks.bars import Bars
    from ..errors import MtlError
    from ..run import Run
    from ._shared import print_line

    study = _study_file(where)
    if study is None:
        with Bars() as bars:
            Run(where).report(out, split=split, overrides=set_, progress=bars.progress)
    elif split is not None or set_:
        raise MtlError(f"{where} is a study: --split and --set are options of a run")
    else:
        from ..study.study import Study

        Study.load(study, _study_folder(where)).report(out)
    size = out.stat().st_size / 1e6
    print_line(f"wrote {out} ({size:.1f} MB): open it in a browser")
    return 0


def _study_file(where: Path) -> Path | None:
    """The file of a study; None if this is a run folder, or nothing."""
    from ..files import is_file, is_folder

    if is_file(where):
        return where
    # `mtl study run STUDY.toml` writes to the folder STUDY, with a copy of the file inside. The
    # paths in the file are relative to its own place.
    folder = where.absolute()  # "." has no name
    original = folder.parent / f"{folder.stem}.toml"
    if is_file(original) and is_file(where / "runs.jsonl"):
        return original
    copy = where / "study.toml"
    is_study = is_folder(where) and is_file(copy) and not is_file(where / "config.toml")
    return copy if is_study else None


def _study_folder(where: Path) -> Path | None:
    """The folder of a study that was named by its folder; None by default."""
    from ..files import is_folder

    return where if is_folder(where) else None
