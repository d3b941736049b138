"""plugin_name: drawn images with a bright disc in one of four corners. It needs no files.

Replace this text with your own: where the files are, and which annotations the dataset has.
Shapes: N samples; images (H, W, 3) uint8, RGB.
"""

from __future__ import annotations

import numpy as np
from attrs import field, frozen
from attrs.validators import ge

from mtlcore import Dataset, Index, Sample, hookimpl

CORNERS = np.array(["top_left", "top_right", "bottom_left", "bottom_right"])


@frozen
class PluginName(Dataset):
    """Images with the annotation "corner": the place of the disc.

    images: number of samples. The last fifth is the test split.
    size: height and width of an image, in pixels.
    """

    name = "plugin_name"
    cites = "original"
    images: int = field(default=500, validator=ge(5))
    size: int = field(default=48, validator=ge(8))

    def index(self) -> Index:
        """List all samples with their labels, without decoding an image.

        A dataset of files uses their paths below its root as keys.
        """
        numbers = np.arange(self.images)
        return Index(
            keys=np.array([f"{number:06d}" for number in numbers]),
            annotations={"corner": CORNERS[numbers % 4]},
            split=np.where(numbers < self.images * 4 // 5, "train", "test"),
        )

    def decode(self, index: Index, i: int) -> Sample:
        """Return sample i, of (size, size, 3) uint8. The same i must always return the same."""
        draws = np.random.default_rng(i)
        image = draws.integers(0, 100, (self.size, self.size, 3), dtype=np.uint8)

        # Coordinates in [0, 1). The disc is near the center of its quarter of the image.
        y, x = np.mgrid[: self.size, : self.size] / self.size
        down, right = divmod(i % 4, 2)
        offset_x, offset_y = draws.uniform(0.2, 0.3, 2)
        from_center_x = x - offset_x - 0.5 * right
        from_center_y = y - offset_y - 0.5 * down
        disc = from_center_x**2 + from_center_y**2 < 0.02
        image[disc] += 120
        return Sample(image)


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
