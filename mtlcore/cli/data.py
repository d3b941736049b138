"""`mtl data check`: what is wrong with a dataset, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ._options import ConfigFile, Json, Overrides, PluginFiles

if TYPE_CHECKING:
    from rich.table import Table

    from ..data.check import Counts, Report

EXAMPLES = 3  # names that a line about a fault shows
MOST_CLASSES = 40  # classes with a row of their own; a set of attributes can have thousands


def check(
    label: str,
    config: ConfigFile,
    *,
    set_: Overrides = (),
    plugin: PluginFiles = (),
    json: Json = False,
    sheet: Path | None = None,
) -> int:
    """Decode every image of [data.LABEL] once: counts, faults, copies, leaks between splits.

    Parameters
    ----------
    label
        The [data.LABEL] of the configuration to check.
    config
        The experiment, a TOML file.
    set_
        Set one key: `--set data.fer2013.root=DIR`. Repeatable.
    plugin
        Load a one-file plugin. Repeatable.
    json
        Print JSON: counts alone.
    sheet
        Write a PNG file of images with their labels drawn on them. An existing one is replaced.
    """
    from ..callbacks.bars import Bars
    from ..config import load
    from ..data.check import check_data
    from ._png import require_png, save_png
    from ._shared import print_json

    if sheet is not None:
        require_png("--sheet", sheet)
    experiment = load(config, set_, plugin)
    with Bars(quiet=json) as bars:
        report = check_data(experiment, label, bars.progress)
    if sheet is not None:
        from ..evaluation.sheet import label_sheet

        save_png(sheet, label_sheet(experiment, report))
    if json:
        print_json(report.as_json())
    else:
        _print_report(report, sheet)
    return 0


def _print_report(report: Report, sheet: Path | None) -> None:
    from ._shared import console, print_line

    for annotation, counts in report.counts.items():
        title = f"data.{report.label}: {annotation or 'no labels'}"
        console.print(_count_table(title, counts))
    for line in _fault_lines(report):
        print_line(line)
    if sheet is not None:
        print_line(f"look at the images and their labels: {sheet}")


def _count_table(title: str, counts: Counts) -> Table:
    """One row per class and one column per split. Only the largest classes have their own row."""
    from rich.table import Column, Table
    from rich.text import Text

    splits = [Column(Text(split or "(no split)")) for split in counts]
    table = Table("class", *splits, title=Text(title), title_justify="left")

    totals: Counter[str] = Counter()
    for of_split in counts.values():
        totals.update(of_split)
    shown = {name for name, _ in totals.most_common(MOST_CLASSES)}
    for name in sorted(shown):
        cells = [str(of_split.get(name, 0)) for of_split in counts.values()]
        table.add_row(Text(name or "(no label)"), *cells)

    others = len(totals) - len(shown)
    if others:
        cells = []
        for of_split in counts.values():
            rest = sum(number for name, number in of_split.items() if name not in shown)
            cells.append(str(rest))
        table.add_row(f"({others} others)", *cells)

    table.add_row("all", *(str(sum(of_split.values())) for of_split in counts.values()))
    return table


def _fault_lines(report: Report) -> list[str]:
    """One line per kind of fault, with a few examples; then the fingerprint."""
    copies = [" = ".join(keys[:2]) for keys in report.duplicates]
    conflicts = [" = ".join(keys[:2]) for keys in report.conflicting]
    lines = [
        _fault_line("missing", list(report.missing)),
        _fault_line("unreadable", list(report.unreadable.values())),
    ]
    for reason, names in report.malformed.items():
        lines.append(_fault_line(f"malformed, {reason}", names))
    for reason, number in report.index.skipped.notes.items():
        lines.append(f"{number:>7}  {reason}")
    lines += [
        _fault_line("groups of pixel-identical copies", copies),
        _fault_line("of these groups with conflicting labels", conflicts),
        _fault_line("images of other splits that are also in train", report.shared),
    ]
    for annotation, name in report.one_class.items():
        lines.append(
            f"all labels {annotation!r} are {name!r}: no task can learn from one class. "
            "Is root one folder too high or too low?"
        )
    if (report.shared or report.conflicting) and not report.excludes_duplicates:
        lines.append(f'exclude them: data.{report.label}.exclude_duplicates = "train" or "test"')
    lines.append(f"fingerprint {report.fingerprint}")
    return lines


def _fault_line(what: str, names: Sequence[str]) -> str:
    line = f"{len(names):>7}  {what}"
    if names:
        line += f": {'; '.join(names[:EXAMPLES])}"
    if len(names) > EXAMPLES:
        line += "; ..."
    return line
