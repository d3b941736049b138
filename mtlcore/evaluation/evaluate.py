"""Evaluate the inference network of a run on a split of its data, or of other data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from attrs import evolve, frozen

from ..config import load
from ..config.experiment import Experiment
from ..data.dataset import open_data
from ..encoders.weights import weights_from_checkpoint
from ..errors import MtlError, nearest
from ..model.hybrid import HybridModel
from ..model.inference import Inference
from ..runs import Checkpoint, RunFolder, Which
from ..weights import ANY_OTHER, load_weights
from .measure import Measured, measure
from .precision import lacking


@frozen
class Evaluated:
    """The result of `mtl eval`. Rates are fractions in [0, 1]; angles are degrees.

    checkpoint: name of its folder. precision: of the forwards. report: what was left out of the
    data, and a precision that the device lacks; one line each.
    """

    run: str
    data: str
    split: str
    checkpoint: str
    measured: Measured
    precision: str = "32"
    report: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """What `mtl eval --json` prints."""
        return {
            "run": self.run,
            "data": self.data,
            "split": self.split,
            "checkpoint": self.checkpoint,
            "precision": self.precision,
            "n": self.measured.n,
            "metrics": self.measured.metrics,
            "tables": self.measured.tables,
        }


def evaluate(
    run: Path,
    *,
    data: str | None = None,
    overrides: Sequence[str] = (),
    split: str = "test",
    which: Which = "last",
    mirror: bool = False,
    device: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluated:
    """Every supervised metric of a run on one split, in the run's precision.

    A device that lacks this precision evaluates in fp32, and `Evaluated.report` says so.

    data: one [data.<label>] table of the run's configuration, or one that `overrides` add
        (default: all of them).
    mirror: average each prediction with that for the mirrored image (two forwards per image).
    device: such as "cpu" or "cuda:1" (default: a GPU if there is one).
    progress: called with a description, the images read so far, and their total.
    Raises MtlError if the run has no supervised task, no such checkpoint, or no such samples.
    """
    folder = RunFolder.open(run)
    experiment = _with_one_dataset(load(folder.config, overrides), data)
    if not experiment.tasks:
        raise MtlError(f"{run} has no supervised task: there is nothing to evaluate")
    resolved, found = open_data(experiment, splits={split}, progress=progress)
    indices = found.split.get(split)
    if indices is None or not len(indices):
        raise MtlError(f"the data has no samples in the split {split!r}")
    checkpoint = folder.require(which)
    target = torch.device(device or _default_device())
    resolved, report = _with_usable_precision(resolved, target)
    net = inference_network(experiment, checkpoint).to(target)
    measured = measure(net, resolved, found, indices, target, mirror)
    return Evaluated(
        run=str(run),
        data=",".join(experiment.data),
        split=split,
        checkpoint=checkpoint.path.name,
        measured=measured,
        precision=resolved.train.precision,
        report=(*found.report, *report),
    )


def inference_network(experiment: Experiment, checkpoint: Checkpoint) -> Inference:
    """Encoder and supervised heads in eval mode, with the EMA weights if the run has any.

    Raises MtlError if the run uses EMA and the checkpoint lacks its weights.
    """
    weights = checkpoint.inference_weights(uses_ema=experiment.train.ema > 0)
    with weights_from_checkpoint():
        net = HybridModel(evolve(experiment, pretexts={})).inference()
    load_weights(net, weights, str(checkpoint.path), ignore=ANY_OTHER)
    return net.eval()


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _with_usable_precision(
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


def _with_one_dataset(experiment: Experiment, label: str | None) -> Experiment:
    """The experiment with this dataset alone; with all of them if label is None."""
    if label is None:
        return experiment
    if label not in experiment.data:
        raise MtlError(
            f"--data {label}: the run has no [data.{label}]; {nearest(label, experiment.data)}"
        )
    return evolve(experiment, data={label: experiment.data[label]})
