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
from .measure import Measured, measure


@frozen
class Evaluated:
    """The result of `mtl eval`. Rates are fractions in [0, 1]; angles are degrees.

    checkpoint: name of its folder. report: what was left out of the data, one line each.
    """

    run: str
    data: str
    split: str
    checkpoint: str
    measured: Measured
    report: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """What `mtl eval --json` prints."""
        return {
            "run": self.run,
            "data": self.data,
            "split": self.split,
            "checkpoint": self.checkpoint,
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
    """Every supervised metric of a run on one split.

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
    net = inference_network(experiment, checkpoint).to(target)
    measured = measure(net, resolved, found, indices, target, mirror)
    labels = ",".join(experiment.data)
    return Evaluated(str(run), labels, split, checkpoint.path.name, measured, found.report)


def inference_network(experiment: Experiment, checkpoint: Checkpoint) -> Inference:
    """Encoder and supervised heads in eval mode, with the EMA weights if the run has any.

    Raises MtlError if the run uses EMA and the checkpoint lacks its weights.
    """
    weights = checkpoint.inference_weights(uses_ema=experiment.train.ema > 0)
    with weights_from_checkpoint():
        net = HybridModel(evolve(experiment, pretexts={})).inference()
    checkpoint.load(net, weights)
    return net.eval()


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _with_one_dataset(experiment: Experiment, label: str | None) -> Experiment:
    """The experiment with this dataset alone; with all of them if label is None."""
    if label is None:
        return experiment
    if label not in experiment.data:
        raise MtlError(
            f"--data {label}: the run has no [data.{label}]; {nearest(label, experiment.data)}"
        )
    return evolve(experiment, data={label: experiment.data[label]})
