"""Evaluate the network that a run kept, on any split of its data or of other data. Reads a run; knows nothing of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    """What `mtl eval` prints. Fractions lie in [0, 1]; degrees are degrees. report: what of the data was left out."""

    run: str
    data: str
    split: str
    checkpoint: str
    measured: Measured
    report: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        m = self.measured
        names = {
            "run": self.run,
            "data": self.data,
            "split": self.split,
            "checkpoint": self.checkpoint,
        }
        return {**names, "n": m.n, "metrics": m.metrics, "tables": m.tables}


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
    """Every supervised metric of a run on one split: one forward an image, or two and their mean with `mirror`.

    data: one [data.<label>] of the run's configuration, or one that `overrides` add; default: all of them.
    """
    folder = RunFolder.open(run)
    experiment = _of_data(load(folder.config, overrides), data)
    if not experiment.tasks:
        raise MtlError(f"{run} trained no supervised task: there is nothing to evaluate")
    found = open_data(experiment, splits={split}, progress=progress)
    indices = found.split.get(split)
    if indices is None or not len(indices):
        raise MtlError(f"the data has no samples in the split {split!r}")
    checkpoint = folder.require(which)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    net = inference_network(experiment, checkpoint).to(place)
    measured = measure(net, found.experiment, found, indices, place, mirror)
    return Evaluated(
        str(run), ",".join(experiment.data), split, checkpoint.path.name, measured, found.report
    )


def inference_network(experiment: Experiment, checkpoint: Checkpoint) -> Inference:
    """Encoder and supervised heads, with the weights of a checkpoint (the average where the run keeps one)."""
    with weights_from_checkpoint():
        net = HybridModel(evolve(experiment, pretexts={})).inference()
    checkpoint.load(net, checkpoint.inference_weights())
    return net.eval()


def _of_data(experiment: Experiment, label: str | None) -> Experiment:
    if label is None:
        return experiment
    if label not in experiment.data:
        raise MtlError(
            f"--data {label}: the run has no [data.{label}]; {nearest(label, experiment.data)}"
        )
    return evolve(experiment, data={label: experiment.data[label]})
