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
from ..config.experiment import Experiment
from ..data.dataset import RunData


def resolved(experiment: Experiment) -> tuple[str, dict[str, Path]]:
    """-> the TOML that reproduces the run, and the one-file plugins to copy beside it (name in RUN/plugins/ -> original)."""
    files: dict[str, Path] = {}
    listed = []
    for plugin in experiment.plugins:
        path, mark, sha256 = plugin.rpartition("#sha256=")
        original = Path(path if mark else plugin)
        name = original.name if original.name not in files else f"{sha256[:8]}_{original.name}"
        files[name] = original
        listed.append(f"plugins/{name}{mark}{sha256 if mark else ''}")
    return dump(evolve(experiment, plugins=tuple(listed))), files


def environment(experiment: Experiment, data: RunData, fabric: Fabric) -> dict[str, Any]:
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
        "samples": {name: len(samples) for name, samples in data.split.items()},
    }
