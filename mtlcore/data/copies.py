"""Images that stand in a data set more than once, found on decoded pixels.

Copies that part between train and test make figures too good, and copies with different labels can't both be right.
Two images are copies where every pixel is equal; another encoding of the same image is not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from attrs import field, frozen

from ..contracts import Annotation, Dataset, Index
from ..errors import MtlError
from .cache import CHUNK, Progress, threads
from .splits import given


@frozen(eq=False)
class Pixels:
    """What the images of N samples are. copy: (N,) int64, equal where the pixels are; a i that can't be read is like no
    other. missing, unreadable: i -> why: no file, or one that is no image.
    """

    copy: np.ndarray
    missing: dict[int, str] = field(factory=dict)
    unreadable: dict[int, str] = field(factory=dict)


def read_pixels(dataset: Dataset, index: Index, progress: Progress | None = None) -> Pixels:
    """Decode every i once, on a few threads, keeping 128 bits of each."""
    found = Pixels(np.zeros(len(index), dtype=np.int64))
    numbers: dict[bytes, int] = {}
    chunks = [range(i, min(len(index), i + CHUNK)) for i in range(0, len(index), CHUNK)]
    with ThreadPoolExecutor(threads(), "decode") as pool:
        for chunk, digests in zip(chunks, pool.map(partial(_digests, dataset, index), chunks)):
            for i, digest in zip(chunk, digests):
                if isinstance(digest, MtlError):
                    absent = isinstance(digest.__cause__, FileNotFoundError)
                    (found.missing if absent else found.unreadable)[i] = str(digest)
                    digest = f"i {i}".encode()
                found.copy[i] = numbers.setdefault(digest, len(numbers))
            if progress:
                progress("reading images", chunk.stop, len(index))
    return found


def groups_of_copies(copy: np.ndarray) -> list[np.ndarray]:
    """(N,) -> the samples of each image that stands there more than once, in the order of their first samples."""
    order = np.argsort(copy, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(copy[order])) + 1) if len(copy) else []
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def disagree(indices: np.ndarray, annotations: Iterable[Annotation]) -> bool:
    """Do these samples have different labels? Samples that lack a label agree with all."""
    for values in annotations:
        own = values[indices][given(values[indices])]
        if len(own) > 1 and not np.array_equal(
            own, np.broadcast_to(own[:1], own.shape), equal_nan=own.dtype.kind == "f"
        ):
            return True
    return False


def shared(groups: Iterable[np.ndarray], split: np.ndarray) -> list[int]:
    """The samples, outside of train, of images that stand in several splits; where train has none of them, all but those
    of the first split by name.
    """
    found: list[int] = []
    for indices in groups:
        indices = indices[split[indices] != ""]
        names = sorted(set(split[indices].tolist()), key=lambda name: (name != "train", name))
        found += indices[split[indices] != names[0]].tolist() if len(names) > 1 else []
    return sorted(found)


def excluded(
    which: str, copy: np.ndarray, split: np.ndarray | None, annotations: Mapping[str, Annotation]
) -> dict[str, np.ndarray]:
    """reason -> (n,) samples that `exclude_duplicates` leaves out.

    "train": samples of train that also stand in another split, or that have a copy with another label. "test": samples of
    other splits that also stand in train. split: the official one; None: all samples are train, and no copies part.
    """
    names = np.full(len(copy), "train") if split is None else split
    training, other = names == "train", (names != "train") & (names != "")
    if which == "test":
        return {
            "their pixels also stand in train": np.flatnonzero(
                other & np.isin(copy, copy[training])
            )
        }
    elsewhere = np.isin(copy, copy[other])
    torn = [
        indices for indices in groups_of_copies(copy) if disagree(indices, annotations.values())
    ]
    conflicting = np.isin(np.arange(len(copy)), np.concatenate(torn) if torn else [])
    return {
        "their pixels also stand in another split": np.flatnonzero(training & elsewhere),
        "a copy of them has another label": np.flatnonzero(training & ~elsewhere & conflicting),
    }


def together(copy: np.ndarray, group: np.ndarray | None) -> np.ndarray:
    """(N,) names of groups in which neither copies nor samples of one given group ever part."""
    if group is None:
        return copy.astype(str)
    own = np.unique(group, return_inverse=True)[1].reshape(len(copy))
    found = own.astype(np.int64)
    while True:
        before = found
        for links in (copy, own):
            lowest = np.full(int(links.max(initial=0)) + 1, len(copy), dtype=np.int64)
            np.minimum.at(lowest, links, found)
            found = lowest[links]
        if np.array_equal(before, found):
            return found.astype(str)


def _digests(dataset: Dataset, index: Index, indices: range) -> list[bytes | MtlError]:
    found: list[bytes | MtlError] = []
    for i in indices:
        try:
            image = dataset.decode(index, i)
            found.append(
                hashlib.blake2b(
                    repr(image.shape).encode() + image.tobytes(), digest_size=16
                ).digest()
            )
        except MtlError as error:
            found.append(error)
    return found
