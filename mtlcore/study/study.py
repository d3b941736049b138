"""`Study`: a comparison of arms over seeds, for Python code and the command line."""

from __future__ import annotations

import os
import tomllib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import frozen

from ..callbacks.progress import ProgressReporter
from ..config.load import Where
from ..config.same import changed_keys
from ..errors import MtlError
from ..files import (
    decoded,
    exists,
    in_shell,
    is_folder,
    read_file,
    write_atomically,
    write_errors_as_mtl_error,
)
from ..report.html import require_html, write_page
from .again import Repeated, again
from .checks import prepared
from .definition import Definition
from .held_out import HeldOut
from .jobs import run_in_processes
from .page import study_page
from .plan import Plan
from .plots import require_suffix
from .read import read, read_tables
from .remaining import Remaining, no_longer_count, remaining
from .report import Report, Tables, report
from .results import Run, key_of, name_of
from .statistics import spread
from .working import Say, Work
from .workspace import Workspace

WRITTEN = (
    "study.toml",
    *(f"{name}.{ending}" for name in ("table", "test") for ending in ("md", "csv", "tex")),
    "test_reads.jsonl",
    "list.txt",
    "sweep.json",
    "chosen.toml",
)
"""Files that a study or a sweep writes into its folder, besides runs/ and runs.jsonl."""


class SecondReadWarning(UserWarning):
    """The test split was read before, by another choice."""


@frozen
class Study:
    """A study file, and the folder of its runs. `Study.load` reads one.

    definition: the keys of the file, completed. folder: FOLDER/runs.jsonl has a line for each run.
    file: the study file; None if the study was made in Python.
    """

    definition: Definition
    folder: Path
    file: Path | None = None

    @classmethod
    def load(cls, file: Where, out: Where | None = None) -> Study:
        """Read a study file, load the experiments of all arms, and check them. Nothing is trained.

        out: the folder of the study; default: the file without its ending.

        Raises MtlError with one line for each problem.
        """
        path = Path(file)
        if not path.name or is_folder(path):
            raise MtlError(f"{path} is a folder: expected a study, a TOML file such as study.toml")
        if path.suffix == "" and out is None:
            raise MtlError(
                f"{path}: the folder of the study would have the same name: rename the file to "
                f"{path}.toml, or choose another --out"
            )
        folder = path.with_suffix("") if out is None else Path(out)
        return cls(prepared(read(path)), folder, path)

    @property
    def workspace(self) -> Workspace:
        """The rows of the study and its run folders."""
        folder = self.folder.absolute()
        return Workspace(self.definition, folder / "runs", folder / "runs.jsonl")

    def run(
        self,
        *,
        jobs: int = 1,
        arms: Sequence[str] = (),
        say: Say = print,
        reporter: ProgressReporter | None = None,
    ) -> Report:
        """Train the runs that are left, and return the tables.

        Several processes may do so at once, on machines that share the folder. Each may be stopped
        by Ctrl-C, which raises Interrupted; the next call resumes. A run that diverges or fails is
        recorded, and the study goes on; `Report.errors` lists the latter.

        jobs: processes of this machine; more than 1 share its processor cores.
        arms: train these arms alone.
        say: shows a line to the user. reporter: shows the progress of a run, with jobs = 1.
        """
        spread([0.0, 1.0])  # raises where scipy is missing: before hours of training
        self.train(jobs=jobs, arms=arms, say=say, reporter=reporter)
        return self.table()

    def train(
        self,
        *,
        jobs: int = 1,
        arms: Sequence[str] = (),
        say: Say = print,
        reporter: ProgressReporter | None = None,
    ) -> dict[str, str]:
        """Train as `run` does, without the tables. Return arm -> why its run failed."""
        if jobs < 1:
            raise MtlError(f"jobs = {jobs}: expected a number of processes, 1 or more")
        self.require_arms(arms)
        self.save_copy(say)
        if jobs > 1:
            run_in_processes(self._command(arms), jobs)
            return {}
        work = Work(self.workspace, say, reporter)
        work.run(lambda plan: selected(plan, arms))
        return work.failed

    def plan(self) -> Remaining:
        """Return what is left, with its compute estimated from the runs that have ended."""
        rows, plan = self.workspace.sorted_rows(), self.workspace.plan()
        return remaining(plan, rows, plan.left())

    def table(
        self, *, test: bool = False, arms: Sequence[str] = (), plot: Where | None = None
    ) -> Report:
        """Return the tables of the runs that have ended, and write them to FOLDER/table.*.

        test: evaluate on the test split. It is read once, after all choices, and the reading is
        recorded in FOLDER/test_reads.jsonl. A reading for another choice warns.
        arms: read the test split for these arms alone.
        plot: also write a plot into this .png, .svg or .pdf file.
        """
        if plot is not None:
            require_suffix(Path(plot))
        workspace = self.workspace
        plan = workspace.plan()
        if test:
            plan, notes = HeldOut(workspace, self.folder).read(arms)
            for note in notes:
                warnings.warn(note, SecondReadWarning, stacklevel=2)
        errors = {name_of(key_of(row)): row["failed"] for row in workspace.sorted_rows().errors}
        found = report(plan, self._shown(), errors)
        self._write(found, "test" if test else "table")
        if plot is not None:
            Tables(plan).plot(Path(plot))
        return found

    def report(self, path: Where) -> Path:
        """Write a report of the runs that have ended as one HTML file, and return its path.

        Of a study that is half done, it shows what there is. The test split is not read; where
        `table(test=True)` has read it, its metrics are shown.

        path: the .html file to write. An existing one is replaced.
        """
        file = Path(path)
        require_html(file)
        spread([0.0, 1.0])  # raises where scipy is missing
        text = None if self.file is None else decoded(read_file(self.file))
        left = self.plan()
        write_page(study_page(self.known(), left, self._shown(), self.folder, text), file)
        return file

    def known(self) -> Plan:
        """Return the plan with the runs that have ended, with the test metrics that were read."""
        return HeldOut(self.workspace, self.folder).known()

    def again(self, run: str, reporter: ProgressReporter | None = None) -> Repeated:
        """Train a finished run a second time, and compare it with its row, bit for bit.

        run: its name, such as "main-puzzling-0-2-1000" (stage, arm, trial, seed, steps).
        """
        return again(self.workspace, run, reporter)

    # ------------------------------------------------------------------------------------- files

    def _shown(self) -> str:
        return f"mtl study run {in_shell(self.file.name)}" if self.file else self.definition.name

    def require_arms(self, arms: Sequence[str]) -> None:
        """Raise MtlError if the study has no arm with one of these names."""
        plan = self.workspace.plan()
        for name in arms:
            plan.arm(name)

    def _command(self, arms: Sequence[str]) -> list[str]:
        if self.file is None:
            raise MtlError("jobs > 1 needs a study file: write one, and use Study.load")
        return [os.fspath(self.file), os.fspath(self.folder), *arms]

    def claim(self) -> None:
        """Begin the folder of the study; it is one once it has runs/.

        Raises MtlError if it holds other files under names that the study writes.
        """
        runs = self.folder / "runs"
        if exists(runs) or exists(self.workspace.file):
            return
        found = [name for name in WRITTEN if exists(self.folder / name)]
        if found:
            raise MtlError(
                f"{self.folder} is not the folder of a study, and its {', '.join(found)} would be "
                "replaced: choose another --out"
            )
        with write_errors_as_mtl_error(self.folder):
            runs.mkdir(parents=True, exist_ok=True)

    def _write(self, found: Report, name: str) -> None:
        self.claim()
        with write_errors_as_mtl_error(self.folder):
            for ending, form in {"md": "markdown", "csv": "csv", "tex": "latex"}.items():
                text = found.as_format(form) + "\n"
                write_atomically(self.folder / f"{name}.{ending}", text.encode())

    def save_copy(self, say: Callable[[str], None]) -> None:
        """Save a copy of the study in its folder, and say what has changed since the last one.

        Raises MtlError as `claim`.
        """
        self.claim()
        if self.file is None:
            return
        copy = self.folder / "study.toml"
        text = self.file.read_bytes()
        with write_errors_as_mtl_error(copy):
            if copy.exists() and copy.read_bytes() != text:
                for line in self._edits(copy):
                    say(line)
            if not copy.exists() or copy.read_bytes() != text:
                write_atomically(copy, text)

    def _edits(self, copy: Path) -> list[str]:
        """Return what differs from the saved copy, and which rows no longer count."""
        assert self.file is not None
        try:
            before = tomllib.loads(decoded(copy.read_bytes()))
        except (OSError, ValueError):
            before = {}
        changes = changed_keys(read_tables(self.file), before, "before", "now", resumable=True)
        stale = self.workspace.sorted_rows().stale
        if not changes and not stale:
            return []
        lines = ["the study was edited since its last run:", *(f"  {line}" for line in changes)]
        return [*lines, *no_longer_count(stale)]


def selected(plan: Plan, arms: Sequence[str]) -> list[Run]:
    """Return the runs that are left, of these arms; of all without any."""
    return [run for run in plan.left() if not arms or run.arm.name in arms]
