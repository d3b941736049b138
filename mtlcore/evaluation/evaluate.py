"""Evaluate the inference network of a run on a split of its data, or of other data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from attrs import evolve, field, frozen

from ..checkpoints import Checkpoint, Which
from ..config.experiment import Experiment
from ..config.overrides import Overrides
from ..data.dataset import RunData, fit_experiment, index_data, read_images
from ..encoders.weights import weights_from_checkpoint
from ..errors import MtlError, nearest
from ..model.hybrid import HybridModel
from ..model.inference import Inference
from ..runs import RunFolder
from ..weights import ANY_OTHER, load_weights
from .measure import Measured, measure
from .precision import lacking
from .samples import SampleRows

Progress = Callable[[str, int, int], None]
"""Called with a description, the images read so far, and their total."""


@frozen
class Evaluation:
    """A run, evaluated on one split. Rates are fractions in [0, 1]; angles are degrees.

    run: its folder. data: labels of the datasets. split: name of the split.
    checkpoint: name of its folder. precision: of the forwards.
    n: label of each task -> number of its labeled samples.
    metrics: "<task>/<metric>" -> value, such as "fer/accuracy".
    tables: "<task>/<matrix>" -> name of a row -> name of a column -> value. A confusion matrix has
    a row for each true class and a column for each predicted class:
    tables["fer/confusion"]["fear"]["surprise"] is the number of images of fear predicted as
    surprise.
    samples: one dict for each image, with `per_sample=True`: "key", "dataset", and for each task
    "<task>/target", "<task>/prediction" and "<task>/labeled". Targets and predictions have the form
    of the annotation: names, or numbers in its unit. The target of an image without a label is
    None. Tasks whose labels are maps are left out.
    report: what was left out of the data, and whether fp32 replaced the precision; one line each.
    matrices: the values of `tables`, as lists without names.
    """

    run: str
    data: str
    split: str
    checkpoint: str
    n: dict[str, int]
    metrics: dict[str, float]
    tables: dict[str, dict[str, dict[str, float]]]
    samples: tuple[dict[str, object], ...] = field(default=(), repr=False)
    precision: str = "32"
    report: tuple[str, ...] = ()
    matrices: dict[str, list[list[float]]] = field(factory=dict, repr=False)

    def as_json(self) -> dict[str, object]:
        """Return what `mtl eval --json` prints."""
        return {
            "run": self.run,
            "data": self.data,
            "split": self.split,
            "checkpoint": self.checkpoint,
            "precision": self.precision,
            "n": self.n,
            "metrics": self.metrics,
            "tables": self.matrices,
        }


def evaluate(
    run: Path,
    *,
    data: str | None = None,
    overrides: Overrides = (),
    split: str = "test",
    per_sample: bool = False,
    which: Which = "last",
    mirror: bool = False,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Every supervised metric of a run on one split, in the run's precision.

    A device that lacks this precision evaluates in fp32, and `Evaluation.report` says so.

    data: one [data.<label>] table of the run's configuration, or one that `overrides` add
        (default: all of them).
    per_sample: also return the prediction for each image.
    mirror: average each prediction with that for the mirrored image (two forwards per image).
    device: such as "cpu" or "cuda:1" (default: a GPU if there is one).
    Raises MtlError if the run has no supervised task, no such checkpoint, or no such samples.
    """
    folder = RunFolder.open(run)
    experiment = with_one_dataset(folder.experiment(overrides), data)
    if not experiment.tasks:
        raise MtlError(f"{run} has no supervised task: there is nothing to evaluate")
    opened = open_run(folder, experiment, split, which, device, progress)
    rows = SampleRows(opened.experiment, opened.data, opened.indices)
    seen = rows.add if per_sample else None
    measured = measure(
        opened.net,
        opened.experiment,
        opened.data,
        opened.indices,
        opened.device,
        mirror,
        seen,
    )
    return Evaluation(
        run=str(run),
        data=",".join(experiment.data),
        split=split,
        checkpoint=opened.checkpoint.path.name,
        n=_labeled_samples(opened),
        metrics=measured.metrics,
        tables=_named_tables(measured, opened.experiment),
        samples=tuple(rows.rows()) if per_sample else (),
        precision=opened.experiment.train.precision,
        report=(*opened.data.report, *opened.report, *_passed_over(folder)),
        matrices=measured.tables,
    )


def _passed_over(folder: RunFolder) -> tuple[str, ...]:
    line = folder.passed_over()
    return (line,) if line else ()


@frozen(eq=False)
class OpenedRun:
    """The network of a run, and the samples of a split that it is evaluated on.

    experiment: resolved, in a precision that the device has. indices: (N,) int64, the samples.
    report: a precision that the device lacks, if any.
    """

    experiment: Experiment
    checkpoint: Checkpoint
    net: Inference
    data: RunData
    indices: np.ndarray
    device: torch.device
    report: tuple[str, ...]


def open_run(
    folder: RunFolder,
    experiment: Experiment,
    split: str,
    which: Which,
    device: str | torch.device | None,
    progress: Progress | None,
) -> OpenedRun:
    """Load the network of a run, and open a split of the data of its experiment.

    Raises MtlError if there is no such checkpoint, no such device, or no sample in the split.
    """
    require_which(which)
    # All of this before any image is read.
    folder.read(which, Checkpoint.manifest)
    target = torch_device(device)
    indexed = index_data(experiment, {split})
    fitted = fit_experiment(experiment, indexed)
    resolved, report = with_usable_precision(fitted, target)
    checkpoint, net = folder.read(which, partial(inference_network, experiment))
    net.to(target)
    data = read_images(fitted, indexed, progress)
    if not len(data.split[split]):
        raise MtlError(f"the data has no samples in the split {split!r}")
    return OpenedRun(resolved, checkpoint, net, data, data.split[split], target, report)


def inference_network(experiment: Experiment, checkpoint: Checkpoint) -> Inference:
    """Encoder and supervised heads in eval mode, with the EMA weights if the run has any.

    Raises MtlError if the run uses EMA and the checkpoint lacks its weights.
    """
    weights = checkpoint.inference_weights(uses_ema=experiment.train.ema > 0)
    net = empty_network(experiment)
    load_weights(net, weights, str(checkpoint.path), ignore=ANY_OTHER)
    return net


def empty_network(experiment: Experiment) -> Inference:
    """Encoder and supervised heads in eval mode, with random weights that will be replaced."""
    # Building draws initial weights: restore the caller's generator afterwards.
    with torch.random.fork_rng(devices=[]), weights_from_checkpoint():
        return HybridModel(experiment, tasks_only=True).inference().eval()


def torch_device(device: str | torch.device | None) -> torch.device:
    """The device of this name. None: a GPU if there is one. Raises MtlError if it can't be used."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise MtlError(
            f"device = {str(device)!r}: torch can't use it ({reason}): "
            'expected "cpu", "cuda", "mps", or one of several GPUs, such as "cuda:1"'
        ) from error
    return found


def require_which(which: str) -> None:
    """Raise MtlError unless this is "last" or "best"."""
    if which not in get_args(Which):
        raise MtlError(f"checkpoint = {which!r}: unknown; {nearest(which, get_args(Which))}")


def with_usable_precision(
    experiment: Experiment,
    device: torch.device,
) -> tuple[Experiment, tuple[str, ...]]:
    """The experiment in fp32 if the device lacks the run's precision, and a line that says so."""
    precision = experiment.train.precision
    reason = lacking(precision, device)
    if not reason:
        return experiment, ()
    line = f'train.precision = "{precision}": evaluated in fp32, since {reason}'
    return evolve(experiment, train=evolve(experiment.train, precision="32")), (line,)


def with_one_dataset(experiment: Experiment, label: str | None) -> Experiment:
    """The experiment with this dataset alone; with all of them if label is None."""
    if label is None:
        return experiment
    if label not in experiment.data:
        raise MtlError(
            f"data = {label!r}: the run has no [data.{label}]; {nearest(label, experiment.data)}"
        )
    return evolve(experiment, data={label: experiment.data[label]})


def _labeled_samples(opened: OpenedRun) -> dict[str, int]:
    """Task label -> how many of the samples have its label."""
    present = opened.data.present
    return {label: int(of_task[opened.indices].sum()) for label, of_task in present.items()}


def _named_tables(
    measured: Measured, experiment: Experiment
) -> dict[str, dict[str, dict[str, float]]]:
    """The matrices with names of rows and columns: the classes, or the numbers 0, 1, 2, ..."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, matrix in measured.tables.items():
        classes = experiment.tasks[name.partition("/")[0]].component.classes
        rows = _names(classes, len(matrix))
        table: dict[str, dict[str, float]] = {}
        for row, values in zip(rows, matrix):
            table[row] = dict(zip(_names(classes, len(values)), values))
        found[name] = table
    return found


def _names(classes: tuple[str, ...], n: int) -> tuple[str, ...]:
    return classes if len(classes) == n else tuple(str(number) for number in range(n))
