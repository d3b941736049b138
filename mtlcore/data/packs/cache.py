"""The image cache of a run whose datasets are packs, or packs and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from attrs import frozen

from ...contracts import Sample
from ...errors import MtlError
from ..aligned import LabelColumn
from ..cache import CachedSamples, ImageCache, OnDemandImageCache, Progress, Unreadable, open_images
from ..joined import JoinedSamples
from .reader import Pack, PackIndex

Check = Callable[[Unreadable], None]


@frozen(eq=False)
class PackCache:
    """n samples of a pack.

    sample: (n,) int64, their positions in the pack.
    on_demand: the same samples, decoded whenever they are taken.
    is_copy: whether taking them is a copy: raw images of the run's size, without maps and points.
    """

    pack: Pack
    sample: np.ndarray
    on_demand: OnDemandImageCache
    is_copy: bool

    @property
    def size(self) -> tuple[int, int]:
        return self.on_demand.size

    def take(self, indices: np.ndarray) -> CachedSamples:
        samples = self.sample[indices]
        self.pack.prepare(samples)
        if not self.is_copy:
            return self.on_demand.take(indices)
        images = torch.empty(len(samples), 3, *self.size, dtype=torch.uint8)
        length = 3 * self.size[0] * self.size[1]
        self.pack.copy_into(samples, images.numpy().reshape(-1).data, length)
        return CachedSamples(images, {})


@frozen(eq=False)
class JoinedImageCache:
    """N samples in several caches of one size.

    parts: the caches. part: (N,) int64, the cache of each sample. position: (N,) int64, its index
    there.
    """

    parts: Sequence[ImageCache]
    part: np.ndarray
    position: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.parts[0].size

    def take(self, indices: np.ndarray) -> CachedSamples:
        images = torch.empty(len(indices), 3, *self.size, dtype=torch.uint8)
        aligned: dict[str, torch.Tensor] = {}
        for number, part in enumerate(self.parts):
            of_part = np.flatnonzero(self.part[indices] == number)
            if not len(of_part) and aligned:
                continue
            taken = part.take(self.position[indices[of_part]])
            rows = torch.from_numpy(of_part)
            images.index_copy_(0, rows, taken.images)
            for name, labels in taken.aligned.items():
                shape = (len(indices), *labels.shape[1:])
                found = aligned.setdefault(name, labels.new_zeros(shape))
                found.index_copy_(0, rows, labels)
        return CachedSamples(images, aligned)


def open_joined(
    samples: JoinedSamples,
    size: tuple[int, int],
    progress: Progress | None,
    check: Callable[[JoinedSamples, Unreadable], None],
    memory: int | None,
    columns: Mapping[str, LabelColumn],
) -> tuple[ImageCache, Unreadable]:
    """Return the cache of these samples, and the unreadable ones.

    The images of packs stay in their files, and none of them is decoded here. The others are opened
    by `open_images`, which explains the other arguments.

    check: called with samples, and the unreadable ones among them; may raise MtlError.
    """
    packs = [_pack_of(dataset.index) for dataset in samples.datasets]
    is_packed = np.array([pack is not None for pack in packs])
    parts: list[ImageCache] = []
    unreadable: Unreadable = {}
    rest = np.flatnonzero(~is_packed[samples.dataset])
    groups = [np.flatnonzero(samples.dataset == number) for number in np.flatnonzero(is_packed)]
    groups = [indices for indices in (rest, *groups) if len(indices)]
    for indices in groups:
        own = samples.subset(indices)
        own_columns = {name: column.subset(indices) for name, column in columns.items()}
        pack = packs[int(own.dataset[0])]
        if pack is None:
            cache, bad = open_images(
                own.decoder(), len(own), size, progress, partial(check, own), memory, own_columns
            )
        else:
            cache, bad = _of_pack(pack, own, size, own_columns)
            check(own, bad)
        unreadable |= {int(indices[i]): message for i, message in bad.items()}
        parts.append(cache)
    if len(parts) == 1:
        return parts[0], unreadable
    part = np.zeros(len(samples), np.int64)
    position = np.zeros(len(samples), np.int64)
    for number, indices in enumerate(groups):
        part[indices], position[indices] = number, np.arange(len(indices))
    return JoinedImageCache(parts, part, position), unreadable


def _of_pack(
    pack: Pack, samples: JoinedSamples, size: tuple[int, int], columns: Mapping[str, LabelColumn]
) -> tuple[ImageCache, Unreadable]:
    """Return the cache of samples of one pack, and those that could not be read at pack time."""
    bad = pack.records.unreadable
    unreadable: Unreadable = {}
    if bad:
        for i in np.flatnonzero(np.isin(samples.local_index, list(bad))).tolist():
            unreadable[i] = bad[int(samples.local_index[i])]
    is_copy = pack.is_plain and pack.size == size and not columns
    on_demand = OnDemandImageCache(samples.decoder(), size, columns)
    return PackCache(pack, samples.local_index, on_demand, is_copy), unreadable


def _pack_of(index: object) -> Pack | None:
    return index.pack if isinstance(index, PackIndex) else None


def size_probe(samples: JoinedSamples) -> Callable[[int], Sample]:
    """Return a decoder to find out image sizes: it decodes no image of a pack."""
    decode = samples.decoder()
    packs = [_pack_of(dataset.index) for dataset in samples.datasets]

    def probe(sample: int) -> Sample:
        pack = packs[int(samples.dataset[sample])]
        if pack is None:
            return decode(sample)
        if int(samples.local_index[sample]) in pack.records.unreadable:
            raise MtlError("unreadable")
        return Sample(np.broadcast_to(np.uint8(0), (*pack.size, 3)))

    return probe
