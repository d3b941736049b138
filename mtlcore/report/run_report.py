"""The report of a run: every part that can be made, and for every other one the reason.

A run in progress, a run without validation and a run whose data is gone have reports, too. What
can't be shown is named, with the error that `mtl eval` would show.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from .. import __version__
from ..config.overrides import Overrides
from ..data.cache import Progress
from ..errors import MtlError
from ..runs import RunFolder
from .about import (
    compute,
    configuration,
    headline,
    latest_validation,
    recorded_metrics,
    state_of,
    trained_on,
    versions,
)
from .answers import Answers, answers_of
from .blocks import Block, Columns, Facts, Missing, Page, Section, Text
from .bootstrap import LEVEL, RESAMPLES
from .calibration import calibration
from .curves import curves
from .data import label_tables, recorded, sheet_of_data
from .html import require_html, write_page
from .metrics import errors_by, matrices, metric_table
from .mistakes import mistakes
from .opened import open_network, open_samples, splits_of_tasks
from .pretexts import pretext_sheets, pretext_table

T = TypeVar("T")
Blocks = Sequence[Block]


def write_run_report(
    folder: RunFolder,
    file: Path,
    *,
    split: str | None = None,
    overrides: Overrides = (),
    progress: Progress | None = None,
) -> None:
    """Write the report of a run as one HTML file.

    split: the split to evaluate on (default: the test split of a finished run, else validation).
    Raises MtlError if the file can't be written, or if the split is unknown.
    """
    require_html(file)
    write_page(run_report(folder, split=split, overrides=overrides, progress=progress), file)


def run_report(
    folder: RunFolder,
    *,
    split: str | None = None,
    overrides: Overrides = (),
    progress: Progress | None = None,
) -> Page:
    """Return the report of a run as a page. The arguments are those of `write_run_report`."""
    sources = _Sources(folder, split, overrides, progress)
    if split is not None:
        sources.require_split()
    sections = [
        Section("data", "What it was trained on", _data(sources)),
        Section("metrics", "Metrics", _metrics(sources)),
        Section("curves", "Curves", part("curves", lambda: curves(sources.rows()))),
        Section("errors", "Errors by group", _of_answers(sources, "errors by group", errors_by)),
        Section("calibration", "Calibration", _of_answers(sources, "calibration", calibration)),
        Section("mistakes", "Most confident mistakes", _of_answers(sources, "mistakes", mistakes)),
        Section("pretexts", "Pretexts: questions and answers", _pretexts(sources)),
        Section("compute", "Compute and versions", _about(sources)),
        Section("configuration", "Configuration", _configuration(sources)),
    ]
    experiment, rows = sources.experiment.or_none(), sources.rows.or_none() or []
    summary = sources.summary
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Page(
        title=f"Run {folder.path.resolve().name}",
        summary=f"{trained_on(summary, experiment)}{state_of(folder, summary, rows)}",
        facts=Facts(headline(summary, rows, experiment)),
        sections=[section for section in sections if section.blocks],
        made=f"Made by mtlcore {__version__} on {made} from {folder.path}.",
    )


def part(what: str, make: Callable[[], Blocks]) -> Blocks:
    """A part of a report, or the reason why it can't be shown."""
    try:
        return make()
    except MtlError as error:
        return [Missing(what, str(error))]


class Once(Generic[T]):
    """Makes something when it is first asked for. An error is kept, too, and raised each time."""

    def __init__(self, make: Callable[[], T]) -> None:
        self.make = make
        self.made: list[T] = []
        self.error: MtlError | None = None

    def __call__(self) -> T:
        if self.error is not None:
            raise self.error
        if not self.made:
            try:
                self.made.append(self.make())
            except MtlError as error:
                self.error = error
                raise
        return self.made[0]

    def or_none(self) -> T | None:
        """Return it, or None where it can't be made."""
        try:
            return self()
        except MtlError:
            return None


class _Sources:
    """What the parts of a report read. Each is a function that raises MtlError without it."""

    def __init__(
        self, folder: RunFolder, split: str | None, overrides: Overrides, progress: Progress | None
    ) -> None:
        self.folder = folder
        self.split = split
        self.progress = progress
        self.summary: Mapping[str, Any] = folder.provenance()
        self.rows = Once(folder.log.rows)
        self.experiment = Once(lambda: folder.experiment(overrides))
        self.data = Once(lambda: open_samples(self.experiment(), split))
        self.network = Once(lambda: open_network(folder, self.experiment()))
        self.answers = Once(self._answers)

    @property
    def is_finished(self) -> bool:
        return bool(self.summary.get("finished"))

    def _answers(self) -> list[Answers]:
        if not self.experiment().tasks:
            raise MtlError("The run has no supervised task.")
        network = self.network()
        splits = splits_of_tasks(self.data(), self.split, self.is_finished)
        if not splits:
            raise MtlError(
                "No split to evaluate on has a label of a task: choose one with --split."
            )
        return answers_of(self.data(), network, splits, self.progress)

    def require_split(self) -> None:
        """Raise MtlError if the data can be opened and lacks the split that the user named."""
        opened = self.data.or_none()
        if opened is not None:
            splits_of_tasks(opened, self.split, self.is_finished)


# ---------------------------------------------------------------------------------- sections


def _data(sources: _Sources) -> Blocks:
    """Counts, what was left out, labels, and a sheet of samples."""
    found = list(recorded(sources.summary))
    found += part("labels by class", lambda: [Columns(list(label_tables(sources.data())))])
    if sources.data.or_none() is not None:
        found += part("a sheet of samples", lambda: sheet_of_data(sources.data()))
    return found


def _metrics(sources: _Sources) -> Blocks:
    """Metrics with intervals and confusion matrices; the recorded metrics in any case."""
    rows = sources.rows.or_none() or []
    own = recorded_metrics(sources.summary, rows)
    answers = sources.answers.or_none()
    if answers is None:
        what = "metrics on samples, confusion matrices, errors by group, calibration and mistakes"
        return [*part(what, lambda: _raised(sources)), *own]
    note = (
        f"Checkpoint {sources.network().checkpoint}. Intervals are {100 * LEVEL:.0f} % percentile "
        f"bootstrap intervals over the samples, {RESAMPLES} resamples. They don't say how much "
        "another seed changes: for this, compare several runs with a study."
    )
    if not sources.is_finished:
        note += " The run is not finished, so its test split was not read."
    notes = [Text(line, quiet=True) for line in (note, *sources.network().notes)]
    return [metric_table(answers), *notes, *matrices(answers), *own]


def _raised(sources: _Sources) -> Blocks:
    sources.answers()
    return []


def _of_answers(
    sources: _Sources, what: str, make: Callable[[Sequence[Answers]], Blocks]
) -> Blocks:
    """A part that needs predictions. Without them, the metrics say why."""
    answers = sources.answers.or_none()
    return [] if answers is None else part(what, lambda: make(answers))


def _pretexts(sources: _Sources) -> Blocks:
    experiment = sources.experiment.or_none()
    if experiment is None or not experiment.pretexts:
        return []
    rows = sources.rows.or_none() or []
    metrics = latest_validation(sources.summary, rows)[0]
    found = pretext_table(metrics, experiment.pretexts)
    return [
        *found,
        *part("what the pretexts ask", lambda: pretext_sheets(sources.data(), sources.folder)),
    ]


def _about(sources: _Sources) -> Blocks:
    rows = sources.rows.or_none() or []
    return [*compute(sources.summary, rows), *versions(sources.summary)]


def _configuration(sources: _Sources) -> Blocks:
    found = part("the experiment", lambda: _loaded(sources))
    return [*found, *configuration(sources.folder)]


def _loaded(sources: _Sources) -> Blocks:
    sources.experiment()
    return []
