"""The fingerprint of the data of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from ..contracts import Column
from ..contracts.columns import is_numbers
from ..contracts.texts import CHUNK, Texts
from ..image_size import written
from .aligned import columns_of
from .indexed import IndexedDataset


def fingerprint_of(datasets: list[IndexedDataset], size: tuple[int, int]) -> str:
    """Return a 128-bit digest of samples, annotations, splits and the cache size, in hex."""
    digest = hashlib.blake2b(repr(written(size)).encode(), digest_size=16)
    for dataset in datasets:
        index = dataset.index
        digest.update(dataset.label.encode())
        annotations = [index.annotations[name] for name in sorted(index.annotations)]
        for column in (index.keys, dataset.split, dataset.labeled, *annotations):
            for content in column_bytes(column):
                digest.update(content)
        for name, of_pixels in sorted(columns_of(index).items()):
            digest.update(name.encode())
            digest.update(of_pixels.present.tobytes())
    return digest.hexdigest()


def column_bytes(column: Column | Texts) -> Iterator[bytes]:
    """Yield bytes that do not depend on the byte order, or on how strings are stored."""
    if is_numbers(column):
        yield np.ascontiguousarray(column, dtype="<f8").tobytes()
        return
    for start in range(0, len(column), CHUNK):
        if start:
            yield b"\0"
        joined = "\0".join(column[start : start + CHUNK].tolist())
        yield joined.encode(errors="surrogatepass")
