"""plugin_name: drawn images with a bright disc in one of four corners; no file is needed.

Replace this by your own data: where it lies, what is known of each row before its image is read, and how the image is read.
"""

from __future__ import annotations

import numpy as np
from attrs import field, frozen
from attrs.validators import ge

from mtlcore import Dataset, Index, hookimpl

CORNERS = np.array(["top_left", "top_right", "bottom_left", "bottom_right"])


@frozen
class PluginName(Dataset):
    """Annotation "corner": where the disc is.

    images: how many there are; the last fifth is the test split. side: in pixels.
    """

    name = "plugin_name"
    cites = "original"
    images: int = field(default=500, validator=ge(5))
    side: int = field(default=48, validator=ge(8))

    def index(self) -> Index:
        """Every row, without drawing an image. A dataset of files would name their paths as keys."""
        rows = np.arange(self.images)
        return Index(
            keys=np.array([f"{row:06d}" for row in rows]),
            annotations={"corner": CORNERS[rows % 4]},
            split=np.where(rows < self.images * 4 // 5, "train", "test"),
        )

    def decode(self, index: Index, row: int) -> np.ndarray:
        """-> (side, side, 3) uint8. The same row is the same image, whoever asks and when."""
        draws = np.random.default_rng(row)
        image = draws.integers(0, 100, (self.side, self.side, 3), dtype=np.uint8)
        down, right = divmod(row % 4, 2)
        y, x = np.mgrid[: self.side, : self.side] / self.side
        off_x, off_y = draws.uniform(0.2, 0.3, 2)
        disc = (x - off_x - 0.5 * right) ** 2 + (y - off_y - 0.5 * down) ** 2 < 0.02
        image[disc] += 120
        return image


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
