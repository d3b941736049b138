"""The events of a run as JSON, one line each, for programs that start `mtl train --json`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..contracts import CallbackContext
from ..files import to_json
from .progress import ProgressReporter

EVERY_S = 1.0  # seconds between two events of the same preparation


class JsonEvents(ProgressReporter):
    """Print one JSON object a line on stdout, each with "event".

    "progress": what, done, total. "note": text. "start": step, steps. "log": a row of
    metrics.jsonl. "checkpoint": step, path.
    """

    def __init__(self) -> None:
        self.progress_at: dict[str, float] = {}  # time of the last event of each preparation

    def progress(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self.progress_at.get(what, float("-inf")) >= EVERY_S:
            self.progress_at[what] = now
            print_event("progress", what=what, done=done, total=total)

    def note(self, text: str) -> None:
        print_event("note", text=text)

    def on_train_start(self, run: CallbackContext) -> None:
        print_event("start", step=run.step, steps=run.steps, run=str(run.folder))

    def on_log(self, run: CallbackContext, row: Mapping[str, Any]) -> None:
        print_event("log", **row)

    def on_checkpoint(self, run: CallbackContext, checkpoint: Any) -> None:
        print_event("checkpoint", step=run.step, path=str(checkpoint))


def print_event(event: str, **values: object) -> None:
    """Print one event at once, also into a pipe."""
    print(to_json({"event": event, **values}), flush=True)  # noqa: T201
