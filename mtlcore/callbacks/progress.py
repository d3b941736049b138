"""What a run reports while it trains, and the protocol of the object that receives it."""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from ..evaluation.measure import Measured


@frozen
class TrainProgress:
    """The state of a run at a logged step.

    step, steps: done, and of the whole run. losses: label -> mean since the last logged step.
    lr: learning rate. rate: steps per second. skipped: steps whose gradient was not finite.
    """

    step: int
    steps: int
    losses: dict[str, float]
    lr: float
    rate: float
    skipped: int


class ProgressReporter(Protocol):
    """Shows the progress of a run. Called between steps, on the main process only."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Progress of the preparation, such as images that are decoded."""

    def note(self, text: str) -> None:
        """A message for the user."""

    def step(self, progress: TrainProgress) -> None:
        """A logged step."""

    def evaluated(self, step: int, measured: Measured) -> None:
        """Metrics on the validation split."""


class SilentReporter:
    """A `ProgressReporter` that shows nothing."""

    def progress(self, what: str, done: int, total: int) -> None: ...
    def note(self, text: str) -> None: ...
    def step(self, progress: TrainProgress) -> None: ...
    def evaluated(self, step: int, measured: Measured) -> None: ...
