"""What `mtl data pack` is asked to write, and the plan that follows from it."""

from __future__ import annotations

import numpy as np
from attrs import evolve, frozen

from ...config.experiment import Experiment
from ...contracts import Dataset, Index, MapColumn
from ...errors import MtlError
from ..aligned import decode_sample
from ..dataset import cache_size_of
from ..indexed import IndexedDataset, open_dataset
from ..joined import JoinedSamples
from .manifest import Plan
from .records import Coding, packed_dtype
from .source import source_of

PROBES = 64  # samples that are encoded to estimate the length of a record
MB = 10**6  # bytes


@frozen
class PackOptions:
    """What `mtl data pack` may choose.

    size: (h, w) of the images in pixels (default: the cache size of the experiment).
    quality: of JPEG, 1 to 100; None for raw pixels.
    shard_mb: about the size of a shard, in 10^6 bytes.
    jobs: threads (default: one for each core, at most eight).
    part: (i, n): write every n-th shard from the i-th on; i is 1 to n.
    """

    size: tuple[int, int] | None = None
    quality: int | None = 95
    shard_mb: float = 256
    jobs: int | None = None
    part: tuple[int, int] = (1, 1)


def coding_of(index: Index, size: tuple[int, int], quality: int | None) -> Coding:
    """Return how the samples of an index are packed. Maps of floats become float32."""
    maps: dict[str, MapColumn] = {}
    for name, column in index.maps.items():
        maps[name] = evolve(column, dtype=packed_dtype(column.dtype))
    return Coding(size, quality, maps, index.points)


def plan_for(
    experiment: Experiment, indexed: IndexedDataset, options: PackOptions
) -> tuple[Plan, Coding]:
    """Return the plan of a pack. Some images are decoded to find their size and length."""
    dataset, index = indexed.entry.component, indexed.index
    size = options.size or experiment.input.cache_size
    if size is None:
        # As a run on all datasets of the experiment finds it.
        datasets: dict[str, IndexedDataset] = {indexed.label: indexed}
        for label in experiment.data.keys() - datasets.keys():
            datasets[label] = open_dataset(experiment, label)
        joined = JoinedSamples.join([datasets[label] for label in experiment.data])
        size = cache_size_of(joined, experiment)
    coding = coding_of(index, size, options.quality)
    length = _expected_length(dataset, index, coding)
    plan = Plan(
        samples=len(index),
        size=size,
        quality=options.quality,
        per_shard=max(1, int(options.shard_mb * MB / length)),
        maps={name: (column.dtype.name, column.channels) for name, column in coding.maps.items()},
        points={name: column.count for name, column in index.points.items()},
        skipped=index.skipped.names,
        notes=index.skipped.notes,
        source=source_of(dataset, index, tuple(map(str, experiment.plugins))),
    )
    return plan, coding


def _expected_length(dataset: Dataset, index: Index, coding: Coding) -> float:
    """Return the mean length of a record in bytes, from a few evenly spaced samples."""
    raw = float(3 * coding.size[0] * coding.size[1])
    if coding.quality is None and not coding.has_labels:
        return raw
    lengths: list[int] = []
    spaced = np.linspace(0, len(index) - 1, min(len(index), PROBES))
    for i in np.unique(spaced.round().astype(np.int64)).tolist():
        try:
            lengths.append(len(coding.encode(decode_sample(dataset, index, i))))
        except MtlError:  # reported when its shard is written
            continue
    return float(np.mean(lengths)) if lengths else raw
