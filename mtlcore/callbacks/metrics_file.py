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

    Every run has it. If it fails, the run ends, since a resumed run does not write the rows before
    its checkpoint again. `RunFolder.save` flushes the file to disk before a checkpoint is valid.
    """

    reads_network = False

    def on_log(self, run: CallbackContext, row: Mapping[str, Any]) -> None:
        RunFolder(run.folder).log.append(row)
