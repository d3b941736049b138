"""The suite `weighting`: what a strategy costs over a hand-written summed loss, in CPU time and in memory.

torchvision's ResNet-18 on 64 px images, batches of 32, K classification tasks that read one view. Beside our rows stand TorchJD's
own way (`mtl_backward`, `jac_to_grad`) and the floor of every exact method, the plain loop of K backwards.
Run as a program it measures the memory of one variant in a fresh process: `python benchmarks/weighting.py VARIANT`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baselines import HandNet, HandStep, LoopStep, TorchJDStep
from ours import CLASSES, experiment, images, labels, stepper
from timing import Row, Variant, compare, cpu_times

from mtlcore import LossWeighting
from mtlcore.encoders.vision import Resnet18
from mtlcore.weighting import TorchJD, Uncertainty

BATCH, SIZE, DIM = 32, 64, 512
SUM, LOOP, JAC = "summed loss by hand", "K backwards by hand", "TorchJD jac_to_grad"


def ours(tasks: int, weighting: LossWeighting) -> Variant:
    """One step of ours."""
    made = experiment(Resnet18(), SIZE, BATCH, tasks, weighting=weighting)
    return stepper(made, images(SIZE), labels(tasks)).advance


def rival(kind: type[HandStep], tasks: int) -> Variant:
    """One step of theirs."""
    return kind(
        HandNet(Resnet18(), SIZE, DIM, [CLASSES] * tasks), images(SIZE), labels(tasks), BATCH
    )


def upgrad(at: str, every: int = 1) -> LossWeighting:
    return TorchJD("UPGrad", at=at, every=every)  # type: ignore[arg-type]


def weighting(quick: bool) -> list[Row]:
    """The rows of each K (quick: of the largest), those of K = 5 alone, and memory."""
    return [
        *(row for k in ((5,) if quick else (2, 3, 5)) for row in _rows(k, quick)),
        _every_tenth(quick),
        *_memory(quick),
    ]


def _rows(k: int, quick: bool) -> list[Row]:
    """Loss level and features over the summed loss; at the parameters over the loop and over TorchJD."""
    variants = {
        "sum": rival(HandStep, k),
        "loop": rival(LoopStep, k),
        "torchjd": rival(TorchJDStep, k),
        "loss_level": ours(k, Uncertainty()),
        "features": ours(k, upgrad("features")),
        "parameters": ours(k, upgrad("parameters")),
    }
    t = cpu_times(variants, rounds=2 if quick else 40)
    judged = k == 5
    return [
        compare(f"loss_level_k{k}", t["loss_level"], SUM, t["sum"], 1.05, 1.02),
        compare(f"features_k{k}", t["features"], SUM, t["sum"], 1.10, 1.05),
        compare(
            f"parameters_k{k}", t["parameters"], LOOP, t["loop"], *((1.15, 1.08) if judged else ())
        ),
        compare(
            f"torchjd_k{k}", t["parameters"], JAC, t["torchjd"], *((0.83, 0.67) if judged else ())
        ),
        compare(f"parameters_k{k} in sums", t["parameters"], SUM, t["sum"]),
        compare(f"rival: {LOOP}, k{k}", t["loop"], SUM, t["sum"]),
        compare(f"rival: {JAC}, k{k}", t["torchjd"], SUM, t["sum"]),
    ]


def _every_tenth(quick: bool) -> Row:
    """Ten steps a round: one measures, nine keep its task weights."""
    kept, plain = (
        _times(10, ours(5, upgrad("parameters", every=10))),
        _times(10, rival(HandStep, 5)),
    )
    t = cpu_times({"ours": kept, "sum": plain}, rounds=2 if quick else 15, warm=0 if quick else 1)
    return compare("parameters_every10_k5", t["ours"], SUM, t["sum"], 1.40, 1.30)


def _times(number: int, step: Variant) -> Variant:
    def steps() -> None:
        for _ in range(number):
            step()

    return steps


# ---------------------------------------------------------------------------------------------------- memory

VARIANTS: dict[str, Callable[[], Variant]] = {
    "sum": lambda: rival(HandStep, 5),
    "loop": lambda: rival(LoopStep, 5),
    "torchjd": lambda: rival(TorchJDStep, 5),
    "features": lambda: ours(5, upgrad("features")),
    "parameters": lambda: ours(5, upgrad("parameters")),
}


def _memory(quick: bool) -> list[Row]:
    """Peaks that three steps add, over that of the summed loss; each from a fresh process. Quick: our row alone."""
    rows: dict[str, tuple[Any, ...]] = {"parameters": ("memory_k5", 2.8, 2.2)}
    if not quick:
        rows["features"] = ("memory_k5 at features",)
        rows |= {"torchjd": (f"memory of rival: {JAC}",), "loop": (f"memory of rival: {LOOP}",)}
    peaks = {
        name: [_peak_of(name) for _ in range(1 if quick else 5)] * 2 for name in ("sum", *rows)
    }
    plain = [statistics.median(peaks["sum"])] * len(peaks["sum"])
    return [
        compare(title, peaks[name], SUM, plain, *gates) for name, (title, *gates) in rows.items()
    ]


def _peak_of(variant: str) -> float:
    """MiB that the first steps add, in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, variant], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def added_peak(step: Variant, steps: int = 3) -> float:
    """The highest resident memory in these steps less that before them, MiB. Linux."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _resident()
    for _ in range(steps):
        step()
    return _resident() - before


def _resident() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    print(added_peak(VARIANTS[sys.argv[1]]()))
