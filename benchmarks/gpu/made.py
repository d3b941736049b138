"""Experiments on noise that is made on the spot: the suite reads no file of anybody.

The Trainer is that of `mtl train`. Where images must lie on the device, its loader is replaced.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from mtlcore import (
    Augmentation,
    Batch,
    Categories,
    Classification,
    Dataset,
    Encoder,
    Index,
    LossWeighting,
    PretextTask,
    Sample,
    register,
)
from mtlcore.augment.levels import Validation, Weak
from mtlcore.config.experiment import (
    DataEntry,
    Experiment,
    Input,
    PretextEntry,
    TaskEntry,
    Train,
    Views,
)
from mtlcore.contracts.texts import Texts
from mtlcore.data.cache import MemoryImageCache
from mtlcore.data.packed import Packed
from mtlcore.data.packs.plan import PackOptions
from mtlcore.data.packs.writer import pack
from mtlcore.data.sampler import Sampler
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.rng import to_device
from mtlcore.training.trainer import Trainer, trainer_of
from mtlcore.weighting import Equal

from .bench import Bench

DIFFERENT = 64  # images of noise; more samples repeat them
CLASSES = 8
ENDLESS = 1_000_000  # steps, more than any measurement takes


@register
@frozen
class Noise(Dataset):
    """n square images of noise with `size` pixels a side. Each has a class of `tasks` tasks."""

    n: int
    size: int
    tasks: int = 1

    def index(self) -> Index:
        samples = np.arange(self.n)
        names = list("abcdefgh")[:CLASSES]
        labels = {}
        for k in range(self.tasks):
            labels[f"task{k}"] = Categories(((samples + k) % CLASSES).astype(np.int32), names)
        return Index(Texts.of(self._keys()), labels)

    def decode(self, index: Index, i: int) -> Sample:
        return Sample(_noise(i % DIFFERENT, self.size))

    def _keys(self) -> Iterator[str]:
        for i in range(self.n):
            yield f"{i:08d}"


@functools.cache
def _noise(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def experiment(
    bench: Bench,
    dataset: Dataset,
    encoder: Encoder,
    size: int,
    batch: int,
    *,
    tasks: int = 1,
    pretexts: Mapping[str, PretextTask] | None = None,
    weighting: LossWeighting | None = None,
    augment: Augmentation | None = None,
    cache_size: int | None = None,
    views: Mapping[str, Any] | None = None,
    **train: Any,
) -> Experiment:
    """Return an experiment on noise. train: fields of `Train`."""
    entries = {f"task{k}": TaskEntry(Classification(reads=f"task{k}")) for k in range(tasks)}
    cached = cache_size or size
    return Experiment(
        encoder=encoder,
        tasks=entries,
        pretexts={label: PretextEntry(given) for label, given in (pretexts or {}).items()},
        data={"noise": DataEntry(dataset)},
        weighting=weighting or Equal(),
        augment=augment or Weak(),
        augmentations={"validation": Validation()},
        input=Input(size=size, batch_size=batch, cache_size=cached),
        views=Views(**(views or {})),
        train=Train(
            **{
                "steps": ENDLESS,
                "eval_every": 0,
                "log_every": ENDLESS,
                "max_skipped": ENDLESS,
                "accelerator": bench.device.type,
                **train,
            }
        ),
    )


def packed(bench: Bench, name: str, dataset: Noise, quality: int | None = None) -> Packed:
    """Write a pack of noise (raw pixels by default), and return it as a dataset."""
    folder = Path(bench.folder, name)
    source = Experiment(
        encoder=ResnetSmall(width=8),  # nothing is trained on
        tasks={"task0": TaskEntry(Classification(reads="task0"))},
        data={"noise": DataEntry(dataset)},
        augment=Weak(),
        input=Input(size=dataset.size, cache_size=dataset.size),
        train=Train(steps=1),
    )
    pack(source, "noise", folder, PackOptions(quality=quality))
    return Packed(folder)


def trainer(exp: Experiment, out: Path | None = None, resume: bool = False) -> Trainer:
    return Trainer(exp, out, resume=resume, progress=False)


# ---------------------------------------------------------------------------------------- loaders


class FixedLoader:
    """One batch, which lies on the device: nothing is read, drawn or copied."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batch(self, step: int, number: int) -> Batch:
        return self._batch

    def close(self) -> None:
        pass


class ResidentLoader:
    """All images of the run on the device. The samples are those of the run's own loader."""

    def __init__(self, trainer: Trainer) -> None:
        data, device = trainer.parts.data, trainer.parts.train_state.fabric.device
        assert isinstance(data.images, MemoryImageCache)
        self._device = device
        self._sampler = Sampler(data, trainer.experiment)
        self._images = data.images.pixels.to(device)
        self._targets = {label: target.to(device) for label, target in data.targets.items()}
        self._present = {label: given.to(device) for label, given in data.present.items()}

    def batch(self, step: int, number: int) -> Batch:
        samples, labeled = self._sampler.step(step)[number]
        index = to_device(torch.from_numpy(samples), self._device)
        return Batch(
            images=self._images.index_select(0, index),
            targets=_taken(self._targets, index),
            present=_taken(self._present, index),
            counts=self._sampler.counts(step),
            labeled_samples=labeled,
        )

    def close(self) -> None:
        pass


def _taken(columns: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {label: column.index_select(0, index) for label, column in columns.items()}


def with_loader(trainer: Trainer, loader: FixedLoader | ResidentLoader) -> Trainer:
    """Return the same trainer with another loader."""
    trainer.parts.loader.close()
    return trainer_of(evolve(trainer.parts, loader=loader))


def resident(trainer: Trainer) -> Trainer:
    """Return the same trainer with all images on the device."""
    return with_loader(trainer, ResidentLoader(trainer))


def fixed(trainer: Trainer) -> Trainer:
    """Return the same trainer on the batch of its first step, again and again."""
    return with_loader(trainer, FixedLoader(trainer.batch().micro_batches[0]))
