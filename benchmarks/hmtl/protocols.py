"""The committed studies: where their files, data and rows are, and how their rows are written."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve, frozen

from mtlcore import MtlError, nearest
from mtlcore.study.definition import Definition
from mtlcore.study.read import read
from mtlcore.study.results import Row, Run
from mtlcore.study.workspace import Site, Workspace

from . import lite0
from .old_keys import read_row

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "benchmarks" / "protocols"


def load(name: str) -> Definition:
    """Load the protocol with this name. Its runs are evaluated on test as they end.

    Raises MtlError if there is no such protocol, or if one of its keys is unknown.
    """
    file = FOLDER / f"{name}.toml"
    if not file.exists():
        known = [other.stem for other in FOLDER.glob("*.toml")]
        raise MtlError(f"there is no protocol {name!r}; {nearest(name, known)}")
    return evolve(read(file, FOLDER / "bases"), test="rows")


def workspace(protocol: Definition, data: Path, work: Path, file: Path) -> Workspace:
    """Return the workspace of a protocol.

    data: folder that contains the data sets. work: folder of the run folders. file: `runs.jsonl`.
    """
    return Workspace(protocol, work, file, Checkout(data, work), frozen=True)


@frozen
class Checkout(Site):
    """This working copy: its data sets, ImageNet weights, old rows, and commit."""

    data: Path
    work: Path

    def overrides(self, definition: Definition, run: Run, settings: Sequence[str]) -> list[str]:
        """Return the settings of a run, its data folders, and those of a rehearsal."""
        own = [lite0.with_weights_file(setting, self.work) for setting in settings]
        return [*own, *self.machine_settings(definition, run)]

    def machine_settings(self, definition: Definition, run: Run) -> list[str]:
        """Return the settings that a row does not list, and those of a rehearsal.

        Each dataset's root is below --data. A rehearsal may set keys of datasets that the base
        configuration of this run does not have: these are left out.
        """
        text = definition.base(run.config).read_text(encoding="utf-8")
        datasets = tomllib.loads(text).get("data", {})
        roots = [
            f'data.{label}.root="{self.data / table["root"]}"'
            for label, table in datasets.items()
            if "root" in table
        ]

        def is_foreign(setting: str) -> bool:
            return setting.startswith("data.") and setting.split(".")[1] not in datasets

        settings = [setting for setting in definition.settings if not is_foreign(setting)]
        return [*roots, *settings]

    def read_row(self, row: Row) -> Row:
        """Return a row with today's names in its settings."""
        return read_row(row)

    def provenance(self) -> dict[str, object]:
        """Return the commit of this working copy."""
        return {"commit": commit()}


def commit() -> str:
    """Return the commit of this working copy, or "unknown" outside a repository.

    A "+" follows if files differ from the commit; benchmarks/results does not count.
    """
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+" if changed else head


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
