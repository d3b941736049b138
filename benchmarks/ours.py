"""Our side of the measurements: the very loop that `mtl train` runs, on pictures made in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from mtl_pretexts.puzzling import Puzzling
from mtlcore import Encoder
from mtlcore.augment.recipes import Validation
from mtlcore.data.dataset import Dataset
from mtlcore.data.sampler import Sampler
from mtlcore.data.store import MemoryImages
from mtlcore.experiment import DataEntry, Experiment, Input, PretextEntry, TaskEntry, Train, Views
from mtlcore.runs import RunFolder
from mtlcore.tasks.classification import Classification
from mtlcore.train.build import build_engine
from mtlcore.train.loop import Loop
from mtlcore.train.record import Record
from mtlcore.train.watch import Silent
from mtlcore.weighting import Equal

N, CLASSES, STEPS = 2048, 8, 1_000_000


class MadeSource:
    """Stands in the data table; its pictures are made, so nothing is ever indexed or decoded."""


def pictures(size: int) -> torch.Tensor:
    """(N, 3, size, size) uint8 noise."""
    return torch.randint(0, 256, (N, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def labels(tasks: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randint(0, CLASSES, (N,), generator=g) for _ in range(tasks)]


def experiment(
    encoder: Encoder, size: int, batch: int, tasks: int, puzzling: Puzzling | None = None, **views: Any
) -> Experiment:
    """K classification tasks, and puzzling where it is given."""
    names = tuple(str(c) for c in range(CLASSES))
    recipe = Validation(crop=1.0)
    return Experiment(
        encoder=encoder,
        tasks={f"task{k}": TaskEntry(Classification(classes=names, dropout=0.0)) for k in range(tasks)},
        pretexts={"puzzling": PretextEntry(puzzling)} if puzzling else {},
        data={"made": DataEntry(MadeSource())},  # type: ignore[arg-type]
        weighting=Equal(),
        augment=recipe,
        recipes={"validation": recipe},
        input=Input(size=size, batch_size=batch, validation=0.0, store=size),
        views=Views(**views),
        train=Train(steps=STEPS, tensorboard=False),
    )


def stepper(exp: Experiment, pixels: torch.Tensor, targets: list[torch.Tensor]) -> Loop:
    """A loop that is ready to step; `loop.advance()` is one training step, logging included."""
    rows = np.arange(len(pixels))
    tasks = dict(zip(exp.tasks, targets))
    present: Mapping[str, torch.Tensor] = {k: torch.ones(len(pixels), dtype=torch.bool) for k in tasks}
    data = Dataset(
        experiment=exp,
        images=MemoryImages(pixels),
        targets=tasks,
        present=dict(present),
        source=np.zeros(len(rows), dtype=np.int64),
        keys=rows.astype(str),
        attributes={},
        split={"train": rows},
        fingerprint="",
    )
    engine = build_engine(exp, Fabric(accelerator="cpu", devices=1), STEPS, len(rows) // exp.input.batch_size)
    record = Record(exp.train.max_skipped)
    return Loop(engine, data, Sampler(data, exp), RunFolder(Path()), record, Silent(), main=False)


