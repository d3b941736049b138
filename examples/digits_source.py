"""A dataset plugin in one file: scikit-learn's 1,797 handwritten digits, 8 x 8 gray images.

Source: UCI, Alpaydin & Kaynak 1998. The images come with scikit-learn; nothing is downloaded.

    plugins = ["digits_source.py"]                           # in the configuration
    mtl train ... --plugin examples/digits_source.py         # or on the command line

The dataset has one annotation, "digit", with the names "0" to "9".
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from attrs import frozen

from mtlcore import Dataset, Index, MtlError, Sample, hookimpl


@functools.cache
def bundled() -> Any:
    """Load the data: `.images` (1797, 8, 8) float in [0, 16], `.target` (1797,) int."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MtlError("digits: scikit-learn is not installed: pip install scikit-learn") from error
    return load_digits()


@frozen
class Digits(Dataset):
    """Handwritten digits. They have no official split: the run draws one with its seed."""

    cites = "Alpaydin & Kaynak 1998, UCI Machine Learning Repository, doi:10.24432/C50P49"

    def index(self) -> Index:
        digits = bundled().target.astype(str)
        return Index(keys=np.arange(len(digits)).astype(str), annotations={"digit": digits})

    def decode(self, index: Index, i: int) -> Sample:
        gray = (bundled().images[i] * (255 / 16)).round().astype(np.uint8)
        return Sample(np.repeat(gray[:, :, None], 3, axis=2))


@hookimpl
def mtl_components() -> list[type]:
    return [Digits]
