"""Our side of the measurements: the very loop that `mtl train` runs, on images made in memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from mtlcore import Encoder, LossWeighting, PretextTask
from mtlcore.augment.levels import Validation
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.config.experiment import (
    DataEntry,
    Experiment,
    Input,
    PretextEntry,
    TaskEntry,
    Train,
    Views,
)
from mtlcore.data.cache import MemoryImageCache
from mtlcore.data.dataset import RunData
from mtlcore.data.sampler import Sampler
from mtlcore.runs import RunFolder
from mtlcore.tasks.classification import Classification
from mtlcore.train.build import build_train_state
from mtlcore.train.record import Record
from mtlcore.train.trainer import Trainer
from mtlcore.weighting import Equal

N, CLASSES, STEPS = 2048, 8, 1_000_000


class MadeSource:
    """Stands in the data table; its images are made, so nothing is ever indexed or decoded."""


def images(size: int) -> torch.Tensor:
    """(N, 3, size, size) uint8 noise."""
    return torch.randint(
        0, 256, (N, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def labels(tasks: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randint(0, CLASSES, (N,), generator=g) for _ in range(tasks)]


def experiment(
    encoder: Encoder,
    size: int,
    batch: int,
    tasks: int,
    pretext: PretextTask | None = None,
    datasets: int = 1,
    weighting: LossWeighting | None = None,
    **views: Any,
) -> Experiment:
    """K classification tasks, and a pretext where it is given; weighting: the sum of losses where none is given."""
    names = tuple(str(c) for c in range(CLASSES))
    augmentation = Validation(crop=1.0)
    return Experiment(
        encoder=encoder,
        tasks={
            f"task{k}": TaskEntry(Classification(classes=names, dropout=0.0)) for k in range(tasks)
        },
        pretexts={"pretext": PretextEntry(pretext)} if pretext else {},
        data={f"made{s}": DataEntry(MadeSource()) for s in range(datasets)},  # type: ignore[arg-type]
        weighting=weighting or Equal(),
        augment=augmentation,
        augmentations={"validation": augmentation},
        input=Input(size=size, batch_size=batch, validation=0.0, cache_size=size),
        views=Views(**views),
        train=Train(steps=STEPS, tensorboard=False),
    )


def stepper(exp: Experiment, pixels: torch.Tensor, targets: list[torch.Tensor]) -> Trainer:
    """A loop that is ready to step; `trainer.advance()` is one training step, logging included.

    With several datasets, each holds an equal share of the rows and labels one task.
    """
    rows = np.arange(len(pixels))
    dataset = rows * len(exp.data) // len(rows)
    tasks = dict(zip(exp.tasks, targets))
    every = len(exp.data) == 1
    present = {k: torch.from_numpy((dataset == i) | every) for i, k in enumerate(tasks)}
    tasks = {k: torch.where(present[k], t, 0) for k, t in tasks.items()}
    data = RunData(
        experiment=exp,
        images=MemoryImageCache(pixels),
        targets=tasks,
        present=present,
        dataset=dataset,
        keys=rows.astype(str),
        attributes={},
        split={"train": rows},
        fingerprint="",
    )
    train_state = build_train_state(
        exp, Fabric(accelerator="cpu", devices=1), STEPS, len(rows) // exp.input.batch_size
    )
    record = Record(exp.train.max_skipped)
    return Trainer(
        train_state,
        data,
        Sampler(data, exp),
        RunFolder(Path()),
        record,
        SilentReporter(),
        main=False,
    )


def where_it_goes(trainer: Trainer, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each part of a training step."""
    train_state, names = trainer.train_state, list(trainer.train_state.experiment.entries)
    spent: dict[str, list[float]] = {}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        begun = time.process_time()
        done = work()
        spent.setdefault(part, []).append(time.process_time() - begun)
        return done

    for _ in range(rounds):
        prepared = timed("draw and prepare", lambda: trainer._prepare(0))
        features, _ = timed("encoder", lambda i=prepared: train_state.model.encode(i))
        outputs = timed(
            "heads and decoder",
            lambda f=features, i=prepared: train_state.model.forward_heads(f, i),
        )
        losses = [
            timed(
                f"loss of {name}",
                lambda n=name, o=outputs, i=prepared: train_state.model.compute_losses(n, o[n], i),
            )
            for name in names
        ]
        timed("backward", lambda ls=losses: torch.stack(ls).sum().backward())
        timed("whole step", trainer.advance)
    return {part: statistics.median(times) for part, times in spent.items()}
