"""Streams of samples: which samples of one dataset each step gets, as a function of the step.

- `ShuffledStream`: one seeded permutation of the samples after another.
- `WeightedStream`: each sample in proportion to its weight.
- `BalancedStream`: each class equally often, from one shuffled stream for each class.

No stream has a state: any step can be taken at any time. Counts are exact and not only right on
average. Stratified draws differ less from their expectation than independent ones: systematic
sampling, Madow 1949, "On the Theory of Systematic Sampling, II".
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from attrs import define, field

from .splits import generator

CACHED_EPOCHS = 2  # a micro-batch may need samples of two epochs


class Stream(Protocol):
    """The samples of one dataset, of one kind.

    samples: (n,) int64, those that it draws. quota: how many of them each micro-batch gets.
    """

    @property
    def samples(self) -> np.ndarray: ...

    @property
    def quota(self) -> int: ...

    def take(self, step: int, micro_batches: int) -> np.ndarray:
        """Return the samples of a step: (micro_batches, quota) int64."""
        ...


@define(eq=False)
class ShuffledStream:
    """An endless sequence of shuffled samples, one permutation after another.

    samples: (n,) int64. quota: how many of them each micro-batch gets. seed, name: what the
    permutations depend on, besides the epoch.
    """

    samples: np.ndarray
    quota: int
    seed: int
    name: str
    _orders: dict[int, np.ndarray] = field(factory=dict, init=False)

    def take(self, step: int, micro_batches: int) -> np.ndarray:
        """Return the samples of a step: (micro_batches, quota) int64."""
        n = micro_batches * self.quota
        return self.slice(step * n, n).reshape(micro_batches, self.quota)

    def slice(self, start: int, n: int) -> np.ndarray:
        """Return the n samples from position `start` of the sequence, (n,)."""
        pieces: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        while n > 0:
            epoch, position = divmod(start, len(self.samples))
            piece = self._order(epoch)[position : position + n]
            pieces.append(piece)
            start += len(piece)
            n -= len(piece)
        return np.concatenate(pieces)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            while len(self._orders) >= CACHED_EPOCHS:
                self._orders.pop(next(iter(self._orders)))
            self._orders[epoch] = self._draw(generator(self.seed, self.name, epoch))
        return self._orders[epoch]

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return the samples of one epoch, (n,) int64."""
        return rng.permutation(self.samples)


@define(eq=False)
class WeightedStream(ShuffledStream):
    """Samples in proportion to their weights.

    An epoch has as many draws as there are samples. In each epoch, a sample with the share w of
    all weights is drawn n * w times, rounded up or down.

    weights: (n,) float, all above 0.
    """

    weights: np.ndarray = field(kw_only=True)

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        # Systematic sampling: n points at equal distances on a line that the samples divide among
        # themselves in random order, each with a segment as long as its weight.
        n = len(self.samples)
        order = rng.permutation(n)
        ends = np.cumsum(self.weights[order])
        points = (np.arange(n) + rng.random()) * (ends[-1] / n)
        chosen = np.searchsorted(ends, points, side="right").clip(max=n - 1)
        return rng.permutation(self.samples[order[chosen]])


@define(eq=False)
class BalancedStream:
    """Samples with each of C classes equally often.

    In the first s steps, for any s, the counts of two classes differ by at most one; so do their
    counts in each micro-batch. Within a class, each sample is drawn once before any is drawn again.

    classes: a stream for each class, of which only `slice` is used.
    others: samples without a class. They are drawn as often as by a shuffled stream.
    seed, name: what the order of the classes depends on, besides the step.
    """

    classes: list[ShuffledStream]
    others: ShuffledStream
    quota: int
    seed: int
    name: str

    @property
    def samples(self) -> np.ndarray:
        """(n,) int64, the samples of all classes and those without one."""
        streams = [*self.classes, self.others]
        return np.concatenate([stream.samples for stream in streams])

    def take(self, step: int, micro_batches: int) -> np.ndarray:
        """Return the samples of a step: (micro_batches, quota) int64."""
        n = micro_batches * self.quota
        rng = generator(self.seed, self.name, step)
        before, others = self._others_before(step * n), self._others_before((step + 1) * n)
        found = np.empty(n, dtype=np.int64)

        # Spread evenly over the micro-batches, beginning at a random place: else some micro-batch
        # would never get one.
        is_other = np.diff(np.arange(n + 1) * (others - before) // n) > 0
        is_other = np.roll(is_other, rng.integers(n))
        found[is_other] = self.others.slice(before, others - before)
        found[~is_other] = self._of_classes(step * n - before, (step + 1) * n - others, rng)
        return found.reshape(micro_batches, self.quota)

    def fewest(self, micro_batches: int) -> int:
        """Return the smallest number of samples with a class that a step can have."""
        n = micro_batches * self.quota
        return n - -(-n * len(self.others.samples) // len(self.samples))

    def _others_before(self, position: int) -> int:
        """Return how many of the first `position` draws have no class."""
        return position * len(self.others.samples) // len(self.samples)

    def _of_classes(self, start: int, end: int, rng: np.random.Generator) -> np.ndarray:
        """Return the samples with a class from draw `start` to draw `end` of all such draws.

        The draws go round the classes: draw i belongs to class i % C. Within a step they are put
        into another order, in which each micro-batch gets an equal number of each class.
        """
        count = len(self.classes)
        place = np.arange(count)
        first, last = (start - place - 1) // count + 1, (end - place - 1) // count + 1
        of_class = last - first
        table = np.zeros((count, int(of_class.max(initial=0))), dtype=np.int64)
        for number, stream in enumerate(self.classes):
            n = int(of_class[number])
            table[number, :n] = stream.slice(int(first[number]), n)

        # Classes that this step draws once more than others come first in each round.
        shuffled = rng.permutation(count)
        rounds = shuffled[np.argsort(-of_class[shuffled], kind="stable")]
        draw = np.arange(end - start)
        return table[rounds[draw % count], draw // count]
