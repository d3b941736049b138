"""What a run tells whoever watches: a person at a terminal, a test, nobody."""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from ..evaluation.measure import Measured


@frozen
class TrainProgress:
    """The state of a run at a logged step. losses: by label, means since the last one. rate: steps a second."""

    step: int
    steps: int
    losses: dict[str, float]
    lr: float
    rate: float
    skipped: int


class ProgressReporter(Protocol):
    """Called on the main process only, never inside the step."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Preparation: images decoded, and the like."""

    def note(self, text: str) -> None:
        """Something a person should know."""

    def step(self, progress: TrainProgress) -> None:
        """A logged step."""

    def evaluated(self, step: int, measured: Measured) -> None:
        """Figures on the validation split."""


class SilentReporter:
    """Nobody watches."""

    def progress(self, what: str, done: int, total: int) -> None: ...
    def note(self, text: str) -> None: ...
    def step(self, progress: TrainProgress) -> None: ...
    def evaluated(self, step: int, measured: Measured) -> None: ...
