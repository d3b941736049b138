"""What is logged: device scalars are collected step by step and read back once every `log_every` steps."""

from __future__ import annotations

import time

import torch
from attrs import define, field
from torch import Tensor

from ..errors import MtlError
from .step import Logged


class Diverged(MtlError):  # noqa: N818 - it says what became of the run
    """The alarm: too many steps in a row had to be skipped. The run's folder is whole, and ends at its last checkpoint."""


@define
class Record:
    """Collects the scalars of each step; `flush` reads them back, counts skipped steps, and raises the alarm."""

    max_skipped: int
    skipped: int = 0
    in_a_row: int = 0
    encoded: int = 0  # images that went through the encoder
    cpu_s: float = 0.0  # process CPU time of the run, over all its parts
    wall_s: float = 0.0
    _pending: list[Logged] = field(factory=list)
    _cpu_from: float = field(factory=time.process_time)
    _wall_from: float = field(factory=time.perf_counter)

    def add(self, logged: Logged, encoded: int) -> None:
        """Called in each step: keeps references, reads nothing."""
        self._pending.append(logged)
        self.encoded += encoded

    def flush(self) -> dict[str, float]:
        """Means over the good steps since the last flush, in one transfer. Diverged after `max_skipped` bad ones in a row."""
        keys = list(dict.fromkeys(k for logged in self._pending for k in logged))
        nan = float("nan")
        table = [[logged.get(k, nan) for k in keys] for logged in self._pending]
        values = (
            torch.stack([torch.stack([_scalar(v) for v in row]) for row in table]).cpu()
            if table
            else torch.empty(0, 0)
        )
        self._pending.clear()
        means: dict[str, float] = {}
        if len(values):
            bad = values[:, keys.index("skipped")] > 0
            self._count(bad.tolist())
            good = values[~bad]
            means = {
                k: float(good[:, i].nanmean())
                for i, k in enumerate(keys)
                if k != "skipped" and len(good)
            }
        self._clock()
        return {k: v for k, v in means.items() if v == v}

    def _count(self, bad: list[bool]) -> None:
        for b in bad:
            self.skipped += b
            self.in_a_row = self.in_a_row + 1 if b else 0
            if self.in_a_row >= self.max_skipped:
                raise Diverged(
                    f"{self.in_a_row} steps in a row had a gradient that is not finite, and were skipped: the run has diverged. "
                    "Lower optimizer.lr, or look at the data; go on from the last checkpoint with --resume"
                )

    def _clock(self) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        self.cpu_s, self.wall_s = (
            self.cpu_s + cpu - self._cpu_from,
            self.wall_s + wall - self._wall_from,
        )
        self._cpu_from, self._wall_from = cpu, wall

    def state(self) -> dict[str, float | int]:
        """What a checkpoint keeps of it."""
        self._clock()
        return {k: getattr(self, k) for k in ("skipped", "in_a_row", "encoded", "cpu_s", "wall_s")}

    def load(self, state: dict[str, float | int]) -> None:
        for key, value in state.items():
            setattr(self, key, value)


def _scalar(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32).detach()
