"""Our variants: the Trainer that `mtl train` runs, on random images in memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from attrs import frozen
from lightning_fabric import Fabric
from torch import Tensor

from mtlcore import Dataset, Encoder, Index, LossWeighting, PretextTask, Sample
from mtlcore.augment.levels import Validation
from mtlcore.callbacks.guard import Callbacks
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
from mtlcore.contracts import PreparedBatch
from mtlcore.data.cache import MemoryImageCache
from mtlcore.data.dataset import RunData
from mtlcore.data.loader import DirectLoader
from mtlcore.data.sampler import Sampler
from mtlcore.model.plan import training_plan
from mtlcore.model.views import prepare
from mtlcore.tasks.classification import Classification
from mtlcore.training.build import build_train_state
from mtlcore.training.devices import stop_searching_for_gpus
from mtlcore.training.record import Record
from mtlcore.training.setup import RunParts
from mtlcore.training.trainer import Trainer, trainer_of
from mtlcore.weighting import Equal

N, CLASSES = 2048, 8
STEPS = 1_000_000  # more than any measurement takes: the trainer never finishes

Done = TypeVar("Done")


@frozen
class RandomImages(Dataset):
    """Placeholder for a dataset. The images are in memory, so it is never indexed or decoded."""

    def index(self) -> Index:
        raise NotImplementedError

    def decode(self, index: Index, sample: int) -> Sample:
        raise NotImplementedError


def images(size: int) -> Tensor:
    """Return uint8 noise, (N, 3, size, size)."""
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (N, 3, size, size), dtype=torch.uint8, generator=g)


def labels(tasks: int) -> list[Tensor]:
    """Return random classes, (N,) for each task."""
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
    """Return an experiment with `tasks` classification tasks, and optionally a pretext.

    weighting: None is the sum of losses.
    views: fields of `Views`.
    """
    names = tuple(str(c) for c in range(CLASSES))
    classification = Classification(classes=names, dropout=0.0)
    augmentation = Validation(crop=1.0)
    dataset = RandomImages()
    return Experiment(
        encoder=encoder,
        tasks={f"task{k}": TaskEntry(classification) for k in range(tasks)},
        pretexts={"pretext": PretextEntry(pretext)} if pretext else {},
        data={f"made{s}": DataEntry(dataset) for s in range(datasets)},
        weighting=weighting or Equal(),
        augment=augmentation,
        augmentations={"validation": augmentation},
        input=Input(size=size, batch_size=batch, validation=0.0, cache_size=size),
        views=Views(**views),
        train=Train(steps=STEPS),
    )


def stepper(exp: Experiment, pixels: Tensor, targets: list[Tensor]) -> Trainer:
    """Return a trainer that is ready to step.

    `trainer.step()` is one training step, with logging. With several datasets, each one has an
    equal share of the samples and the labels of one task.
    """
    n = len(pixels)
    indices = np.arange(n)
    dataset = indices * len(exp.data) // n
    has_all_labels = len(exp.data) == 1
    present: dict[str, Tensor] = {}
    task_targets: dict[str, Tensor] = {}
    for i, (task, target) in enumerate(zip(exp.tasks, targets)):
        present[task] = torch.from_numpy((dataset == i) | has_all_labels)
        task_targets[task] = torch.where(present[task], target, 0)

    data = RunData(
        images=MemoryImageCache(pixels),
        targets=task_targets,
        present=present,
        dataset=dataset,
        attributes={},
        split={"train": indices},
        fingerprint="",
    )
    fabric = Fabric(accelerator="cpu", devices=1)
    stop_searching_for_gpus()
    steps_per_epoch = n // exp.input.batch_size
    train_state = build_train_state(exp, fabric, STEPS, steps_per_epoch)
    record = Record(exp.train.max_skipped)
    callbacks = Callbacks.of(train_state, data, None, SilentReporter())
    loader = DirectLoader(data, Sampler(data, exp), fabric.device)
    return trainer_of(RunParts(train_state, data, loader, record, callbacks, None))


def _backward_sum(losses: list[Tensor]) -> None:
    torch.stack(losses).sum().backward()


def profile(trainer: Trainer, rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each part of a training step."""
    train_state = trainer.parts.train_state
    model = train_state.model
    plan = training_plan(train_state.experiment)
    spent: dict[str, list[float]] = {}

    def timed(part: str, work: Callable[..., Done], *args: Any) -> Done:
        begin = time.process_time()
        done = work(*args)
        spent.setdefault(part, []).append(time.process_time() - begin)
        return done

    def draw_and_prepare() -> PreparedBatch:
        batch = trainer.parts.loader.batch(train_state.step, 0)
        return prepare(plan, batch, train_state.keyed_rng(0), train_state.progress)

    for _ in range(rounds):
        prepared = timed("draw and prepare", draw_and_prepare)
        features, _ = timed("encoder", model.encode, prepared)
        outputs = timed("heads and decoder", model.forward_heads, features, prepared)
        losses: list[Tensor] = []
        for name in train_state.experiment.entries:
            compute = model.compute_losses
            losses.append(timed(f"loss of {name}", compute, name, outputs[name], prepared))
        timed("backward", _backward_sum, losses)
        timed("whole step", trainer.step)
    return {part: statistics.median(times) for part, times in spent.items()}
