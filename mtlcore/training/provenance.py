"""What a run records about itself, so that it can be repeated."""

from __future__ import annotations

import datetime
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from attrs import evolve
from lightning_fabric import Fabric

from ..config import dump
from ..config.experiment import Experiment
from ..config.resolve import components_of
from ..data.dataset import RunData
from ..errors import MtlError
from ..model.preprocess import Preprocess
from ..registry.components import is_default
from ..registry.lookup import Origin, catalog_of, origin_of
from ..registry.plugin_file import MARK, split_entry

PACKAGES = ("mtlcore", "torch", "torchvision", "kornia", "lightning-fabric")


def resolved(experiment: Experiment) -> tuple[str, dict[str, Path]]:
    """The TOML text that reproduces the run, and the one-file plugins to copy into its folder.

    The files are a dict: name in RUN/plugins/ -> original.
    """
    files: dict[str, Path] = {}
    plugins: list[str] = []
    for plugin in experiment.plugins:
        path, sha256 = split_entry(plugin)
        original = Path(path)
        name = original.name
        if name in files:  # two plugins from different folders
            name = f"{sha256[:8]}_{original.name}"
        files[name] = original
        plugins.append(f"plugins/{name}{MARK}{sha256}")
    return dump(evolve(experiment, plugins=tuple(plugins))), files


def environment(experiment: Experiment, data: RunData, fabric: Fabric) -> dict[str, object]:
    """Versions, threads, device and data: a run repeats bit for bit where these are the same."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": str(fabric.device),
        "world": fabric.world_size,
        "seed": experiment.seed,
        "data_fingerprint": data.fingerprint,
        "components": components(experiment),
        "preprocess": preprocess(experiment),
        "samples": {name: len(samples) for name, samples in data.split.items()},
        "labels": {label: labels_by_split(label, data) for label in data.present},
        "data_report": list(data.report),
    }


def labels_by_split(label: str, data: RunData) -> dict[str, int]:
    """Split -> number of its samples with a label of this task."""
    present = data.present[label].numpy()
    return {name: int(present[samples].sum()) for name, samples in data.split.items()}


def preprocess(experiment: Experiment) -> dict[str, object] | None:
    """How an image becomes the input of the encoder; None with a plugin's augmentation."""
    try:
        return Preprocess.of(experiment).as_data()
    except MtlError:  # then config.toml alone describes it
        return None


def components(experiment: Experiment) -> dict[str, Origin]:
    """Path of a table -> origin of its component, which loading the run requires."""
    known = catalog_of(experiment.plugins)
    found: dict[str, Origin] = {}
    for path, component in components_of(experiment):
        if not path.startswith("augment."):
            found[path] = origin_of(type(component), known)
    for label, augmentation in experiment.augmentations.items():
        if not is_default(label, augmentation):
            found[f"augment.{label}"] = origin_of(type(augmentation), known)
    return found
