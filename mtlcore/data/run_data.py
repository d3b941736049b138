"""The data of a run in memory: images, targets, splits and keys of all its datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from ..contracts import Annotation, Categories
from ..contracts.texts import Texts
from ..errors import MtlError
from .cache import CachedSamples, ImageCache


def _no_annotation(name: str, _: np.ndarray) -> Annotation:
    raise MtlError(f"this data has no annotation {name!r}")


def _no_keys(_: np.ndarray) -> Texts:
    raise MtlError("the samples of this data have no keys")


@frozen(eq=False)
class RunData:
    """N samples of all datasets, those of the opened splits.

    images: the image cache of the N samples.
    targets: task label -> (N, ...); zeros for samples without that label. An `AlignedTask` has none
        here: its targets come from the image cache.
    present: task label -> (N,) bool, samples with that label.
    dataset: (N,) int64, the position of the sample's dataset among the tables [data.<label>].
    attributes: name -> (N,) strings; "" if the sample's dataset has no such attribute.
    split: name -> sample indices, int64, ascending. Unreadable samples are in no split.
    fingerprint: a digest of all samples of all datasets, their annotations, their splits and the
        cache size. It is the same for all variants of an experiment.
    report: what was left out, one line each.
    aligned: label of each `AlignedTask` -> the name of its map or points in the image cache.
    keys: a function: n sample indices -> (n,) strings, the samples' keys in their datasets. Not a
        copy: a million keys take as much memory as everything else here.
    annotation: a function: (name, n sample indices) -> (n,) strings or (n, ...) floats. Its values
        are "" or NaN where the sample's dataset has no such annotation, or where the sample does
        not keep its labels.
    """

    images: ImageCache
    targets: dict[str, Tensor]
    present: dict[str, Tensor]
    dataset: np.ndarray
    attributes: dict[str, Categories]
    split: dict[str, np.ndarray]
    fingerprint: str
    report: tuple[str, ...] = ()
    aligned: Mapping[str, str] = field(factory=dict)
    keys: Callable[[np.ndarray], Texts] = _no_keys
    annotation: Callable[[str, np.ndarray], Annotation] = _no_annotation

    def __len__(self) -> int:
        return len(self.dataset)

    def targets_of(self, indices: np.ndarray, cached: CachedSamples) -> dict[str, Tensor]:
        """Return task label -> the targets (n, ...) of these samples, on the CPU.

        cached: the same samples, as `images.take(indices)` returns them.
        """
        index = torch.from_numpy(indices)
        found: dict[str, Tensor] = {}
        for label in self.present:
            if label in self.aligned:
                found[label] = cached.aligned[self.aligned[label]]
            else:
                found[label] = self.targets[label].index_select(0, index)
        return found

    @property
    def labeled(self) -> np.ndarray:
        """(N,) bool, samples with a label of at least one task."""
        return has_any_label(self.present, len(self))


def has_any_label(present: Mapping[str, Tensor], n: int) -> np.ndarray:
    """Return which of the n samples have a label of at least one task: (n,) bool."""
    labeled = np.zeros(n, dtype=bool)
    for of_task in present.values():
        labeled |= of_task.numpy()
    return labeled
