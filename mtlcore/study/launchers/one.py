"""One run of a study a process, for SLURM arrays and any other scheduler.

`numbered` writes the names of the runs that are left into FOLDER/list.txt. A number is a line of
that file, so it means the same run until the next call, whatever ends meanwhile. `collect` brings
the runs of other machines into one folder, where the machines share none.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ...callbacks.progress import ProgressReporter
from ...errors import MtlError, first_few
from ...files import write_atomically, write_errors_as_mtl_error
from ..results import PRETRAINING, Row, key_of
from ..study import Study, selected
from ..working import Say, Work
from ..workspace import Workspace, set_aside

LIST = "list.txt"


def numbered(study: Study, arms: Sequence[str] = ()) -> list[str]:
    """Return the names of the runs that are left, and write them to FOLDER/list.txt.

    arms: of these arms alone.
    """
    plan = study.workspace.plan()
    for arm in arms:
        plan.arm(arm)  # raises on an unknown arm
    names = [run.name for run in selected(plan, arms)]
    study.claim()
    with write_errors_as_mtl_error(study.folder):
        write_atomically(study.folder / LIST, "".join(f"{name}\n" for name in names).encode())
    return names


def name_of_number(study: Study, number: int) -> str:
    """Return the name of a run by its line in FOLDER/list.txt, counted from 1."""
    file = study.folder / LIST
    if not file.exists():
        raise MtlError(f"{file} is missing: number the runs first: mtl study run STUDY --list")
    names = file.read_text(encoding="utf-8").split()
    if not 1 <= number <= len(names):
        raise MtlError(f"--only {number}: {file} has the runs 1 to {len(names)}")
    return names[number - 1]


def train_one(
    study: Study, name: str, say: Say, reporter: ProgressReporter | None = None
) -> dict[str, str]:
    """Train or resume one run. Return its arm -> why it failed; empty if it has ended.

    While another process trains it, this one waits, and takes over if that process dies.
    Raises MtlError if the study no longer has the run.
    """
    study.save_copy(say)
    known = [run.name for run in study.workspace.plan().runs()]
    if name not in known:
        raise MtlError(
            f"{name}: the study has no such run now; it has {first_few(known, 3)}. "
            "Number the runs again: mtl study run STUDY --list"
        )
    work = Work(study.workspace, say, reporter)
    work.run(lambda plan: [run for run in plan.left() if run.name == name])
    return work.failed


def collect(study: Study, folders: Sequence[Path]) -> list[str]:
    """Copy the ended runs of other folders of this study into its own. Return their names.

    A run that the study has already is left out, and so is a row that does not count for it.
    Raises MtlError for a folder without rows, and for a run that is being trained here.
    """
    ours, added = study.workspace, []
    for folder in folders:
        theirs = Workspace(study.definition, folder / "runs", folder / "runs.jsonl")
        if not theirs.file.exists():
            raise MtlError(f"{folder} is no folder of a study: {theirs.file} is missing")
        for row in theirs.sorted_rows().ended:
            if key_of(row) not in ours.plan().results.by_key:
                added.append(_collect_run(theirs, ours, row))
    return added


def _collect_run(theirs: Workspace, ours: Workspace, row: Row) -> str:
    run = ours.plan().run(key_of(row))
    with ours.claimed(run) as is_ours:
        if not is_ours:
            raise MtlError(
                f"{run.name} is being trained here, and {theirs.file} has it: stop one of the two, "
                "then collect again"
            )
        _copy_run(theirs, ours, run.name)
        ours.append(row)
    return run.name


def _copy_run(theirs: Workspace, ours: Workspace, name: str) -> None:
    """Copy the folder of a run and its configuration, under its final name once it is complete."""
    with write_errors_as_mtl_error(ours.work):
        ours.work.mkdir(parents=True, exist_ok=True)
        for part in (name, f"{name}{PRETRAINING}"):
            source, target = theirs.work / part, ours.work / part
            if not source.exists():
                continue
            temporary = ours.work / f".{part}.new"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(source, temporary)
            if target.exists():  # half trained here, and finished there
                set_aside(target)
            temporary.rename(target)
            shutil.copyfile(theirs.work / f"{part}.toml", ours.work / f"{part}.toml")
