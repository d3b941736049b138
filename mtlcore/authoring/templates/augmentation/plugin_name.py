"""plugin_name: resize the whole image to the input size, and mirror some of the images.

Replace this text with your own: which operations, in which ranges, and the paper.
Shapes: B raw images (B, 3, H0, W0) uint8 -> a view (B, 3, H, W) float in [0, 1].
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor

from mtlcore import Augmentation, Geometry, Rng, View, hookimpl


@frozen
class PluginName(Augmentation):
    """Resize all images and mirror some of them.

    mirrored: probability that an image is mirrored, in [0, 1].
    """

    name = "plugin_name"
    cites = "original"
    mirrored: float = field(default=0.5, validator=and_(ge(0.0), le(1.0)))

    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        """Move the pixels with one matrix per image, and one interpolation.

        The view keeps the geometry, so that labels such as landmarks can follow the pixels.
        """
        # Draw from `rng` alone: its draws do not depend on the number of processes.
        mirror = rng.rand(len(images)) < self.mirrored
        geometry = Geometry.affine(resize_matrices(images, size, mirror), size)
        return View(geometry.warp(images / 255, "bilinear").clamp(0.0, 1.0), geometry)


def resize_matrices(images: Tensor, size: tuple[int, int], mirror: Tensor) -> Tensor:
    """(B, 3, 3): raw pixel coordinates -> those of the view.

    size: (H, W) of the view.
    mirror: (B,) bool: reverse the x axis.
    """
    height, width = size
    zoom_y = height / images.shape[-2]
    zoom_x = width / images.shape[-1]
    plain = torch.tensor([[zoom_x, 0.0, 0.0], [0.0, zoom_y, 0.0], [0.0, 0.0, 1.0]])
    mirrored = torch.tensor([[-zoom_x, 0.0, width], [0.0, zoom_y, 0.0], [0.0, 0.0, 1.0]])
    return torch.where(
        mirror[:, None, None],
        mirrored.to(images.device, non_blocking=True),
        plain.to(images.device, non_blocking=True),
    )


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
