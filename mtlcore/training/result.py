"""The result of a finished run, for its caller and for run.json."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from ..callbacks.guard import Callbacks
from ..evaluation.measure import Measured
from .record import Record
from .state import TrainState

RESULT = (
    "finished",
    "steps",
    "cpu_s",
    "wall_s",
    "encoded",
    "skipped",
    "validation",
    "stopped_early",
)
"""The entries of run.json that `outcome` returns."""


@frozen
class Result:
    """A finished run.

    run: its folder. steps: optimizer steps taken. measured: on the validation split, at the last
    step. cpu_s: process CPU time, seconds. encoded: images that the encoder processed.
    skipped: steps whose gradient was not finite.
    """

    run: Path
    steps: int
    measured: Measured
    cpu_s: float
    encoded: int
    skipped: int


def result_of(run: Path, steps: int, measured: Measured, record: Record) -> Result:
    """The result of a run with these counters."""
    skipped = record.skipped_so_far()
    return Result(run, steps, measured, record.cpu_s, round(record.encoded), skipped)


def outcome(
    train_state: TrainState, record: Record, callbacks: Callbacks, measured: Measured
) -> dict[str, object]:
    """The result for run.json, and which callback stopped the run before its last step."""
    entries: dict[str, object] = {
        "finished": True,
        "steps": train_state.step,
        "cpu_s": round(record.cpu_s, 2),
        "wall_s": round(record.wall_s, 2),
        "encoded": round(record.encoded),
        "skipped": record.skipped_so_far(),
        "validation": measured.metrics,
    }
    if callbacks.stopped and train_state.step < train_state.steps:
        label, reason = callbacks.stopped
        entries["stopped_early"] = {"by": label, "reason": reason, "of": train_state.steps}
    return entries
