"""The test split of a study: read only when asked, and each reading is recorded.

    FOLDER/test.jsonl          the test metrics of a run, one line each
    FOLDER/test_reads.jsonl    who read them, when, for which arms, and by which choice

A choice that is made after a look at the test split is no longer tested by it. So a second reading
for another choice (an edited study, other arms, other trials, other seeds) is recorded, and told.
"""

from __future__ import annotations

import datetime
import getpass
import socket
from collections.abc import Collection, Sequence
from pathlib import Path

from attrs import frozen
from filelock import FileLock

from ..errors import MtlError
from ..files import exists, read_file
from ..runs import RunFolder
from .identity import definition_hash
from .plan import Plan
from .results import Key, Results, Row, Run, key_of
from .training import measured, weights_of
from .workspace import Workspace, append_line, json_lines


@frozen
class HeldOut:
    """The test metrics of a study's runs. folder: of the study."""

    workspace: Workspace
    folder: Path

    @property
    def metrics(self) -> Path:
        """One line for each evaluated run."""
        return self.folder / "test.jsonl"

    @property
    def reads(self) -> Path:
        """One line for each reading."""
        return self.folder / "test_reads.jsonl"

    def read(self, arms: Sequence[str] = ()) -> tuple[Plan, list[str]]:
        """Evaluate the runs of these arms (default: all) on test.

        Return the plan whose rows have test metrics, and what to tell the user.
        Raises MtlError while runs are left: choices must come first.
        """
        plan = self.workspace.plan()
        left = plan.left()
        if left or plan.pending_stages():
            raise MtlError(
                f"{len(left)} runs are left, so the test split is not read: it is read once, after "
                "all choices. Finish them (`mtl study run`), or remove their arms or seeds"
            )
        runs = _evaluated(plan, arms)
        with FileLock(self.folder / ".test.lock"):
            warnings = self._record(plan, runs)
            for run in runs:
                self._evaluate(plan, run)
        return self._with_tests(plan, {run.key for run in runs}), warnings

    def known(self) -> Plan:
        """Return the plan whose rows have the test metrics that were read before. Reads none."""
        plan = self.workspace.plan()
        return self._with_tests(plan, {key_of(row) for row in plan.results.rows})

    def _record(self, plan: Plan, runs: Sequence[Run]) -> list[str]:
        """Record this reading, unless the same choice was read before. Return the warnings."""
        choice = _choice(plan, runs)
        earlier = _reads(self.reads)
        if any(read["choice"] == choice["choice"] for read in earlier):
            return []
        append_line(self.reads, {**choice, **_who(), "earlier": len(earlier)})
        if not earlier:
            return []
        last = earlier[-1]
        shown = ", ".join(f"{arm} (trial {trial})" for arm, trial in last["arms"].items())
        return [
            f"the test split was read before by another choice, on {last['date']} by "
            f"{last['user']} for {shown}: what was changed since may follow from its results. "
            f"{self.reads} records both: report both"
        ]

    def _evaluate(self, plan: Plan, run: Run) -> None:
        row = plan.results.by_key[run.key]
        if "test" in row or _line_of(plan, row, self._lines()):
            return
        folder = self.workspace.work / run.name
        _require_weights(folder, row)
        line: Row = {"key": list(run.key), "split": run.split, "weights": row["weights"]}
        line["test"] = measured(folder, run.split, "last")
        opened = RunFolder.open(folder)
        best = opened.checkpoint("best")
        if best is not None and best.step == opened.require().step:  # the same weights
            line["test_best"] = line["test"]
        elif best is not None:
            line["test_best"] = measured(folder, run.split, "best")
        append_line(self.metrics, line)

    def _with_tests(self, plan: Plan, keys: Collection[Key]) -> Plan:
        lines, rows = self._lines(), []
        for row in plan.results.rows:
            found = _line_of(plan, row, lines) if key_of(row) in keys else {}
            tests = {key: value for key, value in found.items() if key.startswith("test")}
            rows.append({**row, **tests})
        return Plan(plan.definition, Results(rows, plan.definition))

    def _lines(self) -> list[Row]:
        return _lines(self.metrics, "key", "weights", "test")


def _evaluated(plan: Plan, arms: Sequence[str]) -> list[Run]:
    """Return the runs to evaluate: those of the chosen trials, which did not diverge."""
    for name in arms:
        plan.arm(name)  # raises on an unknown arm
    runs = {run.key: run for run in plan.runs() if run.stage != "tune"}
    return [
        run
        for run in runs.values()
        if (not arms or run.arm.name in arms) and "failed" not in plan.results.by_key[run.key]
    ]


def _choice(plan: Plan, runs: Sequence[Run]) -> Row:
    """Return what was chosen to be read: arms, trials, seeds, and all that they set."""
    made = [
        (*run.key, plan.results.by_key[run.key].get("settings", ""), *_other_split(run))
        for run in runs
    ]
    return {
        "choice": definition_hash({"runs": sorted(map(list, made))}),
        "arms": {run.arm.name: run.trial for run in runs},
        "seeds": sorted({run.seed for run in runs}),
        "runs": len(runs),
    }


def _other_split(run: Run) -> tuple[str, ...]:
    return () if run.split == "test" else (run.split,)


def _require_weights(folder: Path, row: Row) -> None:
    """Raise MtlError if a run folder has other weights than those of the row."""
    found = weights_of(folder)
    if found != row["weights"]:
        raise MtlError(
            f"{folder} has the weights {found}, but the row of this run has {row['weights']}: it "
            f"was trained again after the study was edited. If {folder.name}.old-1 (or -2, ...) is "
            "the run of the row, rename it back; otherwise remove the row from runs.jsonl, and "
            "`mtl study run` reads the run folder again"
        )


def _who() -> Row:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    now = datetime.datetime.now(datetime.UTC)
    return {"date": now.isoformat(timespec="seconds"), "user": user, "host": socket.gethostname()}


def _line_of(plan: Plan, row: Row, lines: Sequence[Row]) -> Row:
    """Return the line with the test metrics of a row; empty if they were not read yet."""
    wanted = key_of(row), row.get("weights"), plan.run(key_of(row)).split
    for line in lines:
        if (tuple(line["key"]), line["weights"], line.get("split", "test")) == wanted:
            return line
    return {}


def _lines(file: Path, *needed: str) -> list[Row]:
    """Return the lines of a file. Raises MtlError on a line without what is needed."""
    rows: list[Row] = []
    for number, row in json_lines(file):
        if not isinstance(row, dict) or any(name not in row for name in needed):
            raise MtlError(f"{file}, line {number}: damaged: restore the line from a copy")
        rows.append(row)
    return rows


def _reads(file: Path) -> list[Row]:
    """Return the readings of the test split. A damaged line would hide one, so it is an error."""
    found = _lines(file, "choice", "arms", "date", "user")
    lines = read_file(file).splitlines() if exists(file) else []
    if len(found) < len(lines):
        raise MtlError(
            f"{file} has a damaged line, which would hide a reading of the test split: restore "
            "the line from a copy, or remove it and report that reading"
        )
    return found
