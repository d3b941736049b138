"""`mtl plugins check`: hold a component against the checks of its kind, or the whole catalog."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import frozen
from cyclopts import Parameter

from ..errors import MtlError
from ._plugins import Kind

if TYPE_CHECKING:
    import numpy as np

    from ..config.experiment import Experiment
    from ..registry.catalog import Catalog
    from ..testing import Conformance, Outcome, Report

STYLES = {
    "passed": "green",
    "failed": "red",
    "skipped": "yellow",
    "blocked": "magenta",
    "xfailed": "cyan",
}
STRIDE = 10  # checks between two lines of progress where there is no terminal


def check(
    name: str | None = None,
    *,
    kind: Annotated[Kind | None, Parameter(show_default=False)] = None,
    examples: int | None = None,
    plugin: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    config: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="", show_default=False)] = (),
    sheet: Path | None = None,
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Prove that the component NAME keeps the contract of its kind; without NAME, that every component does.

    Exits with 1 where a check failed.

    Parameters
    ----------
    name
        A name of `mtl plugins`; default: all of them.
    kind
        Its kind, where several kinds have the name; without NAME: this kind alone.
    examples
        How many shapes and seeds are drawn for a check; default: 20.
    plugin
        A one-file plugin to load besides. May be given often.
    config
        An experiment: the component's keys come from its table there, and the images of the sheet from its data.
    set_
        A key of the component: `--set root=DIR`. May be given often.
    sheet
        Write a PNG of what a pretext task asks: images, each view, what must be answered, what its head answers.
    json
        Print JSON.
    """
    from ._png import require_png
    from ._shared import print_json

    if name is None and (set_ or sheet is not None):
        raise MtlError(f"{'--set' if set_ else '--sheet'} is about one component: give its NAME")
    if examples is not None and examples < 1:
        raise MtlError(f"--examples {examples}: expected at least 1")
    if sheet is not None:
        require_png("--sheet", sheet)
    checked = _Checked.of(name, kind, plugin, config, set_, examples)
    if sheet is not None:
        _require_pretext(checked.suites[0])
    reports = [_run(suite, quiet=json) for suite in checked.suites]
    missing = None if sheet is None else _draw(checked.suites[0], checked.experiment, sheet)
    if missing is not None:
        print(
            f"no sheet: {missing}", file=sys.stderr
        )  # the report decides what the command says of the component
        sheet = None
    if json:
        rows = [report.as_json() for report in reports]
        print_json(rows[0] if name is not None else [*rows, *checked.unchecked])
    elif name is not None:
        _show(reports[0], sheet)
    else:
        _show_all(reports, checked.unchecked)
    broken = any(row["status"] == "failed" for row in checked.unchecked)
    return 1 if broken or any(report.failed for report in reports) else 0


# ---------------------------------------------------------------------------------------------------- what is checked


@frozen(eq=False)
class _Checked:
    """The components to check. unchecked: those that can't be, as JSON rows: what they need, or why their plugin failed."""

    suites: list[Conformance]
    unchecked: list[dict[str, Any]]
    experiment: Experiment | None

    @classmethod
    def of(
        cls,
        name: str | None,
        kind: Kind | None,
        files: Sequence[Path],
        config: Path | None,
        sets: Sequence[str],
        examples: int | None,
    ) -> _Checked:
        from ..config import load
        from ..testing import kinds
        from ._plugins import catalog_with, kind_of

        experiment = load(config, (), files) if config is not None else None
        known = catalog_with([*files, *(_files(experiment) if experiment else ())])
        options: dict[str, Any] = {} if examples is None else {"examples": examples}
        if name is not None:
            return cls(
                [_suite(kind_of(name, kind, known), name, known, experiment, sets, options)],
                [],
                experiment,
            )
        suites, unchecked = [], []
        for of_kind, each in sorted(known.classes):
            if of_kind not in kinds() or kind not in (None, of_kind):
                continue
            if missing := _missing(of_kind, each, known, experiment):
                unchecked.append(_row(each, of_kind, "needs values", f"needs {', '.join(missing)}"))
            else:
                suites.append(_suite(of_kind, each, known, experiment, (), options))
        for row in known.records():
            if row["status"] == "failed" and (kind is None or row["kind"] in (None, kind)):
                unchecked.append(_row(row["name"], row["kind"], "failed", row["reason"] or ""))
        return cls(suites, unchecked, experiment)


def _row(name: str | None, kind: str | None, status: str, reason: str) -> dict[str, Any]:
    from ..testing import Report

    return {**Report(name or "", kind or "", ()).as_json(), "status": status, "reason": reason}


def _files(experiment: Experiment) -> list[Path]:
    """The one-file plugins that the experiment itself names."""
    return [Path(plugin.rpartition("#sha256=")[0] or plugin) for plugin in experiment.plugins]


def _missing(kind: str, name: str, known: Catalog, experiment: Experiment | None) -> list[str]:
    from ..authoring.describe import needed

    cls = known.find(kind, name)
    return needed(cls) if _used(cls, experiment) is None else []


def _suite(
    kind: str,
    name: str,
    known: Catalog,
    experiment: Experiment | None,
    sets: Sequence[str],
    options: dict[str, Any],
) -> Conformance:
    from ..testing import conformance

    fields = _fields(kind, name, known, experiment, sets)
    return conformance(kind, name, known=known, **options, **fields)


def _fields(
    kind: str, name: str, known: Catalog, experiment: Experiment | None, sets: Sequence[str]
) -> dict[str, Any]:
    """The component's keys: those of its table in the experiment, then those that were set."""
    import attrs

    from ..authoring.describe import component_of, needed
    from ..config.overrides import apply
    from ..config.strict import converter

    cls = known.find(kind, name)
    used = _used(cls, experiment)
    written = {} if used is None else converter.unstructure(used)
    table = {key: value for key, value in written.items() if value is not None}
    if ":" in name:
        table.pop(next(iter(table), ""), None)  # the name says it
    apply(table, sets)
    missing = [key for key in needed(cls, name) if key not in table]
    if missing:
        raise MtlError(
            f"{kind} {name!r} needs {', '.join(missing)}: give --set {missing[0]}=VALUE, or --config FILE"
        )
    if not table and ":" not in name:
        return {}  # the kit builds it from its defaults, and tells what goes wrong there
    component = component_of(kind, name, table, known)
    return {f.alias: getattr(component, f.name) for f in attrs.fields(cls) if f.init}  # type: ignore[arg-type]


def _used(cls: type, experiment: Experiment | None) -> Any:
    """The component of this class that the experiment uses; None where it uses none."""
    if experiment is None:
        return None
    e = experiment
    entries: list[Any] = [*e.tasks.values(), *e.pretexts.values(), *e.data.values()]
    parts = [
        e.encoder,
        e.weighting,
        e.augment,
        *e.augmentations.values(),
        *(entry.component for entry in entries),
    ]
    return next((part for part in parts if type(part) is cls), None)


def _require_pretext(suite: Conformance) -> None:
    if suite.checks.kind != "pretext":
        raise MtlError(
            f"a sheet shows pretext tasks, and {suite.plugin!r} is a {suite.checks.kind}"
        )


def _draw(suite: Conformance, experiment: Experiment | None, path: Path) -> str | None:
    """Write the sheet of one pretext task -> None, or why there is none: whatever the plugin raises, in one line."""
    from ..registry.catalog import one_line
    from ._png import save_png

    try:
        save_png(path, _sheet(suite.subject.component, experiment))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may fail in any way, and the checks tell of it
        return one_line(error)
    return None


def _sheet(component: Any, experiment: Experiment | None) -> np.ndarray:
    """(H, W, 3) uint8; its images are the experiment's, or drawn patterns."""
    from ..testing.pretext.sheet import sheet

    if experiment is None:
        return sheet(component)
    from ..data.dataset import open_data
    from ..evaluation.preview import some_images

    data = open_data(experiment, splits={"train", "validation"}, lazy=True)
    return sheet(component, some_images(data, 8), size=experiment.input.size)


# ---------------------------------------------------------------------------------------------------- what is seen


def _run(suite: Conformance, quiet: bool) -> Report:
    """All checks, with one living line below which nothing stays; where there is no terminal, one line for each ten."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    from ._shared import console, say

    name, total, done = f"{suite.checks.kind} {suite.plugin}", len(suite.checks.checks), 0
    columns = (TextColumn("{task.description}", markup=False), MofNCompleteColumn())
    said = TextColumn(
        "{task.fields[said]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
    )
    with Progress(
        *columns, said, console=console, transient=True, disable=quiet or not console.is_terminal
    ) as bars:
        row = bars.add_task(name, total=total, said="")

        def told(outcome: Outcome) -> None:
            nonlocal done
            done += 1
            bars.update(row, advance=1, said=outcome.name)
            if not (quiet or console.is_terminal) and done % STRIDE == 0:
                say(f"{name}: {done} of {total} checks")

        return suite.report(told)


def _show(report: Report, sheet: Path | None) -> None:
    """One line a check; then every failure in full; then how many there are, and how they ended."""
    from rich.table import Column, Table
    from rich.text import Text

    from ._shared import console, say

    whole = Column("check", no_wrap=True)
    table = Table(
        whole, "status", "seconds", "reason", title=Text(f"{report.kind} {report.plugin}")
    )
    table.title_justify = "left"
    for each in report.checks:
        status = Text(each.status, STYLES[each.status])
        reason = "told below" if each.status == "failed" else " ".join(each.reason.split())
        table.add_row(Text(each.name), status, f"{each.seconds:.2f}", Text(reason))
    console.print(table)
    _show_failures([report])
    say(_counted(report.counts))
    if sheet is not None:
        say(f"look at it: {sheet}")


def _show_all(reports: Sequence[Report], unchecked: Sequence[dict[str, Any]]) -> None:
    """One line a component; then every failure in full; then how many checks ran in all."""
    from rich.table import Column, Table
    from rich.text import Text

    from ._shared import console, say

    words = ("ran", "failed", "skipped", "blocked", "xfailed")
    table = Table(Column("kind", no_wrap=True), Column("name", no_wrap=True), *words)
    for report in reports:
        numbers = (_number(word, report.counts[word]) for word in words)
        table.add_row(report.kind, report.plugin, *numbers)
    console.print(table)
    _show_failures(reports)
    for row in unchecked:
        if row["status"] == "failed":
            say(f"{row['plugin']}: its plugin failed: {row['reason']}")
    total = {word: sum(report.counts[word] for report in reports) for word in (*words, "passed")}
    say(f"{len(reports)} components: {_counted(total)}")
    if needy := [
        f"{row['kind']} {row['plugin']} ({row['reason']})"
        for row in unchecked
        if row["status"] != "failed"
    ]:
        console.print(
            Text(
                f"not checked: {', '.join(needy)}; give values to one of them by --set, or to all by --config"
            )
        )


def _show_failures(reports: Sequence[Report]) -> None:

    from ._shared import console, say

    for report in reports:
        for each in report.checks:
            if each.status == "failed":
                say(f"\n{each.reason}")
    if any(report.failed for report in reports):
        console.print()


def _number(word: str, number: int) -> Any:
    from rich.text import Text

    return Text(str(number), STYLES.get(word, "")) if number else Text(str(number))


def _counted(counts: dict[str, int]) -> str:
    others = ", ".join(
        f"{counts[word]} {word}" for word in ("passed", "failed", "skipped", "blocked", "xfailed")
    )
    checks = counts["ran"] + counts["skipped"] + counts["blocked"]
    return f"{checks} checks, {counts['ran']} ran: {others}"
