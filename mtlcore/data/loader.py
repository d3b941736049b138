"""Loaders: from the sampler's indices to uint8 batches on the device.

A loader may run ahead of the step: draw -> read -> uint8 batch on the device. Augmentations and
pretexts run later, in the training thread, just before the forward pass of the batch. So a loader
that reads ahead (`prefetch`) does not change the run by one bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from attrs import evolve
from torch import Tensor

from ..contracts import Batch
from .run_data import RunData
from .sampler import Sampler


class Loader(Protocol):
    """The batches of a run, for one rank.

    A batch is a function of (step, number) alone: it depends neither on earlier calls nor on how
    far a loader reads ahead. `Trainer.step` requests the micro-batches of its rank in the order of
    the steps. A resumed run begins at any step, and `Trainer.batch` may request any step again.
    """

    def batch(self, step: int, number: int) -> Batch:
        """Return one micro-batch of a step on the device of the rank, with uint8 images.

        number: position of the micro-batch among those of all ranks.
        Raises MtlError if an image can't be read, also if it was read ahead.
        """
        ...

    def close(self) -> None:
        """Stop reading ahead, without waiting. Later batches are read when they are requested."""
        ...


class DirectLoader:
    """Reads each batch when it is requested, in the calling thread."""

    def __init__(self, data: RunData, sampler: Sampler, device: torch.device) -> None:
        self._data = data
        self._sampler = sampler
        self.device = device

    def batch(self, step: int, number: int) -> Batch:
        """Return one micro-batch of a step. On CUDA the host does not wait for the copies."""
        return to_device(self.read(step, number), self.device)

    def read(self, step: int, number: int) -> Batch:
        """Return one micro-batch of a step in the memory of the host.

        Arguments and errors are those of `batch`. One thread may read at a time.
        """
        samples, labeled = self._sampler.step(step)[number]
        cached = self._data.images.take(samples)
        index = torch.from_numpy(samples)
        present = self._data.present
        return Batch(
            images=cached.images,
            targets=self._data.targets_of(samples, cached),
            present={label: given.index_select(0, index) for label, given in present.items()},
            counts=self._sampler.counts(step),
            labeled_samples=labeled,
        )

    def close(self) -> None:
        """Do nothing: no batch is read ahead."""


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copy a batch to a device, on the current stream. On CUDA the host does not wait."""
    return evolve(
        batch,
        images=_copied(batch.images, device),
        targets=_all_copied(batch.targets, device),
        present=_all_copied(batch.present, device),
    )


def _all_copied(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {label: _copied(tensor, device) for label, tensor in tensors.items()}


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return tensor.to(device)
    # From pinned memory the copy is asynchronous.
    return tensor.pin_memory().to(device, non_blocking=True)
