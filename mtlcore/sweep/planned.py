"""One run of a sweep, and what lies in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import frozen

from ..config.experiment import Experiment
from ..runs import RunFolder

State = Literal["finished", "diverged", "begun", "new"]
ENDED = ("finished", "diverged")


@frozen
class Planned:
    """One run of the sweep. setting: what it sets, one override an axis."""

    name: str
    setting: tuple[str, ...]
    seed: int
    experiment: Experiment
    folder: Path
    config: Path

    @property
    def state(self) -> State:
        """What lies in its folder."""
        run = RunFolder(self.folder)
        if not run.config.is_file():
            return "new"
        provenance = run.provenance()
        return (
            "finished"
            if provenance.get("finished")
            else "diverged"
            if provenance.get("diverged")
            else "begun"
        )
