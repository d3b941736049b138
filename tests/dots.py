"""A one-file plugin for the tests: images with one bright quarter, which is the class; learned in a few steps."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from mtlcore import Dataset, Index, MtlError, hookimpl


@frozen
class Dots(Dataset):
    """n images of `side` pixels; the last fifth is the test split. bad: samples whose image can't be read."""

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

    def decode(self, index: Index, sample: int) -> np.ndarray:
        if sample < self.bad:
            raise MtlError(f"dot{sample}: can't be read")
        image = np.random.default_rng(sample).integers(
            0, 120, (self.side, self.side, 3), dtype=np.uint8
        )
        half = self.side // 2
        y, x = divmod(sample % 4, 2)
        image[y * half : (y + 1) * half, x * half : (x + 1) * half] += 120
        return image


@hookimpl
def mtl_components() -> list[type]:
    return [Dots]
