"""The data and the network of a run, opened once for all parts of its report."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from attrs import evolve, frozen

from ..config.experiment import Experiment
from ..data.cache import Progress
from ..data.dataset import IndexedData, RunData, fit_experiment, index_data, read_images
from ..errors import MtlError, nearest
from ..evaluation.evaluate import inference_network, torch_device, with_usable_precision
from ..model.inference import Inference
from ..runs import RunFolder

SPLITS = ("test", "val", "validation")
"""Splits to evaluate a finished run on: the first one with labels of a task."""
UNFINISHED = ("validation", "val")
"""The same for a run that is not finished: its test split stays unread."""


@frozen(eq=False)
class OpenedData:
    """The samples of a run, by index alone: images are decoded when they are looked at.

    experiment: resolved, as the run saved it. data: of all splits that exist.
    """

    experiment: Experiment
    indexed: IndexedData
    data: RunData


@frozen(eq=False)
class OpenedNetwork:
    """The inference network of a checkpoint, on a device.

    notes: a precision that the device lacks.
    """

    net: Inference
    experiment: Experiment
    checkpoint: str
    step: int
    device: torch.device
    notes: tuple[str, ...]


def open_samples(experiment: Experiment, split: str | None) -> OpenedData:
    """Index the data of a run. Raises MtlError where it is gone.

    split: the only split to open, if the data has no training samples (any more).
    """
    try:
        indexed = index_data(experiment)
        fitted = fit_experiment(experiment, indexed)
        return OpenedData(fitted, indexed, read_images(fitted, indexed, lazy=True))
    except MtlError:
        if split is None:
            raise
        indexed = index_data(experiment, {split})
        fitted = fit_experiment(experiment, indexed)
        return OpenedData(fitted, indexed, read_images(fitted, indexed, lazy=True))


def open_network(folder: RunFolder, experiment: Experiment) -> OpenedNetwork:
    """Load the last checkpoint. Raises MtlError if there is none."""
    device = torch_device(None)
    checkpoint, net = folder.read("last", partial(inference_network, experiment))
    usable, notes = with_usable_precision(experiment, device)
    net.to(device)
    return OpenedNetwork(net, usable, checkpoint.path.name, checkpoint.step, device, notes)


def splits_of_tasks(opened: OpenedData, wanted: str | None, finished: bool) -> dict[str, str]:
    """Return task -> the split to evaluate it on; tasks without a labeled sample are left out.

    wanted: the split that the user named. Raises MtlError if the data lacks it.
    """
    splits = opened.data.split
    if wanted is not None and wanted not in splits:
        raise MtlError(f"the data has no split {wanted!r}; {nearest(wanted, splits)}")
    choices = (wanted,) if wanted else SPLITS if finished else UNFINISHED
    found: dict[str, str] = {}
    for label, present in opened.data.present.items():
        for name in choices:
            if name in splits and bool(present[torch.from_numpy(splits[name])].any()):
                found.setdefault(label, name)
    return found


def read_split(
    opened: OpenedData, split: str, progress: Progress | None
) -> tuple[RunData, np.ndarray]:
    """Read the images of one split. Returns the data, and the indices of the split's samples."""
    indexed = evolve(opened.indexed, splits=(split,))
    data = read_images(opened.experiment, indexed, progress)
    return data, data.split[split]
