"""A one-file plugin for tests: images with one bright quarter, which is the class.

A network learns it in a few steps.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from mtlcore import Dataset, Index, MtlError, Sample, hookimpl


@frozen
class Dots(Dataset):
    """n images of side x side pixels. The last fifth is the test split.

    bad: number of samples, the first ones, that can't be decoded.
    """

    n: int = 120
    side: int = 16
    bad: int = 0

    def index(self) -> Index:
        samples = np.arange(self.n)
        return Index(
            keys=np.char.add("dot", samples.astype(str)),
            annotations={"quarter": np.asarray(["a", "b", "c", "d"])[samples % 4]},
            split=np.where(samples < self.n * 4 // 5, "train", "test"),
        )

    def decode(self, index: Index, sample: int) -> Sample:
        if sample < self.bad:
            raise MtlError(f"dot{sample}: can't be read")
        rng = np.random.default_rng(sample)
        image = rng.integers(0, 120, (self.side, self.side, 3), dtype=np.uint8)
        half = self.side // 2
        y, x = divmod(sample % 4, 2)
        image[y * half : (y + 1) * half, x * half : (x + 1) * half] += 120
        return Sample(image)


@hookimpl
def mtl_components() -> list[type]:
    return [Dots]
