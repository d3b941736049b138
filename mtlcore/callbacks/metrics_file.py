"""metrics.jsonl, the log of a run: one line for each logged step or evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from ..contracts import Callback, CallbackContext
from ..runs import RunFolder


@frozen
class MetricsFile(Callback):
    """Append each row to metrics.jsonl.

    Every run has it, and its failure ends the run: a resumed run does not write again what a
    checkpoint covers. `RunFolder.save` flushes the file to disk before a checkpoint counts.
    """

    reads_network = False

    def on_log(self, run: CallbackContext, row: Mapping[str, Any]) -> None:
        RunFolder(run.folder).log(row)
