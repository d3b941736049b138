"""Find images that occur more than once in a dataset, by comparing their decoded pixels.

Copies of one image in both train and test make metrics too good. Copies with different labels
can't both be right. Two images are copies if every pixel is equal; another encoding of the same
photo (JPEG quality, size) is not recognized.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from attrs import field, frozen

from ..contracts import Categories, Column, Dataset, Index
from ..contracts.texts import Texts
from ..errors import MtlError
from .aligned import Faults, decode_sample
from .cache import CHUNK, Progress, threads
from .splits import is_labeled


@frozen(eq=False)
class Pixels:
    """The identity of the images of N samples.

    copy: (N,) int64, equal for samples with equal pixels. An unreadable sample has no copies.
    missing: sample index -> the error message; its file does not exist.
    unreadable: sample index -> the error message; its file is not an image.
    """

    copy: np.ndarray
    missing: dict[int, str] = field(factory=dict)
    unreadable: dict[int, str] = field(factory=dict)


def read_pixels(
    dataset: Dataset,
    index: Index,
    progress: Progress | None = None,
    faults: Faults | None = None,
) -> Pixels:
    """Decode every sample once, with a few threads, and compare 128-bit digests of the pixels.

    faults: checks of maps and points. A sample that fails one counts as unreadable.
    """
    n = len(index)
    found = Pixels(np.zeros(n, dtype=np.int64))
    numbers: dict[bytes, int] = {}
    chunks = [range(start, min(n, start + CHUNK)) for start in range(0, n, CHUNK)]

    with ThreadPoolExecutor(threads(), "decode") as pool:
        results = pool.map(partial(_digests, dataset, index, faults), chunks)
        for chunk, digests in zip(chunks, results):
            for i, digest in zip(chunk, digests):
                if isinstance(digest, MtlError):
                    is_missing = isinstance(digest.__cause__, FileNotFoundError)
                    problems = found.missing if is_missing else found.unreadable
                    problems[i] = str(digest)
                    digest = f"i {i}".encode()  # differs from every other sample
                found.copy[i] = numbers.setdefault(digest, len(numbers))
            if progress:
                progress("reading images", chunk.stop, n)
    return found


def groups_of_copies(copy: np.ndarray) -> list[np.ndarray]:
    """Return the sample indices of every image that occurs more than once.

    copy: (N,), as in `Pixels`. The groups are sorted by their first sample.
    """
    if not len(copy):
        return []
    order = np.argsort(copy, kind="stable")
    starts = np.flatnonzero(np.diff(copy[order])) + 1
    groups = [group for group in np.split(order, starts) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def disagree(indices: np.ndarray, annotations: Iterable[Column]) -> bool:
    """Return whether these samples have different labels. A missing label agrees with any."""
    for annotation in annotations:
        values = annotation[indices]
        values = values[is_labeled(values)]
        if isinstance(values, Categories):
            if len(values.used()) > 1:
                return True
            continue
        if len(values) < 2:
            continue
        first = np.broadcast_to(values[:1], values.shape)
        if not np.array_equal(values, first, equal_nan=values.dtype.kind == "f"):
            return True
    return False


def shared(groups: Iterable[np.ndarray], split: Categories) -> list[int]:
    """Return the samples outside of train whose image also occurs in another split.

    groups: sample indices of each group of copies. split: (N,) names.
    If no copy of an image is in train, the samples of its first split by name are left out.
    """
    found: list[int] = []
    for group in groups:
        indices = group[split[group] != ""]
        names = sorted(set(split[indices].tolist()), key=lambda name: (name != "train", name))
        if len(names) > 1:
            found += indices[split[indices] != names[0]].tolist()
    return sorted(found)


def excluded(
    which: str,
    copy: np.ndarray,
    split: Categories | None,
    annotations: Mapping[str, Column],
) -> dict[str, np.ndarray]:
    """Return the samples that `exclude_duplicates = which` removes: reason -> (n,) indices.

    "train" removes training samples with a copy in another split, or with a copy that has another
    label. "test" removes samples of other splits with a copy in train.

    split: (N,) official names. None: all samples are in train; `together` will later keep copies
    in one split.
    """
    names = Categories.filled(len(copy), "train") if split is None else split
    is_train = names == "train"
    is_other = ~names.isin("train", "")

    if which == "test":
        has_copy_in_train = np.isin(copy, copy[is_train])
        leaks = np.flatnonzero(is_other & has_copy_in_train)
        return {"an identical image is in train": leaks}

    has_copy_elsewhere = np.isin(copy, copy[is_other])
    conflicts = [
        indices for indices in groups_of_copies(copy) if disagree(indices, annotations.values())
    ]
    has_conflict = np.zeros(len(copy), dtype=bool)
    for indices in conflicts:
        has_conflict[indices] = True
    return {
        "an identical image is in another split": np.flatnonzero(is_train & has_copy_elsewhere),
        "an identical image has another label": np.flatnonzero(
            is_train & ~has_copy_elsewhere & has_conflict
        ),
    }


def together(copy: np.ndarray, group: Categories | None, order: np.ndarray) -> Categories | None:
    """Return groups, (N,) strings, that contain whole sets of copies and whole groups of `group`.

    These are the connected components of the graph that links the copies of an image, and the
    samples of a group. Without any copy, they are `group`.

    order: (N,) positions of the samples, from `numbering_order`.
    """
    if len(np.unique(copy)) == len(copy):
        return group
    if group is None:
        return Categories.of(_numbered(copy, order).astype(str))
    own = group.unique()[1]
    component = own
    # Both links pass on the lowest number until nothing changes.
    while True:
        before = component
        for links in (copy, own):
            lowest = np.full(int(links.max(initial=0)) + 1, len(copy), dtype=np.int64)
            np.minimum.at(lowest, links, component)
            component = lowest[links]
        if np.array_equal(before, component):
            return Categories.of(component.astype(str))


def numbering_order(keys: Texts, split: Categories | None) -> np.ndarray:
    """Return the positions of the samples by key, (N,), with those of train first.

    A cut depends on the numbers of the groups. So they must depend neither on the order in which
    the samples are listed, nor on samples of other splits.
    """
    order = keys.argsort()
    if split is None:
        return order
    return order[np.argsort(split[order] != "train", kind="stable")]


def _numbered(copy: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Number the images by their first sample in this order, (N,) int64. The first one is 0."""
    _, first, image = np.unique(copy[order], return_index=True, return_inverse=True)
    found = np.empty(len(copy), dtype=np.int64)
    found[order] = np.argsort(np.argsort(first))[image]
    return found


def _digests(
    dataset: Dataset,
    index: Index,
    faults: Faults | None,
    indices: range,
) -> list[bytes | MtlError]:
    """Decode these samples; return a digest of the shape and the pixels, or the error, of each."""
    found: list[bytes | MtlError] = []
    for i in indices:
        try:
            image = decode_sample(dataset, index, i, faults).image
        except MtlError as error:
            found.append(error)
            continue
        content = repr(image.shape).encode() + image.tobytes()
        found.append(hashlib.blake2b(content, digest_size=16).digest())
    return found
