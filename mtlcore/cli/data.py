"""`mtl data check`: what is wrong with a data set, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.table import Table

    from ..data.check import Counts, Report

EXAMPLES = 3
MOST_CLASSES = 40  # told one by one


def check(
    label: str,
    config: Path,
    *,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="", show_default=False)] = (),
    plugin: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    sheet: Path | None = None,
) -> int:
    """Decode every image of [data.LABEL] once: counts, faults, copies, leaks between splits.

    Parameters
    ----------
    label
        Which [data.LABEL] of the configuration.
    config
        The experiment, a TOML file.
    set_
        Another value for a key: `--set data.fer2013.root=DIR`. May be given often.
    plugin
        A one-file plugin to load. May be given often.
    json
        Print JSON: figures alone.
    sheet
        Write a PNG of images with their labels drawn on them.
    """
    from ..config import load
    from ..data.check import check_data
    from ._png import require_png, save_png
    from ._progress import Bars
    from ._shared import print_json

    if sheet is not None:
        require_png("--sheet", sheet)
    experiment = load(config, set_, plugin)
    with Bars(quiet=json) as bars:
        report = check_data(experiment, label, bars.progress)
    if sheet is not None:
        from ..evaluation.check_sheet import check_sheet

        save_png(sheet, check_sheet(experiment, report))
    if json:
        print_json(report.as_json())
    else:
        _show(report, sheet)
    return 0


def _show(report: Report, sheet: Path | None) -> None:

    from ._shared import console, say

    for name, counts in report.counts.items():
        console.print(_table(f"data.{report.label}: {name or 'no labels'}", counts))
    for line in _lines(report):
        say(line)
    if sheet is not None:
        say(f"look at the labels: {sheet}")


def _table(title: str, counts: Counts) -> Table:
    """One line a class, one column a split; of very many classes (sets of attributes) the largest, then all others."""
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(
        "class", *(Column(Text(split)) for split in counts), title=Text(title), title_justify="left"
    )
    samples: Counter[str] = sum(map(Counter, counts.values()), Counter())
    told = {name for name, _ in samples.most_common(MOST_CLASSES)}
    for name in sorted(told):
        table.add_row(
            Text(name or "(no label)"),
            *(str(of_split.get(name, 0)) for of_split in counts.values()),
        )
    if others := len(samples) - len(told):
        left = (
            sum(n for name, n in of_split.items() if name not in told)
            for of_split in counts.values()
        )
        table.add_row(f"({others} others)", *map(str, left))
    table.add_row("all", *(str(sum(of_split.values())) for of_split in counts.values()))
    return table


def _lines(report: Report) -> list[str]:
    """One line a fault, with a few names; then the fingerprint."""
    lines = [
        _line("missing", list(report.missing)),
        _line("unreadable", list(report.unreadable.values())),
    ]
    lines += [_line(f"malformed, {reason}", names) for reason, names in report.malformed.items()]
    lines += [f"{number:>7}  {reason}" for reason, number in report.index.skipped.notes.items()]
    lines += [
        _line(
            "groups of pixel-identical copies", [" = ".join(keys[:2]) for keys in report.duplicates]
        ),
        _line(
            "of them with conflicting labels", [" = ".join(keys[:2]) for keys in report.conflicting]
        ),
        _line("images outside of train that also stand in train", report.shared),
    ]
    if report.shared or report.conflicting:
        lines.append(f'leave them out: data.{report.label}.exclude_duplicates = "train" or "test"')
    return [*lines, f"fingerprint {report.fingerprint}"]


def _line(what: str, names: list[str]) -> str:
    examples = "; ".join(names[:EXAMPLES]) + ("; ..." if len(names) > EXAMPLES else "")
    return f"{len(names):>7}  {what}" + (f": {examples}" if names else "")
