"""Choose the samples of each step, as a function of (seed, step). There is no state to save.

Each dataset's labeled training samples form an endless stream: seeded permutations, one for each
epoch, unless `input.sampling` says otherwise. Each step takes the next samples of every stream.
Unlabeled samples have streams of their own, always shuffled. Every micro-batch of every rank holds
the same number of samples of each dataset and kind, so that none of them ever lacks a dataset.

One of the `train.micro_batches` of a step, which all ranks share:

    [ labeled: dataset 0 | dataset 1 | ... | unlabeled: dataset 0 | dataset 1 | ... ]
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..config.experiment import Experiment
from ..contracts import StepCounts
from ..errors import MtlError
from ..rng import LABELED, UNLABELED
from .run_data import RunData
from .sampling import Sampling
from .streams import ShuffledStream, Stream

CACHED_STEPS = 4  # a step's micro-batches are drawn together and used one by one


class MicroBatch(NamedTuple):
    """The samples of one micro-batch.

    samples: (n,) int64, indices into the run's data, labeled samples first.
    labeled: how many of them are labeled.
    """

    samples: np.ndarray
    labeled: int


class Sampler:
    """The samples of each micro-batch, and the counts of each step.

    They depend on `train.micro_batches` (None counts as 1), never on the number of ranks. One
    thread may draw at a time.

    Raises MtlError if there are no training samples, if none of them has a label, or if a batch
    can't be divided evenly.
    """

    def __init__(
        self,
        dataset: RunData,
        experiment: Experiment,
    ) -> None:
        self._data = dataset
        self._experiment = experiment
        self._micro_batches = experiment.train.micro_batches or 1

        train = dataset.split.get("train", np.zeros(0, dtype=np.int64))
        has_label = dataset.labeled[train]
        if not len(train):
            raise MtlError(
                "there are no training samples: none is in the split train, or none can be read, "
                "as the lines above say"
            )
        if experiment.tasks and not has_label.any():
            labels = ", ".join(experiment.tasks)
            raise MtlError(f"no training sample has a label of any task ({labels})")

        batch_size = experiment.input.batch_size
        self._sampling = Sampling(dataset, experiment, self._micro_batches)
        self._labeled = self._sample_streams(
            LABELED,
            train[has_label],
            "batch_size",
            batch_size,
        )
        key, size = self._unlabeled_size()
        self._unlabeled = self._sample_streams(UNLABELED, train[~has_label], key, size)

        # Without labeled samples (pretraining), an epoch is a pass over the unlabeled ones.
        counted = self._labeled or self._unlabeled
        epoch_samples = sum(len(stream.samples) for stream in counted)
        self.steps_per_epoch = max(1, math.ceil(epoch_samples / batch_size))

        self._present = {label: present.numpy() for label, present in dataset.present.items()}
        self._drawn: dict[int, tuple[list[MicroBatch], StepCounts]] = {}

    def step(self, step: int) -> list[MicroBatch]:
        """Return all micro-batches of a step, over all ranks, in their global order."""
        return self._draw(step)[0]

    def counts(self, step: int) -> StepCounts:
        """Return how many samples the whole step has, and how many labels of each task."""
        return self._draw(step)[1]

    def _unlabeled_size(self) -> tuple[str, int]:
        """Return how many unlabeled samples a step has, and the key of [input] that sets it."""
        settings = self._experiment.input
        if self._experiment.tasks and settings.unlabeled_batch:
            return "unlabeled_batch", settings.unlabeled_batch
        return "batch_size", settings.batch_size

    def _draw(self, step: int) -> tuple[list[MicroBatch], StepCounts]:
        if step in self._drawn:
            return self._drawn[step]

        labeled = _take(self._labeled, step, self._micro_batches)
        unlabeled = _take(self._unlabeled, step, self._micro_batches)
        samples = np.concatenate([labeled, unlabeled], 1)
        micro_batches = [MicroBatch(row, labeled.shape[1]) for row in samples]
        labels = {label: int(present[labeled].sum()) for label, present in self._present.items()}
        counts = StepCounts(labels, samples.size, samples.size - labeled.size)

        while len(self._drawn) >= CACHED_STEPS:
            self._drawn.pop(next(iter(self._drawn)))
        self._drawn[step] = micro_batches, counts
        return self._drawn[step]

    def _sample_streams(
        self,
        kind: str,
        samples: np.ndarray,
        key: str,
        size: int,
    ) -> list[Stream]:
        """Return a stream for each dataset that has such samples, with its quota.

        kind: labeled or unlabeled. samples: indices of all training samples of this kind.
        key, size: the key of [input], and the number of samples that it asks of a step.
        """
        experiment = self._experiment
        dataset = self._data.dataset[samples]
        by_dataset: dict[str, np.ndarray] = {}
        for number, label in enumerate(experiment.data):
            own = samples[dataset == number]
            if len(own):
                by_dataset[label] = own
        if not by_dataset:
            return []

        n = _per_micro_batch(key, size, self._micro_batches)
        is_balanced = experiment.input.mix == "balanced"
        weights: list[float] = []
        for label, own in by_dataset.items():
            base = 1 if is_balanced else len(own)
            weights.append(experiment.data[label].weight * base)
        if n < len(weights):
            raise MtlError(
                f"input.{key} = {size} gives micro-batches of {n} {kind} samples, "
                f"too few for {len(weights)} datasets ({', '.join(by_dataset)}): "
                f"set it to at least {len(weights) * self._micro_batches}"
            )

        streams: list[Stream] = []
        for quota, (label, own) in zip(shares(n, weights), by_dataset.items()):
            streams.append(self._stream(kind, label, own, quota))
        return streams

    def _stream(self, kind: str, label: str, own: np.ndarray, quota: int) -> Stream:
        """Return the stream of one dataset. `input.sampling` is about labeled samples alone."""
        name = f"{kind} {label}"
        if kind == UNLABELED or self._experiment.input.sampling == "shuffle":
            return ShuffledStream(own, quota, self._experiment.seed, name)
        return self._sampling.stream(label, own, quota, name)


def shares(total: int, weights: list[float]) -> list[int]:
    """Split `total` >= len(weights) into whole numbers in proportion to the weights.

    Uses the largest remainder method. Each share is at least 1.
    """
    exact = np.array(weights, dtype=np.float64) / sum(weights) * total
    whole = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(whole - exact, kind="stable")
    whole[by_remainder[: total - whole.sum()]] += 1
    while (whole == 0).any():
        whole[whole.argmax()] -= 1
        whole[whole.argmin()] += 1
    return [int(n) for n in whole]


def _per_micro_batch(
    key: str,
    size: int,
    micro_batches: int,
) -> int:
    """Return the size of a micro-batch. Raises MtlError if `size` can't be divided evenly."""
    if size % micro_batches:
        below = size // micro_batches * micro_batches
        above = below + micro_batches
        valid = f"{below} or {above}" if below else str(above)
        raise MtlError(
            f"input.{key} = {size} can't be divided evenly among {micro_batches} micro-batches "
            f"(train.micro_batches, by default the number of devices); "
            f"the nearest valid values: {valid}"
        )
    return size // micro_batches


def _take(
    streams: list[Stream],
    step: int,
    micro_batches: int,
) -> np.ndarray:
    """Return the samples of a step: (micro_batches, sum of quotas) int64, one row for each."""
    columns = [np.zeros((micro_batches, 0), dtype=np.int64)]
    for stream in streams:
        columns.append(stream.take(step, micro_batches))
    return np.concatenate(columns, 1)
