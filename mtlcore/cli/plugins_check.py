"""`mtl plugins check`: run the conformance checks on one component, or on all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MtlError
from ._options import ConfigFile, Json, KindOption, Overrides, PluginFiles

if TYPE_CHECKING:
    import numpy as np

    from ..authoring.check_suites import Row
    from ..config.experiment import Experiment
    from ..contracts import PretextTask
    from ..testing import Conformance, Report


def check(
    name: str | None = None,
    *,
    kind: KindOption = None,
    examples: int | None = None,
    plugin: PluginFiles = (),
    config: ConfigFile | None = None,
    set_: Overrides = (),
    sheet: Path | None = None,
    json: Json = False,
) -> int:
    """Check that the component NAME meets the contract of its kind; without NAME, check all.

    Exits with 1 where a check fails.

    Parameters
    ----------
    name
        A name from `mtl plugins`; default: all of them.
    kind
        The kind, where components of several kinds have this name; without NAME: this kind alone.
    examples
        Draw this number of shapes and seeds for a check; default: 20.
    plugin
        Load a one-file plugin, too. Repeatable.
    config
        An experiment. The component gets the keys of its table there, the sheet gets its images.
    set_
        Set one key of the component: `--set root=DIR`. Repeatable.
    sheet
        Write a PNG file of a pretext task: images, its views, their targets, its predictions. An
        existing one is replaced.
    json
        Print JSON.
    """
    from ..authoring.check_suites import Suites
    from ._check_report import run_checks

    _check_options(name, examples, set_, sheet)
    suites = Suites.of(name, kind, plugin, config, set_, examples)
    if sheet is not None:
        _require_pretext(suites.suites[0])
    reports = [run_checks(suite, quiet=json) for suite in suites.suites]
    if sheet is not None:
        problem = _draw_sheet(suites.suites[0], suites.experiment, sheet)
        if problem is not None:
            # The checks decide on the exit code. A missing sheet is only a note.
            print(f"no sheet: {problem}", file=sys.stderr)
            sheet = None

    if name is None:
        _print_all(reports, suites.unchecked, json)
    else:
        _print_one(reports[0], sheet, json)
    broken = any(row["status"] == "failed" for row in suites.unchecked)
    return int(broken or any(report.failed for report in reports))


def _check_options(
    name: str | None, examples: int | None, set_: Overrides, sheet: Path | None
) -> None:
    """Raise MtlError for options that do not fit together."""
    from ._png import require_png

    if name is None and (set_ or sheet is not None):
        option = "--set" if set_ else "--sheet"
        raise MtlError(f"{option} applies to one component: add its NAME")
    if examples is not None and examples < 1:
        raise MtlError(f"--examples {examples}: expected at least 1")
    if sheet is not None:
        require_png("--sheet", sheet)


def _print_all(reports: Sequence[Report], unchecked: Sequence[Row], json: bool) -> None:
    from ._check_report import print_all
    from ._shared import print_json

    if json:
        print_json([*(report.as_json() for report in reports), *unchecked])
    else:
        print_all(reports, unchecked)


def _print_one(report: Report, sheet: Path | None, json: bool) -> None:
    from ._check_report import print_report
    from ._shared import print_json

    if json:
        print_json(report.as_json())
    else:
        print_report(report, sheet)


def _require_pretext(suite: Conformance) -> None:
    kind = suite.checks.kind
    if kind != "pretext":
        raise MtlError(f"--sheet draws a pretext task: {suite.plugin!r} is a {kind}")


def _draw_sheet(suite: Conformance, experiment: Experiment | None, path: Path) -> str | None:
    """Write the sheet of a pretext task -> None, or why it failed, on one line."""
    from ..registry.records import one_line
    from ._png import save_png

    try:
        save_png(path, _sheet(suite.subject.component, experiment))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - third-party code may raise anything
        return one_line(error)
    return None


def _sheet(component: PretextTask, experiment: Experiment | None) -> np.ndarray:
    """(H, W, 3) uint8: images of the experiment, or drawn patterns where there is none."""
    from ..testing.pretext.harness import pretext_sheet

    if experiment is None:
        return pretext_sheet(component)
    from ..data.dataset import open_data
    from ..evaluation.preview import some_images

    data = open_data(experiment, splits={"train", "validation"}, lazy=True).data
    return pretext_sheet(component, some_images(data, 8), size=experiment.input.size)
