"""The base class of progress displays: a callback that also shows the preparation."""

from __future__ import annotations

from abc import abstractmethod

from ..contracts import Callback


class ProgressReporter(Callback):
    """Show the preparation of a run, and then, as a callback, its training.

    It is called on the main process only, and after the callbacks of the configuration.
    """

    reads_network = False

    @abstractmethod
    def progress(self, what: str, done: int, total: int) -> None:
        """Progress of the preparation, such as images that are decoded."""

    @abstractmethod
    def note(self, text: str) -> None:
        """A message for the user."""


class SilentReporter(ProgressReporter):
    """A `ProgressReporter` that shows nothing."""

    def progress(self, what: str, done: int, total: int) -> None: ...
    def note(self, text: str) -> None: ...
