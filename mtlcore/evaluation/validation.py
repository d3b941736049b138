"""Samples in evaluation batches: as the cache stores them, and in the view that evaluation reads.

indices (N,) -> batches of `input.eval_batch_size` -> uint8 images and targets
    -> the view of the augmentation "validation" -> a forward under the run's precision
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from ..config.experiment import Experiment
from ..contracts import View
from ..data.cache import CachedSamples, MemoryImageCache
from ..data.dataset import RunData
from ..data.prefetch import OneAhead
from ..model.preprocess import Preprocess
from ..networks import world_size
from ..rng import KeyedRng
from .precision import autocast


class EvaluationBatch(NamedTuple):
    """Images with the labels of all tasks, as the cache stores them.

    images: (B, 3, H0, W0) uint8.
    targets: task label -> (B, ...). Samples without this label hold zeros (points: NaN).
    present: task label -> (B,) bool, samples with this label.
    """

    images: Tensor
    targets: dict[str, Tensor]
    present: dict[str, Tensor]


@frozen(eq=False)
class ValidationBatches:
    """The batches of these samples, in order.

    While a rank evaluates a batch, a background thread reads its next one, unless the images are in
    memory or `input.prefetch` is 0.

    indices: (N,) int64, of any split. ranks: each of them evaluates every `ranks`-th batch.
    """

    experiment: Experiment
    data: RunData
    indices: np.ndarray
    device: torch.device
    ranks: int = field(factory=world_size)
    _take: Callable[[int], CachedSamples] = field(init=False)

    @_take.default
    def _reader(self) -> Callable[[int], CachedSamples]:
        size = self.experiment.input.eval_batch_size
        # Not a method of this object: the thread would keep it alive.
        read = partial(_read, self.data, self.indices, size)
        if not self.experiment.input.prefetch or isinstance(self.data.images, MemoryImageCache):
            return read
        return OneAhead(read, len(self), self.ranks).get

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self.indices) / self.experiment.input.eval_batch_size)

    def images(self, number: int) -> Tensor:
        """Return the images of a batch as the cache stores them, uint8 on the device."""
        return self._take(number).images.to(self.device)

    def batch(self, number: int) -> EvaluationBatch:
        """Return the images of a batch, with the targets of all tasks, on the device."""
        samples = _samples(self.indices, self.experiment.input.eval_batch_size, number)
        cached = self._take(number)
        of_tasks = self.data.targets_of(samples, cached)
        index = torch.from_numpy(samples)
        targets: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        for label in self.experiment.tasks:
            targets[label] = of_tasks[label].to(self.device)
            present[label] = self.data.present[label][index].to(self.device)
        return EvaluationBatch(cached.images.to(self.device), targets, present)

    def view(self, images: Tensor) -> View:
        """Return the view that inference reads. images: uint8, as the cache stores them."""
        return Preprocess.of(self.experiment).view(images)

    def keyed_rng(self, number: int = 0) -> KeyedRng:
        """Return the generators of a batch. They are the same in every evaluation of the run."""
        return KeyedRng((self.experiment.seed, number), self.device)

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which forwards run in the precision of the run."""
        return autocast(self.experiment.train.precision, self.device)


def _samples(indices: np.ndarray, size: int, number: int) -> np.ndarray:
    return indices[number * size : (number + 1) * size]


def _read(data: RunData, indices: np.ndarray, size: int, number: int) -> CachedSamples:
    return data.images.take(_samples(indices, size, number))
