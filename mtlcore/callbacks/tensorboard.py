"""The rows of metrics.jsonl as TensorBoard scalars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter


class Board:
    """Writes scalars by step. A resumed run drops what was written after its checkpoint."""

    def __init__(self, folder: Path, step: int) -> None:
        """step: optimizer steps that are done; 0 for a new run."""
        purge_step = step + 1 if step else None
        self.writer = SummaryWriter(str(folder), purge_step=purge_step)

    def write(self, row: Mapping[str, float]) -> None:
        """Write all values of one row; its "step" is their position."""
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        self.writer.close()
