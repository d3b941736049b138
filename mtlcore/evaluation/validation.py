"""Samples in evaluation batches: as the cache stores them, and in the view that evaluation reads.

indices (N,) -> batches of `input.eval_batch_size` -> uint8 images and targets
    -> the view of the augmentation "validation" -> a forward under the run's precision
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from ..config.experiment import Experiment
from ..contracts import View
from ..data.dataset import RunData
from ..model.preprocess import Preprocess
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
    """The batches of these samples, in order. indices: (N,) int64, of any split."""

    experiment: Experiment
    data: RunData
    indices: np.ndarray
    device: torch.device

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self.indices) / self.experiment.input.eval_batch_size)

    def images(self, number: int) -> Tensor:
        """Return the images of a batch as the cache stores them, uint8 on the device."""
        return self.data.images.take(self._samples(number)).images.to(self.device)

    def batch(self, number: int) -> EvaluationBatch:
        """Return the images of a batch, with the targets of all tasks, on the device."""
        samples = self._samples(number)
        cached = self.data.images.take(samples)
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

    def _samples(self, number: int) -> np.ndarray:
        size = self.experiment.input.eval_batch_size
        return self.indices[number * size : (number + 1) * size]
