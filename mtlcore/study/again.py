"""Train a finished run again, and compare it with its row: every metric, every bit."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import evolve, frozen

from ..callbacks.progress import ProgressReporter
from ..errors import MtlError, nearest
from .results import Row, key_of, name_of
from .training import Trainee
from .workspace import Workspace

REPRODUCED = ("set", "encoded", "validation", "validation_best", "test", "test_best", "weights")
"""Fields of a row that must be equal when the run is trained again."""
PROVENANCE = ("mtlcore", "commit", "torch", "threads", "device", "fingerprint")
"""Fields that are shown of both rows. The fingerprint hashes every key of the configuration, with
its default, so it changes with each key that mtlcore gains or renames."""


@frozen
class Repeated:
    """A run that was trained twice. before, now: its rows. different: fields that differ."""

    name: str
    before: Row
    now: Row
    different: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every metric and every bit of the weights agree."""
        return not self.different

    def lines(self) -> list[str]:
        """Return what a user reads, one line each."""
        lines = [f"{key}: {self.before[key]} then, {self.now[key]} now" for key in self.different]
        lines.append(f"{self.name}: {'the same, bit for bit' if self.same else 'NOT the same'}")
        shown = [key for key in PROVENANCE if key in self.before or key in self.now]
        facts = [f"{key} {self.before.get(key)} / {self.now.get(key)}" for key in shown]
        lines.append(f"then / now: {', '.join(facts)}")
        if not self.same:
            # A row has the instruction set but not the model of the processor.
            lines.append(
                "note: sums round differently on another processor model, torch or thread count"
            )
        return lines


def again(workspace: Workspace, name: str, reporter: ProgressReporter | None = None) -> Repeated:
    """Train a finished run again. Raises MtlError if there is no such row."""
    plan = workspace.plan()
    rows = {name_of(key_of(row)): row for row in plan.results.rows if "failed" not in row}
    if name not in rows:
        raise MtlError(f"there is no finished run {name!r}; {nearest(name, rows)}")
    before = rows[name]
    workspace.work.mkdir(parents=True, exist_ok=True)
    # A new folder: a folder of the first time would be resumed instead of trained.
    with TemporaryDirectory(dir=workspace.work) as folder:
        elsewhere = evolve(workspace, work=Path(folder))
        now = Trainee(elsewhere, reporter).train(plan.run(key_of(before)))
    return Repeated(name, before, now, tuple(differences(before, now)))


def differences(before: Row, now: Row) -> list[str]:
    """Return the fields that should be reproduced but differ."""
    return [key for key in REPRODUCED if key in before and before[key] != now[key]]
