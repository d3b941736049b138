"""The process that measures: it runs parts one after another, and prints each row as it ends.

Lines for the process that started it: `PART name seconds`, `ROW json`, `DONE name`. Everything else
that it prints is shown as it is. A GPU error may break the process for good. So it ends after a
case with one, and another process goes on with the next part.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PREFIX = "@gpu "  # of lines for the other process
BROKEN = 3  # exit code after an error of the device

BUDGETS_S = {"a": 60, "c": 40, "d": 40, "e": 80, "f": 40, "g": 35, "b": 140}
"""Part -> the seconds that it may measure, in the order in which they run. Compiling comes last."""

TINY_S = 600.0  # of each part with --tiny: a busy machine must not change what runs

TITLES = {
    "a": "ResNet-50 from a raw pack, end to end",
    "b": "small networks: eager, compiled, CUDA graphs",
    "c": "augmentations",
    "d": "host syncs of a step",
    "e": "weightings: finite, resumed bit for bit",
    "f": "checks of the kit, streams, copies",
    "g": "peak memory",
}


def say(kind: str, text: str) -> None:
    print(f"{PREFIX}{kind} {text}", flush=True)


def work(parts: list[str], device: str, tiny: bool) -> int:
    """Run these parts in this process."""
    # Before CUDA starts: cuBLAS repeats itself bit for bit only with a workspace of fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(
        logging.WARNING
    )  # "Using ... precision"
    say("MACHINE", json.dumps(_machine(device)))
    for part in parts:
        say("PART", part)
        if not _run(part, device, tiny):
            return BROKEN
        say("DONE", part)
    return 0


def _run(part: str, device: str, tiny: bool) -> bool:
    """Run one part. Return False if the device is broken for this process."""
    import torch

    from .bench import Bench, Row, described

    broken = False

    def report(row: Row) -> None:
        nonlocal broken
        broken = broken or "CUDA error" in row.get("error", "")
        say("ROW", json.dumps(row))

    with tempfile.TemporaryDirectory(prefix="mtl-gpu-", ignore_cleanup_errors=True) as folder:
        deadline_s = time.monotonic() + (TINY_S if tiny else BUDGETS_S[part])
        bench = Bench(part, torch.device(device), tiny, deadline_s, report, Path(folder))
        try:
            _parts()[part](bench)
        except Exception as error:  # noqa: BLE001 - the other parts must still run
            report({"part": part, "name": "all", "seconds": 0, **described(error)})
    return not broken


def _parts() -> dict[str, Callable[..., None]]:
    # A part that can't even be imported must not take the others with it.
    def late(module: str, name: str) -> Callable[..., None]:
        def run(bench: object) -> None:
            import importlib

            getattr(importlib.import_module(f"gpu.{module}"), name)(bench)

        return run

    return {
        "a": late("end_to_end", "end_to_end"),
        "b": late("small_nets", "small_nets"),
        "c": late("augmentations", "augmentations"),
        "d": late("syncs", "host_syncs"),
        "e": late("weightings", "weightings"),
        "f": late("checks", "checks"),
        "g": late("memory", "memory"),
    }


def _machine(device: str) -> dict[str, object]:
    """Describe the device, its driver and the libraries."""
    import platform

    import torch

    found: dict[str, object] = {
        "device": device,
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
        }
    return found


def _driver() -> str | None:
    """Return the version of the driver, as nvidia-smi prints it; None if there is none."""
    import subprocess

    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0]
