"""The rows of a study, and the claims of the processes that share it.

    FOLDER/runs.jsonl          one line for each run that ended
    FOLDER/runs/NAME/          its run folder; NAME.toml: the configuration that it was started with
    FOLDER/runs/NAME.lock      held by the process that trains it

A row is never changed. Where the study was edited, rows of its earlier text stay in the file and no
longer count; `Rows.stale` says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import Factory, asdict, frozen
from filelock import FileLock, Timeout

from ..errors import MtlError
from ..files import exists, read_file, write_errors_as_mtl_error
from .definition import Definition
from .identity import definition_hash, settings_hash
from .plan import Plan
from .results import Key, Results, Row, Run, key_of, name_of


class Site:
    """What depends on the place where a study runs. The committed studies have their own."""

    def overrides(self, definition: Definition, run: Run, settings: Sequence[str]) -> list[str]:
        """Return what to load on this machine: the settings of the run, then those of the study."""
        return [*settings, *definition.settings]

    def read_row(self, row: Row) -> Row:
        """Return a row with today's names."""
        return row

    def provenance(self) -> dict[str, object]:
        """Return what identifies the code; called before a run trains."""
        from .. import __version__

        return {"mtlcore": __version__}


@frozen
class Stale:
    """A row that no longer counts. reason: what changed."""

    row: Row
    reason: str

    @property
    def name(self) -> str:
        """The name of its run."""
        return name_of(key_of(self.row))


@frozen
class Rows:
    """The rows of a study.

    ended: of finished and diverged runs, that count. errors: of runs that failed with an error,
    and that are tried again. stale: those that no longer count.
    """

    ended: tuple[Row, ...]
    errors: tuple[Row, ...] = ()
    stale: tuple[Stale, ...] = ()


@frozen
class Workspace:
    """The folders of a study.

    work: folder of the run folders.
    file: runs.jsonl.
    frozen: the study must not change once it has rows: a row of other settings is an error.
    """

    definition: Definition
    work: Path
    file: Path
    site: Site = Factory(Site)
    frozen: bool = False

    # ------------------------------------------------------------------------------------- rows

    def rows(self) -> list[Row]:
        """Return all rows of the file with today's names, in order."""
        found: list[Row] = []
        for number, row in json_lines(self.file):
            problem = _problem(row)
            if problem:
                raise MtlError(
                    f"{self.file}, line {number}: {problem}: restore the line, or remove it, and "
                    "`mtl study run` reads its run folder again"
                )
            found.append(self.site.read_row(row))
        return found

    def sorted_rows(self) -> Rows:
        """Return the rows that count and those that don't. If a run has two, the first counts.

        Raises MtlError on a row of other settings, if the study is frozen.
        """
        names = Plan(self.definition, Results((), self.definition))
        ended: dict[Key, Row] = {}
        errors: dict[Key, Row] = {}
        stale: list[Stale] = []
        for row in self.rows():
            reason = self._why_stale(names, row)
            if reason and self.frozen:
                raise MtlError(
                    f"{self.file}: {reason}: a protocol that has been run must not change, so give "
                    "the changed one a new name (or a rehearsal another --work)"
                )
            if reason:
                stale.append(Stale(row, reason))
            elif row.get("failed") and not row.get("ended"):
                errors[key_of(row)] = row
            else:
                ended.setdefault(key_of(row), row)
        if not self.frozen:
            ended = self._in_plan(ended, stale)
        still = [row for key, row in errors.items() if key not in ended]
        left = [old for old in stale if key_of(old.row) not in ended]
        return Rows(tuple(ended.values()), tuple(still), tuple(left))

    def _in_plan(self, ended: Mapping[Key, Row], stale: list[Stale]) -> dict[Key, Row]:
        """Return the rows of runs that the study has, in their order; the others are stale."""
        plan = Plan(self.definition, Results(tuple(ended.values()), self.definition))
        runs = {run.key: None for run in plan.runs()}
        for key, row in ended.items():
            if key not in runs:
                reason = (
                    f"{name_of(key)}: the study no longer has this run (its seed, or its trial)"
                )
                stale.append(Stale(row, reason))
        return {key: ended[key] for key in runs if key in ended}

    def _why_stale(self, names: Plan, row: Row) -> str:
        """Return why a row does not count for the study as it is now, or ""."""
        key = key_of(row)
        try:
            run = names.run(key)
        except MtlError as error:
            if self.frozen:
                raise
            return str(error)
        settings = self.settings(run)
        if row["set"] != settings:
            return f"{run.name} was made with {row['set']}, but the study now sets {settings}"
        if self.frozen:
            return ""
        steps = names.steps_of(run.stage, run.arm)
        if run.steps != steps:
            return f"{run.name} has {run.steps} steps, the study now has {steps}"
        if row.get("settings") != self.settings_hash(run):
            return (
                f"{run.name}: the base configuration, a plugin file or its pre-training has changed"
            )
        return ""

    def plan(self) -> Plan:
        """Return the plan that follows from the rows in the file now."""
        return Plan(self.definition, Results(self.sorted_rows().ended, self.definition))

    def settings(self, run: Run) -> list[str]:
        """Return the settings that the row of a run lists."""
        return [*run.overrides, *self.definition.settings]

    def settings_hash(self, run: Run) -> str:
        """Hash what the run sets, with its base configuration and its pre-training."""
        seed = run.overrides[-1]
        settings = [setting for setting in self.settings(run) if setting != seed]
        base = self.definition.base(run.config)
        made = settings_hash(base, settings, self.definition.plugins)
        more: dict[str, object] = {}
        if run.arm.pretraining is not None:
            more["pretraining"] = asdict(run.arm.pretraining)
        if self.definition.test == "rows" and run.split != "test":
            more["split"] = run.split
        return definition_hash({"settings": made, **more}) if more else made

    def row(self, run: Run) -> Row | None:
        """Return the row of a run that is in the file now, or None."""
        return self.plan().results.row(run)

    def append(self, row: Mapping[str, object]) -> None:
        """Append a row to the file."""
        append_line(self.file, row)

    # ---------------------------------------------------------------------------------- claims

    @contextmanager
    def claimed(self, run: Run) -> Iterator[bool]:
        """Yield whether this process has the run to itself.

        The claim is a file lock: it ends with the process, even after a crash.
        """
        with write_errors_as_mtl_error(self.work):
            self.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.work / f"{run.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def set_aside(folder: Path) -> Path:
    """Rename a run folder, and its configuration beside it, to NAME.old-1 (or -2, ...).

    Return the new folder.
    """
    number = 1
    while (old := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    with write_errors_as_mtl_error(folder):
        folder.rename(old)
        with suppress(FileNotFoundError):
            folder.with_name(f"{folder.name}.toml").rename(old.with_name(f"{old.name}.toml"))
    return old


def json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and the value of each line; none if there is no file.

    A line that a crash has cut off is not JSON. It is left out: what it described is done again.
    """
    if not exists(file):
        return
    lines = read_file(file).decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        with suppress(json.JSONDecodeError):
            yield number, json.loads(line)


FIELDS: dict[str, type | tuple[type, ...]] = {
    "stage": str,
    "arm": str,
    "trial": int,
    "seed": int,
    "steps": int,
    "set": list,
    "encoded": (int, float),
    "cpu_s": (int, float),
    "validation": dict,
    "device": str,
}
"""What each row has, of any format."""


def _problem(row: Any) -> str:
    """Return why a value is not a row, or ""."""
    if not isinstance(row, dict):
        return f"expected a row of a study, got {row!r}"
    for name, kind in FIELDS.items():
        if name not in row:
            return f"the row has no {name!r}"
        if not isinstance(row[name], kind):
            return f"{name} = {row[name]!r}: damaged"
    for name, value in row["validation"].items():
        if not isinstance(value, int | float):
            return f"validation/{name} = {value!r}: expected a number"
    return ""


def append_line(file: Path, row: Mapping[str, object]) -> None:
    """Append one line of JSON to a file that several processes may write."""
    with write_errors_as_mtl_error(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(row).encode() + b"\n"
        with FileLock(file.with_name(f".{file.name}.lock")), file.open("a+b") as lines:
            # If a crash has cut off the last line, start a new one.
            lines.seek(0)
            is_cut = lines.read()[-1:] not in (b"", b"\n")
            lines.write(b"\n" + line if is_cut else line)
