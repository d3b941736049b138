"""The samples of several datasets as one sequence, and their annotations joined by name."""

from __future__ import annotations

import numpy as np
from attrs import evolve, field, frozen

from ..contracts import Annotation, Categories, Column, Sample
from ..contracts.columns import describe
from ..contracts.texts import Texts
from ..errors import MtlError, nearest
from .aligned import Faults, decode_sample
from .indexed import IndexedDataset


@frozen(eq=False)
class JoinedSamples:
    """N samples of several datasets, dataset by dataset.

    datasets: where they come from.
    dataset: (N,) int, the position of the sample's dataset in `datasets`.
    local_index: (N,) int, the sample's index in its own dataset.
    split, labeled: (N,), as in `IndexedDataset`.
    faults: the checks of decoded maps and points, for `decoder`.
    """

    datasets: list[IndexedDataset]
    dataset: np.ndarray
    local_index: np.ndarray
    split: Categories
    labeled: np.ndarray
    faults: Faults = field(factory=dict)

    @classmethod
    def join(cls, datasets: list[IndexedDataset]) -> JoinedSamples:
        """Return all samples of these datasets. Raises MtlError if there is no dataset."""
        if not datasets:
            raise MtlError("the run has no data: add a table [data.<label>]")
        lengths = [len(d) for d in datasets]
        return cls(
            datasets=datasets,
            dataset=np.repeat(np.arange(len(datasets)), lengths),
            local_index=np.concatenate([np.arange(length) for length in lengths]),
            split=Categories.join([d.split for d in datasets]),
            labeled=np.concatenate([d.labeled for d in datasets]),
        )

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def keeps_labels(self) -> np.ndarray:
        """(N,) bool, samples whose labels may be used: all but training samples without labels."""
        return (self.split != "train") | self.labeled

    def subset(self, indices: np.ndarray) -> JoinedSamples:
        if len(indices) == len(self) and np.array_equal(indices, np.arange(len(self))):
            return self  # a copy for a million samples would take 21 MB
        return evolve(
            self,
            dataset=self.dataset[indices],
            local_index=self.local_index[indices],
            split=self.split[indices],
            labeled=self.labeled[indices],
        )

    def decoder(self) -> Decoder:
        return Decoder(self.datasets, self.dataset, self.local_index, self.faults)

    def keys(self) -> Texts:
        """Return the keys of the samples in their datasets, (N,) strings."""
        found: list[str] = []
        for number, local_index in zip(self.dataset.tolist(), self.local_index.tolist()):
            found.append(self.datasets[number].index.keys[local_index])
        return Texts.of(found)

    def attributes(self) -> dict[str, Categories]:
        """Return name -> (N,) strings; "" if the sample's dataset has no such attribute."""
        names: dict[str, None] = {}  # a dict keeps the order, a set would not
        for dataset in self.datasets:
            names |= dict.fromkeys(dataset.index.attributes)

        positions = self.positions()
        found: dict[str, Categories] = {}
        for name in names:
            columns: list[Categories] = []
            for dataset in self.datasets:
                missing = Categories.filled(len(dataset), "")
                columns.append(dataset.index.attributes.get(name, missing))
            found[name] = Categories.join(columns)[positions]
        return found

    def positions(self) -> np.ndarray:
        """Return the positions of the samples among all samples of the datasets, (N,) int64."""
        if len(self.datasets) == 1:
            return self.local_index
        starts = np.cumsum([0, *map(len, self.datasets)])[:-1]
        return np.asarray(starts[self.dataset] + self.local_index)


@frozen(eq=False)
class Decoder:
    """Decodes a sample with its own dataset: sample index -> its image, maps and points.

    Raises MtlError if they can't be read, if they differ from the dataset's index, or if a task
    can't use them.
    """

    datasets: list[IndexedDataset]
    dataset: np.ndarray
    local_index: np.ndarray
    faults: Faults = field(factory=dict)

    def __call__(self, sample: int) -> Sample:
        dataset = self.datasets[self.dataset[sample]]
        i = int(self.local_index[sample])
        return decode_sample(dataset.entry.component, dataset.index, i, self.faults)


def annotation_names(datasets: list[IndexedDataset]) -> set[str]:
    """Return the names of the annotations of all these datasets."""
    names: set[str] = set()
    for dataset in datasets:
        names |= set(dataset.index.annotations)
    return names


def joined_annotation(name: str, datasets: list[IndexedDataset]) -> tuple[Column, np.ndarray]:
    """Join the values of all datasets that have this annotation.

    Returns the values (n, ...), and which of all N samples they belong to, (N,) bool.
    Raises MtlError if the datasets disagree on the type or the shape of a value.
    """
    having = [d for d in datasets if d.has_annotation(name)]
    values = [d.index.annotations[name] for d in having]
    numbers = [v for v in values if not isinstance(v, Categories)]
    names = [v for v in values if isinstance(v, Categories)]
    if (names and numbers) or len({v.shape[1:] for v in numbers}) > 1:
        kinds = [f"data.{d.label}: {describe(v)}" for d, v in zip(having, values)]
        raise MtlError(
            f"the datasets disagree on what the annotation {name!r} is: {', '.join(kinds)}"
        )
    has_value = np.concatenate([np.full(len(d), d.has_annotation(name)) for d in datasets])
    if names:
        return Categories.join(names), has_value
    return np.concatenate(numbers), has_value


def annotation_of(name: str, samples: JoinedSamples) -> Annotation:
    """Return an annotation of these N samples, (N, ...), as a numpy array.

    A value is missing (NaN or "") if the sample's dataset has no such annotation, or if the sample
    does not keep its labels. Raises MtlError if no dataset has the annotation.
    """
    known = annotation_names(samples.datasets)
    if name not in known:
        raise MtlError(f"no dataset has the annotation {name!r}; {nearest(name, known)}")
    values, has_value = joined_annotation(name, samples.datasets)
    positions = samples.positions()
    is_given = has_value[positions] & samples.keeps_labels
    position_of_value = np.cumsum(has_value) - 1
    given = np.asarray(values[position_of_value[positions[is_given]]])

    shape = (len(samples), *given.shape[1:])
    if isinstance(values, Categories):
        result = np.full(shape, "", dtype=given.dtype)
    else:
        result = np.full(shape, np.nan, dtype=float)
    result[is_given] = given
    return result
