"""The scalars of each step, collected on the device and read back every `log_every` steps."""

from __future__ import annotations

import math
import time
from typing import TypedDict

import torch
from attrs import define, field
from torch import Tensor

from ..errors import MtlError
from .step import Logged

COUNTERS = ("skipped", "in_a_row", "encoded", "cpu_s", "wall_s")


class RecordState(TypedDict):
    """A record as a checkpoint stores it.

    names, pending: the scalars of the steps since the last flush, (steps, names) float32 on the
    CPU, with NaN where a step has none.
    """

    skipped: int
    in_a_row: int
    encoded: float
    cpu_s: float
    wall_s: float
    names: list[str]
    pending: Tensor


class Diverged(MtlError):  # noqa: N818 - named after the state of the run
    """Too many steps in a row were skipped, or all steps of the run.

    The run folder is complete up to its last checkpoint.
    """

    exit_code = 3


@define
class Record:
    """Counters of a run, and the scalars of the steps since the last flush.

    max_skipped: skipped steps in a row that end the run.
    skipped, in_a_row: skipped steps in all, and currently in a row.
    encoded: images that the encoder has processed; one with hidden parts by its visible share. The
    forward that a weighting needs in addition, if it reads the losses of several micro-batches at
    once, does not count.
    cpu_s, wall_s: process CPU time and wall time, added up over resumes.
    """

    max_skipped: int
    skipped: int = 0
    in_a_row: int = 0
    encoded: float = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    _pending: list[Logged] = field(factory=list)
    _cpu_from: float = field(factory=time.process_time)
    _wall_from: float = field(factory=time.perf_counter)

    def start(self) -> None:
        """Count time from now on: what a run does before its first step is not its compute."""
        self._cpu_from, self._wall_from = time.process_time(), time.perf_counter()

    def add(self, logged: Logged, encoded: float) -> None:
        """Add the scalars of one step. It only keeps references, so the host does not wait."""
        self._pending.append(logged)
        self.encoded += encoded

    @property
    def has_pending(self) -> bool:
        """Whether there are steps since the last flush."""
        return bool(self._pending)

    def flush(self) -> dict[str, float]:
        """Means over the good steps since the last flush, read back in one transfer.

        A scalar that no good step has is left out. Raises Diverged after `max_skipped` bad steps
        in a row.
        """
        keys = self._pending_keys()
        values = self._read_back(keys)
        self._pending.clear()
        means: dict[str, float] = {}
        if len(values):
            bad = values[:, keys.index("skipped")] > 0
            self._count(bad.tolist())
            good = values[~bad]
            for i, key in enumerate(keys):
                if key != "skipped" and len(good):
                    means[key] = float(good[:, i].nanmean())
        self._update_clocks()
        return {key: mean for key, mean in means.items() if not math.isnan(mean)}

    def skipped_so_far(self) -> int:
        """Skipped steps, including those since the last flush. Waits for the device."""
        pending = [int(logged["skipped"] > 0) for logged in self._pending]
        return self.skipped + sum(pending)

    def _pending_keys(self) -> list[str]:
        """All names, in the order of their first step."""
        names: dict[str, None] = {}
        for logged in self._pending:
            names |= dict.fromkeys(logged)
        return list(names)

    def _read_back(self, keys: list[str]) -> Tensor:
        """(steps, keys) float32 on the CPU; NaN where a step lacks a scalar."""
        if not self._pending:
            return torch.empty(0, 0)
        rows = []
        for logged in self._pending:
            row = [_scalar(logged.get(key, math.nan)) for key in keys]
            rows.append(torch.stack(row))
        return torch.stack(rows).cpu()

    def _count(self, bad: list[bool]) -> None:
        for is_bad in bad:
            self.skipped += is_bad
            self.in_a_row = self.in_a_row + 1 if is_bad else 0
            if self.in_a_row >= self.max_skipped:
                raise Diverged(
                    f"{self.in_a_row} steps in a row were skipped, because their gradient was not "
                    "finite: the run has diverged. Check the data, or start a new run with a lower "
                    "optimizer.lr; encoder.weights = RUN starts it from this one"
                )

    def _update_clocks(self) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        self.cpu_s += cpu - self._cpu_from
        self.wall_s += wall - self._wall_from
        self._cpu_from, self._wall_from = cpu, wall

    def state(self) -> RecordState:
        """The counters and the pending scalars for a checkpoint. Waits for the device."""
        self._update_clocks()
        names = self._pending_keys()
        return {
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "encoded": self.encoded,
            "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
            "names": names,
            "pending": self._read_back(names),
        }

    def load(self, state: RecordState, device: torch.device) -> None:
        """Load what `state` returned."""
        for name in COUNTERS:
            setattr(self, name, state[name])  # type: ignore[literal-required]
        self._pending = []
        for row in state["pending"].to(device):
            self._pending.append(dict(zip(state["names"], row.unbind())))


def _scalar(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32).detach()
