"""Surface normals: one direction for each pixel.

The loss is 1 - the cosine of the angle between the predicted and the true direction, as in Eigen &
Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale
Convolutional Architecture", ICCV 2015, arXiv:1411.4734.

Shapes: B samples, (H, W) pixels. A normal is (x, y, z); x points to the right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor

from ...contracts import AlignedTask, BuildContext, Head
from ...geometry import Geometry, orthogonal
from ...rng import Rng
from .decoder import STRIDE, WIDTH, decoder_of, require_own_decoder
from .draw_maps import blended
from .head import DenseHead
from .losses import Normalize

if TYPE_CHECKING:
    from torchmetrics import Metric

SHORTEST = 0.1  # of a vector that is a label; resized maps hold no shorter ones


@frozen
class SurfaceNormals(AlignedTask):
    """A direction for each pixel, which turns with the image.

    reads: the map of normals, floats with 3 channels (default: the task's label). x points to the
    right. A vector of zeros or with a NaN is missing.
    y: where the second number points: "down", or "up" as in many datasets. A rotated image
    needs it.
    normalize: "sample": the loss of a sample is the mean over its valid pixels. "batch": the loss
    is the mean over all valid pixels of the batch (as in LibMTL).
    decoder: label of a task above this one whose decoder it shares (default: its own).
    width: channels of its own decoder.
    stride: its own decoder leaves out maps finer than 1 / stride of the image.
    """

    reads: str = ""
    y: Literal["down", "up"] = "down"
    normalize: Normalize = "sample"
    decoder: str = ""
    width: int = field(default=WIDTH, validator=and_(ge(1), le(2048)))
    stride: int = field(default=STRIDE, validator=and_(ge(1), le(64)))

    def __attrs_post_init__(self) -> None:
        require_own_decoder(self.decoder, self.width, self.stride)

    def fault(self, label: np.ndarray, size: tuple[int, int]) -> str | None:
        if label.ndim != 3 or label.shape[2] != 3 or label.dtype.kind != "f":
            return f"a map {label.shape} {label.dtype}; surface_normals reads floats (H, W, 3)"
        return None

    def examples(self, n: int, size: tuple[int, int], rng: Rng) -> Tensor:
        """Draw n maps (n, 3, h, w) for the conformance kit: blocks of unit vectors."""
        blocks = F.normalize(rng.randn(n, 3, 4, 4), dim=1)
        blocks[:, :, 0, 0] = 0
        return F.interpolate(blocks, size)

    def move(self, target: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Move the pixels, and turn and mirror the directions with the image.

        After tiles were shuffled or the image was bent, directions are unknown: the share is 0.
        """
        rotation, _ = orthogonal(geometry.matrix.to(target.dtype))
        moved = geometry.warp(target)
        up = -1.0 if self.y == "up" else 1.0
        x, y, z = moved.unbind(1)
        sides = torch.stack([x, up * y], 1)
        turned_x, turned_y = torch.einsum("bij,bjhw->bihw", rotation, sides).unbind(1)
        turned = torch.stack([turned_x, up * turned_y, z], 1)
        share = torch.full((target.shape[0],), float(not geometry.shuffled), device=target.device)
        if geometry.bend is not None:
            share = share * (1 - geometry.bend.samples.float())
        return turned, share

    def build(self, context: BuildContext) -> Head:
        kind = BatchSurfaceNormalsHead if self.normalize == "batch" else SurfaceNormalsHead
        return kind(context, self)

    def decode(self, output: Tensor) -> Tensor:
        """Convert vectors (B, 3, H, W) to unit vectors."""
        return F.normalize(output.float(), dim=1)

    def as_answer(self, target: Tensor) -> Tensor:
        """Return unit vectors (B, 3, H, W); zeros where they are missing."""
        return F.normalize(torch.where(is_direction(target)[:, None], target, 0), dim=1)

    def mirror_back(self, decoded: Tensor, size: tuple[int, int]) -> Tensor:
        """Mirror the map, and the directions: x changes its sign."""
        sign = decoded.new_tensor([-1.0, 1.0, 1.0])[:, None, None]
        return decoded.flip(-1) * sign

    def average(self, decoded: Tensor, mirrored: Tensor) -> Tensor:
        """Return the mean directions, as unit vectors."""
        return F.normalize(decoded + mirrored, dim=1)

    def metrics(self) -> dict[str, Metric]:
        """Return the mean and median angle in degrees, and the shares of pixels within angles."""
        from .map_metrics import MeanAngle, MedianAngle, WithinAngle

        return {
            "mean_deg": MeanAngle(),
            "median_deg": MedianAngle(),
            "within_11.25": WithinAngle(11.25),
            "within_22.5": WithinAngle(22.5),
            "within_30": WithinAngle(30.0),
        }

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """Color an image (3, H, W) by direction: RGB = (x, y, z). decoded: (3, H, W)."""
        known = is_direction(decoded[None])[0]
        return blended(image, (decoded.float() + 1) / 2, known)


class SurfaceNormalsHead(DenseHead):
    """The decoder and ONE 1 x 1 convolution, enlarged: features -> vectors (B, 3, H, W)."""

    def __init__(self, context: BuildContext, task: SurfaceNormals) -> None:
        decoder = decoder_of(context, task.width, task.stride, task.decoder)
        super().__init__(decoder, 3)

    def pixel_losses(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 - cosine of each pixel, and which pixels have a direction, (B, H, W)."""
        valid = is_direction(target)
        known = torch.where(valid[:, None], target, 0)
        return 1 - F.cosine_similarity(output.float(), known, dim=1, eps=1e-6), valid

    def ideal(self, target: Tensor) -> Tensor:
        """Return the unit vectors, zeros where they are missing."""
        return F.normalize(torch.where(is_direction(target)[:, None], target, 0), dim=1)


class BatchSurfaceNormalsHead(SurfaceNormalsHead):
    """The same with the mean over all valid pixels of the batch."""

    coupled = True


def is_direction(target: Tensor) -> Tensor:
    """Return which pixels (B, H, W) of vectors (B, 3, H, W) are labels, bool."""
    return target.square().sum(1) > SHORTEST**2  # False for NaN
