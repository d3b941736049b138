"""plugin_name: the whole image, mirrored or not, in the size that the encoder reads.

Replace this by your own augmentation: which operations, in which ranges, and the paper they come from.
Shapes: B raw images (B, 3, H0, W0) uint8 -> a view (B, 3, H, W) in [0, 1].
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor

from mtlcore import Augmentation, Geometry, Rng, View, hookimpl


@frozen
class PluginName(Augmentation):
    """Resized, and mirrored in a share of the images.

    mirrored: that share.
    """

    name = "plugin_name"
    cites = "original"
    mirrored: float = field(default=0.5, validator=and_(ge(0.0), le(1.0)))

    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        """One interpolation by one matrix an image, which labels follow too."""
        mirror = rng.rand(len(images)) < self.mirrored
        geometry = Geometry.affine(resized(images, size, mirror), size)
        return View(geometry.warp(images / 255, "bilinear").clamp(0.0, 1.0), geometry)


def resized(images: Tensor, size: tuple[int, int], mirror: Tensor) -> Tensor:
    """(B, 3, 3), raw pixels -> those of the view; x runs backwards where `mirror` (B,) says so."""
    zoom_y, zoom_x = size[0] / images.shape[-2], size[1] / images.shape[-1]
    plain = torch.tensor([[zoom_x, 0.0, 0.0], [0.0, zoom_y, 0.0], [0.0, 0.0, 1.0]])
    turned = torch.tensor([[-zoom_x, 0.0, size[1]], [0.0, zoom_y, 0.0], [0.0, 0.0, 1.0]])
    plain, turned = (matrix.to(images.device, non_blocking=True) for matrix in (plain, turned))
    return torch.where(mirror[:, None, None], turned, plain)


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
