"""What a run records of itself, so that it can be repeated."""

from __future__ import annotations

import datetime
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from lightning_fabric import Fabric

from ..config import dump
from ..data.dataset import Dataset
from ..experiment import Experiment


def resolved(experiment: Experiment) -> tuple[str, dict[str, Path]]:
    """-> the TOML that reproduces the run, and the one-file plugins to copy beside it (name -> original)."""
    files = {Path(p.partition("#")[0]).name: Path(p.partition("#")[0]) for p in experiment.plugins}
    named = {Path(p.partition("#")[0]).name: p.partition("#")[2] for p in experiment.plugins}
    plugins = tuple(f"plugins/{name}#{tag}" if tag else f"plugins/{name}" for name, tag in named.items())
    return dump(evolve(experiment, plugins=plugins)), files


def environment(experiment: Experiment, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    """Versions, threads, device, data: "bit for bit" means the same of these."""
    packages = ("mtlcore", "torch", "torchvision", "kornia", "lightning-fabric")
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": str(fabric.device),
        "world": fabric.world_size,
        "seed": experiment.seed,
        "data_fingerprint": data.fingerprint,
        "rows": {name: len(rows) for name, rows in data.split.items()},
    }
