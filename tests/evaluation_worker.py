"""An evaluation on noise images, and the work of one of two gloo ranks in `test_evaluation.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from lightning_fabric import Fabric
from mtl_pretexts.barlow_twins import BarlowTwins
from mtl_pretexts.byol import Byol
from mtl_pretexts.inpainting import Inpainting
from mtl_pretexts.puzzling import Puzzling
from toy_datasets import InMemory, experiment
from toys import EQUAL, Jitter, Plain, Toy

from mtlcore import Classification, Index, PretextTask, Sample
from mtlcore.config.experiment import DataEntry, Experiment, PretextEntry
from mtlcore.data.dataset import RunData, open_data
from mtlcore.evaluation.measure import Measured, measure, measure_pretexts
from mtlcore.model.hybrid import HybridModel
from mtlcore.networks import single_rank
from mtlcore.tasks.regression import Regression
from mtlcore.training.devices import leave_together

N = 36
BATCH = 8  # five batches: in the last round of two ranks, rank 1 has none
CPU = torch.device("cpu")
PRETEXTS: dict[str, PretextTask] = {
    "puzzling": Puzzling(grid=2),
    "inpainting": Inpainting(perceptual="none"),
    "barlow": BarlowTwins(),  # its samples are compared with each other
    "byol": Byol(),
}


@frozen(eq=False)
class Noise(InMemory):
    """Images of random pixels."""

    def decode(self, index: Index, sample: int) -> Sample:
        rng = np.random.default_rng(sample)
        return Sample(rng.integers(0, 256, (self.size, self.size, 3), dtype=np.uint8))


def toy_run(precision: str = "32", eval_batch_size: int = BATCH) -> Experiment:
    """Two tasks and four pretexts.

    The samples of batch 1, which is the first of rank 1, have no class. Only samples of batches of
    rank 0 belong to the group "early".
    """
    samples = np.arange(N)
    labels = np.where((samples // BATCH == 1) | (samples % 5 == 0), "", "a")
    labels = np.where((labels != "") & (samples % 3 == 0), "b", labels)
    dataset = Noise(
        N,
        tuple(labels.tolist()),
        others={"height": np.where(samples % 7 == 0, np.nan, np.cos(samples))},
        split=("train",) * N,
        attributes={"when": np.where(samples < BATCH, "early", "late")},
        size=16,
    )
    tasks = {
        "kind": Classification(reads="kind", by=("when",)),
        "height": Regression(reads="height"),
    }
    data = {"toys": DataEntry(dataset, unlabeled="keep")}
    run = experiment(data, tasks, validation=0.0, size=16, eval_batch_size=eval_batch_size)
    return evolve(
        run,
        encoder=Toy(),
        pretexts={label: PretextEntry(pretext) for label, pretext in PRETEXTS.items()},
        weighting=EQUAL,
        augment=Jitter(),
        augmentations={"validation": Plain(), "strong": Jitter()},
        train=evolve(run.train, precision=precision),
    )


def opened(run: Experiment) -> tuple[Experiment, RunData, HybridModel]:
    """-> the resolved run, its data, and the same network in every process, in training mode."""
    resolved, data = open_data(run)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HybridModel(resolved)
        for _ in range(3):  # running statistics that are not those of a new network
            model.encoder(torch.rand(8, 3, 16, 16))
    return resolved, data, model


def evaluated(run: Experiment) -> tuple[Measured, Measured]:
    """-> supervised tasks, pretexts."""
    resolved, data, model = opened(run)
    return measured(resolved, data, model)


def measured(run: Experiment, data: RunData, model: HybridModel) -> tuple[Measured, Measured]:
    indices = data.split["train"]
    return (
        measure(model.inference(), run, data, indices, CPU),
        measure_pretexts(model, run, data, indices, CPU),
    )


def plain(results: tuple[Measured, Measured]) -> list[Any]:
    """The results as what `torch.load` may read."""
    return [[found.metrics, found.tables, found.n] for found in results]


def run(fabric: Fabric, out: Path) -> None:
    """Evaluate on both ranks, and on the main one alone."""
    torch.set_num_threads(1)
    resolved, data, model = opened(toy_run())
    own = model.encoder.net.stages[0][1].running_mean.clone()
    if not fabric.is_global_zero:
        # As in training: each rank updates the statistics from its own samples.
        model.encoder.net.stages[0][1].running_mean += 1.0
    found = {"both": plain(measured(resolved, data, model))}
    bf16 = evolve(resolved, train=evolve(resolved.train, precision="bf16-mixed"))
    found["bf16"] = plain(measured(bf16, data, model))
    assert torch.equal(own, model.encoder.net.stages[0][1].running_mean)
    assert model.training
    if fabric.is_global_zero:
        # A callback runs on the main rank alone: nothing may wait for the other one.
        with single_rank():
            found["alone"] = plain(measured(resolved, data, model))
        torch.save(found, out)
    else:
        supervised, pretexts = found["both"]
        assert supervised[0] == pretexts[0] == {}  # the main rank has the metrics
    leave_together(fabric)
