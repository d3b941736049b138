"""`mtl data check`: what is wrong with a data set, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    import numpy as np

    from ..data.check import Report

EXAMPLES = 3


def check(
    label: str,
    config: Path,
    *,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="", show_default=False)] = (),
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    sheet: Path | None = None,
) -> int:
    """Decode every picture of [data.LABEL] once: counts, faults, copies, leaks between splits.

    Parameters
    ----------
    label
        Which [data.LABEL] of the configuration.
    config
        The experiment, a TOML file.
    set_
        Another value for a key: `--set data.fer2013.root=DIR`. May be given often.
    json
        Print JSON: figures alone.
    sheet
        Write a PNG of pictures with their labels drawn on them.
    """
    from ..config import load
    from ..data.check import check_data
    from ._progress import Bars
    from ._shared import print_json

    experiment = load(config, set_)
    with Bars(quiet=json) as bars:
        report = check_data(experiment, label, bars.progress)
    if sheet is not None:
        from ..data.check_sheet import check_sheet

        _write_png(sheet, check_sheet(experiment, report))
    if json:
        print_json(report.as_json())
    else:
        _show(report, sheet)
    return 0


def _show(report: Report, sheet: Path | None) -> None:
    from rich.table import Table

    from ._shared import console

    classes = sorted({name for counts in report.counts.values() for name in counts})
    title = f"data.{report.label}: {report.reads[0] if report.reads else 'no labels'}"
    table = Table("class", *report.counts, title=title, title_justify="left")
    for name in classes:
        table.add_row(name or "(no label)", *(str(counts.get(name, 0)) for counts in report.counts.values()))
    table.add_row("all", *(str(sum(counts.values())) for counts in report.counts.values()))
    console.print(table)
    for line in _lines(report):
        console.print(line, markup=False, highlight=False)
    if sheet is not None:
        console.print(f"look at the labels: {sheet}", markup=False, highlight=False)


def _lines(report: Report) -> list[str]:
    """One line a fault, with a few names; then the fingerprint."""
    lines = [_line("missing", list(report.missing)), _line("unreadable", list(report.unreadable.values()))]
    lines += [_line(f"malformed, {reason}", names) for reason, names in report.malformed.items()]
    lines += [
        _line("groups of pixel-identical copies", [" = ".join(keys[:2]) for keys in report.duplicates]),
        _line("of them with conflicting labels", [" = ".join(keys[:2]) for keys in report.conflicting]),
        _line("pictures outside of train that also stand in train", report.shared),
    ]
    if report.shared or report.conflicting:
        lines.append(f'leave them out: data.{report.label}.exclude_duplicates = "train" or "test"')
    return [*lines, f"fingerprint {report.fingerprint}"]


def _line(what: str, names: list[str]) -> str:
    examples = "; ".join(names[:EXAMPLES]) + ("; ..." if len(names) > EXAMPLES else "")
    return f"{len(names):>7}  {what}" + (f": {examples}" if names else "")


def _write_png(path: Path, picture: np.ndarray) -> None:
    from PIL import Image

    from ..errors import MtlError

    try:
        Image.fromarray(picture).save(path, "PNG")
    except OSError as error:
        raise MtlError(f"{path} can't be written: {error.strerror or error}") from error
