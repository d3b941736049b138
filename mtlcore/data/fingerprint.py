"""The fingerprint of the data of a run."""

from __future__ import annotations

import hashlib

from ..image_size import written
from .aligned import columns_of
from .column_bytes import column_bytes
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
        digest.update(index.label_digest().encode())
    return digest.hexdigest()
