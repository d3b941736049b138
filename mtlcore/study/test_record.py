"""The test metrics of a run: measured once, and recorded in its run.json with each reading.

    run.json: "test": {"steps": 1000, "metrics": {...}, "read": ["2026-01-31T10:00:00+00:00", ...]}

A run that was trained further is measured again.
"""

from __future__ import annotations

import datetime

from attrs import asdict, frozen

from ..evaluation.evaluate import Progress, evaluate
from ..run_log import with_nan
from ..runs import RunFolder
from .run_settings import RunRecord

ENTRY = "test"


@frozen
class TestRecord:
    """Test metrics of the last checkpoint. read: when they were asked for, oldest first."""

    __test__ = False  # no test, in spite of its name

    steps: int
    metrics: dict[str, float]
    read: tuple[str, ...]


def record_of(run: RunRecord) -> TestRecord | None:
    """Return what run.json says about the test split; None if it was not read yet."""
    entry = run.provenance.get(ENTRY)
    if entry is None:
        return None
    return TestRecord(entry["steps"], with_nan(entry["metrics"]), tuple(entry["read"]))


def read_test_metrics(run: RunRecord, progress: Progress | None) -> dict[str, float]:
    """Return the test metrics of a finished run, and record that they were read.

    Raises MtlError if the run can't be evaluated, or if run.json can't be written.
    """
    before = record_of(run)
    steps = int(run.provenance["steps"])
    if before is not None and before.steps == steps:
        metrics = before.metrics
    else:
        metrics = evaluate(run.path, split="test", progress=progress).metrics
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    read = (*(before.read if before else ()), now)
    RunFolder(run.path).update_provenance({ENTRY: asdict(TestRecord(steps, metrics, read))})
    return metrics
