"""Which samples make up a step: a function of (seed, step), with no state to save.

Each dataset's labeled training samples are an endless stream: one seeded permutation an epoch, one after the other. Step s
takes the next places of every stream; unlabeled samples come from streams of their own. Every micro-batch of every rank
holds the same number of samples of each dataset and kind, so none ever lacks one.

    micro-batch of Q / P samples:  [ dataset 0 | dataset 1 | ... | unlabeled of dataset 0 | ... ]      P = world x accumulate
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from attrs import define, field
from torch import Tensor

from ..config.experiment import Experiment
from ..contracts import Batch, StepCounts
from ..errors import MtlError
from ..rng import LABELED, UNLABELED
from .dataset import RunData
from .splits import generator

REMEMBERED = 4  # steps; a step's micro-batches are drawn together


class MicroBatch(NamedTuple):
    """One micro-batch. samples: of the dataset, int64, those with labels first; labeled: how many of these there are."""

    samples: np.ndarray
    labeled: int


class Sampler:
    """Samples and batches by step. world: ranks that share each step; micro-batch `i` of rank r is micro_batch i x world + r."""

    def __init__(self, dataset: RunData, experiment: Experiment, world: int = 1) -> None:
        """Raises MtlError where a batch can't be shared out evenly, or where there is nothing to learn from."""
        self._data, self._experiment = dataset, experiment
        self._micro_batches, self._world = world * experiment.train.accumulate, world
        train = dataset.split.get("train", np.zeros(0, dtype=np.int64))
        has_label = dataset.labeled[train]
        if not len(train):
            raise MtlError("there is no training sample")
        if experiment.tasks and not has_label.any():
            raise MtlError(
                f"no training sample carries a label of any task ({', '.join(experiment.tasks)})"
            )
        batch_size, beside = experiment.input.batch_size, experiment.input.unlabeled_batch
        self._labeled = self._sample_streams(LABELED, train[has_label], "batch_size", batch_size)
        key = "unlabeled_batch" if experiment.tasks and beside else "batch_size"
        size = beside if experiment.tasks and beside else batch_size
        self._unlabeled = self._sample_streams(UNLABELED, train[~has_label], key, size)
        counted = self._labeled or self._unlabeled
        self.steps_per_epoch = max(1, math.ceil(sum(len(s.samples) for s in counted) / batch_size))
        self._present = {label: present.numpy() for label, present in dataset.present.items()}
        self._drawn: dict[int, tuple[list[MicroBatch], StepCounts]] = {}

    def step(self, step: int) -> list[MicroBatch]:
        """All micro-batches of a step, over all ranks, in their global order."""
        return self._draw(step)[0]

    def counts(self, step: int) -> StepCounts:
        """How many samples the whole step has, and how many labels of each task."""
        return self._draw(step)[1]

    def batch(self, step: int, micro_batch: int, device: torch.device) -> Batch:
        """The step's micro-batch number `micro_batch`, images as stored, on the device. On CUDA nobody waits for the copies."""
        micro_batches, counts = self._draw(step)
        samples, labeled = micro_batches[micro_batch]
        index = torch.from_numpy(samples)
        return Batch(
            images=_landed(self._data.images.take(samples), device),
            targets={
                label: _landed(t.index_select(0, index), device)
                for label, t in self._data.targets.items()
            },
            present={
                label: _landed(p.index_select(0, index), device)
                for label, p in self._data.present.items()
            },
            counts=counts,
            labeled_samples=labeled,
        )

    def _draw(self, step: int) -> tuple[list[MicroBatch], StepCounts]:
        if step not in self._drawn:
            labeled = _taken(self._labeled, step, self._micro_batches)
            samples = np.concatenate(
                [labeled, _taken(self._unlabeled, step, self._micro_batches)], 1
            )
            carried = {
                label: int(present[labeled].sum()) for label, present in self._present.items()
            }
            counts = StepCounts(carried, samples.size, samples.size - labeled.size)
            while len(self._drawn) >= REMEMBERED:
                self._drawn.pop(next(iter(self._drawn)))
            self._drawn[step] = (
                [MicroBatch(micro_batch, labeled.shape[1]) for micro_batch in samples],
                counts,
            )
        return self._drawn[step]

    def _sample_streams(
        self, kind: str, samples: np.ndarray, key: str, size: int
    ) -> list[_SampleStream]:
        """One stream for each dataset that has such samples, with its quota of a micro-batch."""
        experiment, dataset = self._experiment, self._data.dataset[samples]
        by_dataset = {
            label: samples[dataset == number] for number, label in enumerate(experiment.data)
        }
        by_dataset = {label: own for label, own in by_dataset.items() if len(own)}
        if not by_dataset:
            return []
        each = _shared_out(key, size, self._world, experiment.train.accumulate)
        even = experiment.input.mix == "balanced"
        weights = [
            experiment.data[label].weight * (1 if even else len(own))
            for label, own in by_dataset.items()
        ]
        if each < len(weights):
            raise MtlError(
                f"input.{key} = {size} gives micro-batches of {each} {kind} samples, too few for {len(weights)} datasets "
                f"({', '.join(by_dataset)}): at least {len(weights) * self._micro_batches} are needed"
            )
        quotas = dict(zip(by_dataset, shares(each, weights)))
        return [
            _SampleStream(own, quotas[label], experiment.seed, f"{kind} {label}")
            for label, own in by_dataset.items()
        ]


@define(eq=False)
class _SampleStream:
    """An endless shuffled sequence of samples; `quota` of them go into each micro-batch."""

    samples: np.ndarray
    quota: int
    seed: int
    name: str
    _orders: dict[int, np.ndarray] = field(factory=dict, init=False)

    def take(self, start: int, n: int) -> np.ndarray:
        """(n,) samples from place `start` on."""
        length, pieces = len(self.samples), []
        while n > 0:
            epoch, place = divmod(start, length)
            piece = self._order(epoch)[place : place + n]
            pieces.append(piece)
            start, n = start + len(piece), n - len(piece)
        return np.concatenate(pieces)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            while len(self._orders) >= 2:
                self._orders.pop(next(iter(self._orders)))
            self._orders[epoch] = generator(self.seed, self.name, epoch).permutation(self.samples)
        return self._orders[epoch]


def shares(total: int, weights: list[float]) -> list[int]:
    """`total` >= len(weights) as whole numbers in proportion to the weights: by largest remainder, at least 1 each."""
    exact = np.array(weights, dtype=np.float64) / sum(weights) * total
    whole = np.floor(exact).astype(np.int64)
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: total - whole.sum()]] += 1
    while (whole == 0).any():
        whole[whole.argmax()] -= 1
        whole[whole.argmin()] += 1
    return [int(n) for n in whole]


def _shared_out(key: str, size: int, world: int, accumulate: int) -> int:
    micro_batches = world * accumulate
    if size % micro_batches:
        below, above = (
            size // micro_batches * micro_batches,
            -(-size // micro_batches) * micro_batches,
        )
        nearest = f"{below} or {above}" if below else str(above)
        raise MtlError(
            f"input.{key} = {size} can't be shared out over {world} device(s) x train.accumulate = {accumulate}: "
            f"the nearest that can: {nearest}"
        )
    return size // micro_batches


def _taken(streams: list[_SampleStream], step: int, micro_batches: int) -> np.ndarray:
    """-> (micro_batches, sum of quotas) int64: sample p is what the p-th micro-batch gets of these streams."""
    pieces = [
        s.take(step * micro_batches * s.quota, micro_batches * s.quota).reshape(
            micro_batches, s.quota
        )
        for s in streams
    ]
    return np.concatenate([np.zeros((micro_batches, 0), dtype=np.int64), *pieces], 1)


def _landed(tensor: Tensor, device: torch.device) -> Tensor:
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )
