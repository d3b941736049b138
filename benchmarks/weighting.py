"""The suite `weighting`: CPU time and memory of a loss weighting, compared with a sum of losses.

Set-up: torchvision's ResNet-18, 64 px images, batches of 32, K classification tasks that read one
view. Baselines: a hand-written sum of losses, TorchJD's `mtl_backward` with `jac_to_grad`, and the
plain loop of K backward passes, which is the lower bound of every exact method.

`python benchmarks/weighting.py VARIANT` measures the memory of one variant in a fresh process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from baselines import HandNet, HandStep, LoopStep, TorchJDStep
from ours import CLASSES, experiment, images, labels, stepper
from timing import Row, Variant, compare, cpu_times

from mtlcore import LossWeighting
from mtlcore.encoders.vision import Resnet18
from mtlcore.weighting import TorchJD, Uncertainty

BATCH, SIZE, DIM = 32, 64, 512
SUM, LOOP, JAC = "summed loss by hand", "K backwards by hand", "TorchJD jac_to_grad"


def ours(tasks: int, weighting: LossWeighting) -> Variant:
    """Return one training step of ours."""
    exp = experiment(Resnet18(), SIZE, BATCH, tasks, weighting=weighting)
    return stepper(exp, images(SIZE), labels(tasks)).step


def rival(kind: type[HandStep], tasks: int) -> Variant:
    """Return one training step of a baseline."""
    net = HandNet(Resnet18(), SIZE, DIM, [CLASSES] * tasks)
    return kind(net, images(SIZE), labels(tasks), BATCH)


def upgrad(at: Literal["features", "parameters"], every: int = 1) -> LossWeighting:
    return TorchJD("UPGrad", at=at, every=every)


def weighting(quick: bool) -> list[Row]:
    """Return the rows for K = 2, 3, 5 (quick: 5 only), then those with `every` and of memory."""
    rows: list[Row] = []
    for k in (5,) if quick else (2, 3, 5):
        rows += _rows(k, quick)
    return [*rows, _every_tenth(quick), *_memory(quick)]


def _rows(k: int, quick: bool) -> list[Row]:
    """Return the rows of K tasks.

    At loss level and at the features, the baseline is the sum of losses. At the parameters, it is
    the loop of K backward passes, and TorchJD.
    """
    variants = {
        "sum": rival(HandStep, k),
        "loop": rival(LoopStep, k),
        "torchjd": rival(TorchJDStep, k),
        "loss_level": ours(k, Uncertainty()),
        "features": ours(k, upgrad("features")),
        "parameters": ours(k, upgrad("parameters")),
    }
    t = cpu_times(variants, rounds=2 if quick else 40)
    has_gate = k == 5
    loop_gates = (1.15, 1.08) if has_gate else ()
    torchjd_gates = (0.83, 0.67) if has_gate else ()
    return [
        compare(f"loss_level_k{k}", t["loss_level"], SUM, t["sum"], 1.03, 1.02),
        compare(f"features_k{k}", t["features"], SUM, t["sum"], 1.10, 1.05),
        compare(f"parameters_k{k}", t["parameters"], LOOP, t["loop"], *loop_gates),
        compare(f"torchjd_k{k}", t["parameters"], JAC, t["torchjd"], *torchjd_gates),
        compare(f"parameters_k{k} in sums", t["parameters"], SUM, t["sum"]),
        compare(f"rival: {LOOP}, k{k}", t["loop"], SUM, t["sum"]),
        compare(f"rival: {JAC}, k{k}", t["torchjd"], SUM, t["sum"]),
    ]


def _every_tenth(quick: bool) -> Row:
    """Compare ten steps: with `every = 10`, one computes the task weights and nine reuse them."""
    variants = {
        "ours": _repeated(10, ours(5, upgrad("parameters", every=10))),
        "sum": _repeated(10, rival(HandStep, 5)),
    }
    rounds, warm = (2, 0) if quick else (15, 1)
    t = cpu_times(variants, rounds=rounds, warm=warm)
    return compare("parameters_every10_k5", t["ours"], SUM, t["sum"], 1.40, 1.30)


def _repeated(number: int, step: Variant) -> Variant:
    def steps() -> None:
        for _ in range(number):
            step()

    return steps


# ----------------------------------------------------------------------------------------- memory

VARIANTS: dict[str, Callable[[], Variant]] = {
    "sum": lambda: rival(HandStep, 5),
    "loop": lambda: rival(LoopStep, 5),
    "torchjd": lambda: rival(TorchJDStep, 5),
    "features": lambda: ours(5, upgrad("features")),
    "parameters": lambda: ours(5, upgrad("parameters")),
}


def _memory(quick: bool) -> list[Row]:
    """Compare the memory that three steps add with that of the sum of losses.

    Each value is from a fresh process. Quick: our variant at the parameters only.
    """
    titles = {"parameters": "memory_k5"}
    if not quick:
        titles["features"] = "memory_k5 at features"
        titles["torchjd"] = f"memory of rival: {JAC}"
        titles["loop"] = f"memory of rival: {LOOP}"

    repeats = 1 if quick else 5
    peaks: dict[str, list[float]] = {}
    for name in ("sum", *titles):
        # Twice the same values: quartiles need at least two, even if quick measures one.
        peaks[name] = [_peak_of(name) for _ in range(repeats)] * 2
    baseline = [statistics.median(peaks["sum"])] * len(peaks["sum"])

    rows: list[Row] = []
    for name, title in titles.items():
        gates = (1.6, 1.4) if name == "parameters" else ()
        rows.append(compare(title, peaks[name], SUM, baseline, *gates))
    return rows


def _peak_of(variant: str) -> float:
    """Return the MiB that the first steps of a variant add, in a fresh process."""
    command = [sys.executable, __file__, variant]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def added_peak(step: Variant, steps: int = 3) -> float:
    """Return the peak resident memory of these steps minus that before them, MiB. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak of the process
    before = _peak_resident()
    for _ in range(steps):
        step()
    return _peak_resident() - before


def _peak_resident() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    print(added_peak(VARIANTS[sys.argv[1]]()))
