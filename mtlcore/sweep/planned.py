"""One run of a sweep, and the state of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import frozen

from ..config.experiment import Experiment
from ..files import is_file
from ..runs import RunFolder

State = Literal["finished", "diverged", "interrupted", "new"]
ENDED = ("finished", "diverged")
"""The states of runs that are not trained any more."""


@frozen
class Planned:
    """One run of a sweep.

    name: of its folder.
    setting: the overrides of the sweep, one per axis.
    config: the TOML file that records what the run was started with.
    """

    name: str
    setting: tuple[str, ...]
    seed: int
    experiment: Experiment
    folder: Path
    config: Path

    @property
    def state(self) -> State:
        """The state of the run, read from its folder.

        Raises MtlError if the folder has another format.
        """
        if not is_file(RunFolder(self.folder).config):
            return "new"
        provenance = RunFolder.open(self.folder).provenance()
        if provenance.get("finished"):
            return "finished"
        return "diverged" if provenance.get("diverged") else "interrupted"
