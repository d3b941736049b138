"""A few samples of a run's data, in the form of the image cache, without reading a whole split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from ..config.experiment import Experiment
from ..data.cache import CachedSamples
from ..data.dataset import RunData, fit_experiment, index_data, read_images
from ..errors import MtlError
from ..image_size import written
from ..model.preprocess import Preprocess

BATCH = 32


@frozen(eq=False)
class SomeSamples:
    """Evenly spaced samples of one split. indices: (n,) int64.

    experiment: without the tasks that have no labels in this data.
    """

    experiment: Experiment
    data: RunData
    split: str
    indices: np.ndarray

    @property
    def n(self) -> int:
        """The number of samples, readable or not."""
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[np.ndarray, CachedSamples]]:
        """Yield batches of (indices, samples). Samples that can't be read are left out."""
        for start in range(0, len(self.indices), BATCH):
            batch = self.indices[start : start + BATCH]
            try:
                yield batch, self.data.images.take(batch)
            except MtlError:
                yield from self._one_by_one(batch)

    def images(self) -> Tensor:
        """Return the images of all samples, (n, 3, h, w) uint8. n is 0 if none can be read."""
        found = [torch.empty(0, 3, *self.data.images.size, dtype=torch.uint8)]
        found += [cached.images for _, cached in self]
        return torch.cat(found)

    def _one_by_one(self, batch: np.ndarray) -> Iterator[tuple[np.ndarray, CachedSamples]]:
        for index in batch:
            one = np.array([index])
            try:
                yield one, self.data.images.take(one)
            except MtlError:
                continue


def some_samples(experiment: Experiment, split: str, n: int) -> SomeSamples:
    """Return n samples of a split; all if it has fewer.

    experiment: resolved. Raises MtlError if the data is absent, has no sample in the split, or is
    smaller than the images of the run.
    """
    stored = Preprocess.of(experiment).stored
    indexed = index_data(experiment, {split})
    fitted = fit_experiment(experiment, indexed)
    if fitted.input.cache_size != stored:
        raise MtlError(
            "the images of this data are smaller than those of the run: expected at least "
            f"{written(stored)} pixels"
        )
    data = read_images(fitted, indexed, lazy=True)
    samples = data.split.get(split, np.empty(0, dtype=np.int64))
    if not len(samples):
        raise MtlError(f"the data has no samples in the split {split!r}")
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(n, len(samples))).round())
    tasks = {label: entry for label, entry in fitted.tasks.items() if label in experiment.tasks}
    return SomeSamples(evolve(fitted, tasks=tasks), data, split, samples[chosen.astype(np.int64)])


def random_images(size: tuple[int, int], n: int) -> Tensor:
    """Return images of random pixels (n, 3, h, w) uint8. size: (h, w). The seed is fixed."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, *size), dtype=torch.uint8, generator=generator)
