"""What the parts share: the device, the time that is left, and the rows that they report.

A part measures cases. A case that fails is a row with its error, and the next case still runs.
"""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attrs import define, field

ROOT = Path(__file__).resolve().parents[2]
LONGEST_ERROR = 600  # characters of a message
BLOCKS = 5  # a speed is the median of this many blocks of steps

Row = dict[str, Any]
"""part, name, seconds; and either what was measured (value, unit, ...), "skipped" or "error"."""


class NotHere(Exception):  # noqa: N818 - no error: the case does not apply
    """Raised by a case that this device or size does not have, with the reason."""


@define(eq=False)
class Bench:
    """One part of the suite, while it runs.

    tiny: toy sizes, for a test on a CPU. deadline_s: of `time.monotonic`; no case begins after it.
    report: called with each row as soon as it is known. folder: an empty one for files.
    """

    part: str
    device: torch.device
    tiny: bool
    deadline_s: float
    report: Callable[[Row], None]
    folder: Path
    rows: dict[str, Row] = field(factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline_s - time.monotonic()

    def needs_cuda(self) -> None:
        """Raise NotHere without a GPU."""
        if not self.cuda:
            raise NotHere("needs a GPU")

    def size(self, full: int, tiny: int) -> int:
        """Return a number for a measurement, or the smaller one for a test."""
        return tiny if self.tiny else full

    def case(self, name: str, measure: Callable[[], Row]) -> None:
        """Measure one case, and report its row."""
        begin_s = time.monotonic()
        row: Row = {"part": self.part, "name": name}
        if self.left_s <= 0:
            row["skipped"] = "the time of this part is over"
        else:
            try:
                row |= measure()
            except NotHere as reason:
                row["skipped"] = str(reason)
            except Exception as error:  # noqa: BLE001 - the next case must still run
                row |= described(error)
        row["seconds"] = round(time.monotonic() - begin_s, 2)
        self.rows[name] = row
        self.report(row)
        self.free()

    def free(self) -> None:
        """Free what a case left on the device."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds_of(self, step: Callable[[], object], for_s: float, warm: int = 5) -> float:
        """Return the seconds of one step: the median over blocks of steps.

        The device is idle at both ends of a block. Within it, the host runs ahead, as in training.
        for_s: how long to measure.
        """
        for _ in range(self.size(warm, 1)):
            step()
        self.wait()
        begin_s = time.perf_counter()
        step()
        self.wait()
        one_s = time.perf_counter() - begin_s
        for_s = min(for_s, max(self.left_s, 0.0))
        steps = max(1, int(for_s / BLOCKS / one_s))
        if self.tiny:
            steps = 1
        times_s = []
        for _ in range(self.size(BLOCKS, 1)):
            begin_s = time.perf_counter()
            for _ in range(steps):
                step()
            self.wait()
            times_s.append((time.perf_counter() - begin_s) / steps)
        return statistics.median(times_s)

    def images_s(self, step: Callable[[], object], images: int, for_s: float = 3.0) -> Row:
        """Return the images in a second of a step with so many images."""
        step_s = self.seconds_of(step, for_s)
        return {
            "value": round(images / step_s, 1),
            "unit": "images/s",
            "step_ms": round(1000 * step_s, 3),
        }

    def ratio_to(self, name: str, value: float) -> float | None:
        """Return a value over that of an earlier row; None if that row has none."""
        earlier = self.rows.get(name, {}).get("value")
        return round(value / earlier, 3) if earlier else None


def described(error: BaseException) -> Row:
    """Return the error, and the innermost line of this repository that raised it."""
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return {"error": message[:LONGEST_ERROR], "where": line_of(error)}


def line_of(error: BaseException) -> str:
    """Return "file:line: code" of the innermost frame in this repository, or of the innermost."""
    frames = traceback.extract_tb(error.__traceback__)
    return shown(frames)


def shown(frames: traceback.StackSummary) -> str:
    """Return "file:line: code" of the innermost frame in this repository, or of the innermost."""
    own = [
        f for f in frames if ROOT in Path(f.filename).parents and "site-packages" not in f.filename
    ]
    own = [f for f in own if Path(__file__).parent not in Path(f.filename).parents] or own
    if not own:
        own = list(frames)
    if not own:
        return ""
    frame = own[-1]
    path = Path(frame.filename)
    name = path.relative_to(ROOT) if ROOT in path.parents else path.name
    return f"{name}:{frame.lineno}: {frame.line}"
