"""What several pretext tasks share: pairs of views, patches, grid masks, errors of hidden pixels.

Shapes: B images (B, C, H, W). A mask (B, 1, H, W) bool is true where an image is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mtlcore import Features, Head, MtlError, gather

if TYPE_CHECKING:
    from torchmetrics import Metric

GRAY = 0.5  # the color of hidden pixels
STRIPES = (0.75, 0.95)  # the colors of empty places in drawings: a cutout is gray, too
SURE = 20.0  # a logit that gives its class a probability near 1

Pair = tuple[Tensor, Tensor]


def empty_place(images: Tensor) -> Tensor:
    """Return (H, W): diagonal stripes, which mark "no tile" in a drawing of images (..., H, W)."""
    height, width = images.shape[-2:]
    diagonal = torch.arange(height)[:, None] + torch.arange(width)
    period = max(min(height, width) // 4, 2)
    dark, light = STRIPES
    return torch.where(diagonal % period < period / 2, dark, light).to(images)


# ------------------------------------------------------------------------------------------ pairs


def gather_pair(a: Features, b: Features) -> Pair:
    """Pooled features (B, D) of two views -> the same of all ranks, in fp32."""
    # Stacked, so that both views need one collective.
    both = gather(torch.stack([a.pooled, b.pooled], 1).float())
    first, second = both.unbind(1)
    return first, second


def require_two_samples(samples: int, name: str, reason: str) -> None:
    """Raise MtlError if a micro-batch has fewer than 2 samples."""
    if samples < 2:
        raise MtlError(
            f"{name} needs at least 2 samples in a micro-batch ({reason}), got {samples}: "
            "raise input.batch_size"
        )


# ---------------------------------------------------------------------------------------- patches


def crop(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut one rectangle out of each image: (B, C, H, W) -> (B, C, h, w).

    top, left: (B,) int64, the first pixel of each rectangle. size: (h, w).
    """
    batch, channels = images.shape[:2]
    height, width = size
    sample = torch.arange(batch, device=images.device)
    channel = torch.arange(channels, device=images.device)
    y = top[:, None] + torch.arange(height, device=images.device)
    x = left[:, None] + torch.arange(width, device=images.device)
    # One indexing operation cuts all rectangles: no loop over samples, no sync with the host.
    return images[
        sample[:, None, None, None],
        channel[:, None, None],
        y[:, None, :, None],
        x[:, None, None, :],
    ]


def require_square(size: tuple[int, int], what: str, hint: str) -> None:
    """Raise MtlError unless height and width (h, w) are equal.

    what: the part of the message before the size. hint: what to set instead.
    """
    height, width = size
    if height != width:
        raise MtlError(
            f"{what} needs square images, got a height of {height} and a width of {width}: {hint}"
        )


def blocks_of(image_size: tuple[int, int], cells: tuple[int, int]) -> int:
    """Return the side in pixels of square blocks, of which `cells` (h, w) cover an image.

    image_size: (H, W). The blocks exceed the image if a side is not a multiple of the block.
    """
    return max(-(-side // n) for side, n in zip(image_size, cells))


def resize_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) bilinearly to `size` (h, w); return maps of that size as they are."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


# ----------------------------------------------------------------------------------- hidden pixels


def hidden_number(ratio: float, grid: int) -> int:
    """How many of the grid * grid parts of an image are hidden by this ratio."""
    return round(ratio * grid**2)


def require_some_hidden(ratio: float, grid: int, parts: str) -> None:
    """Raise ValueError if `ratio` hides no part of the grid, or all parts.

    parts: their name in the message.
    """
    number = grid**2
    # The range comes first: a ratio that is NaN or infinite can't be rounded.
    if not (0 < ratio < 1 and 0 < hidden_number(ratio, grid) < number):
        raise ValueError(
            f"ratio = {ratio:g} of grid = {grid} ({number} {parts}): "
            f"expected a share that hides 1 to {number - 1} of them"
        )


def grid_mask(tiles: Tensor, images: Tensor, grid: int) -> Tensor:
    """Turn a mask of tiles (B, grid * grid) into a mask of pixels (B, 1, H, W).

    If the grid does not divide the image size, tiles differ by one pixel.
    """
    height, width = images.shape[-2:]
    row = torch.arange(height, device=images.device) * grid // height
    column = torch.arange(width, device=images.device) * grid // width
    return rearrange(tiles, "b (i j) -> b 1 i j", i=grid)[:, :, row[:, None], column]


def hidden_l1(output: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    """(B,): mean |output - clean| over the hidden pixels and the colors of each image.

    target: "image" (B, 3, H, W), the clean image, and "hidden" (B, 1, H, W) bool.
    """
    hidden = target["hidden"]
    error = ((output - target["image"]).abs() * hidden).sum((1, 2, 3))
    return error / (3 * hidden.sum((1, 2, 3))).clamp_min(1)


class HiddenPixelsHead(Head):
    """A head whose output is an image (B, 3, H, W); the loss uses its hidden pixels alone."""

    def loss(self, output: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        return hidden_l1(output, target)

    def ideal(self, target: Mapping[str, Tensor]) -> Tensor:
        """Return the clean image."""
        return target["image"]


def mean_visible_color(target: Mapping[str, Tensor]) -> Tensor:
    """(B, 3, 1, 1): the mean color of the visible pixels, the best guess without learning."""
    visible = ~target["hidden"]
    total = (target["image"] * visible).sum((2, 3), keepdim=True)
    return total / visible.sum((2, 3), keepdim=True).clamp_min(1)


def hidden_pixel_metrics() -> dict[str, Metric]:
    """Metrics of restored pixels, lower is better.

    l1: mean absolute error of the hidden pixels, in [0, 1].
    over_mean: that error divided by the error of the mean visible color.
    """
    from torchmetrics import Metric

    class HiddenPixels(Metric):
        higher_is_better = False
        error: Tensor
        mean_color_error: Tensor
        samples: Tensor

        def __init__(self) -> None:
            super().__init__()
            for name in ("error", "mean_color_error", "samples"):
                self.add_state(name, torch.zeros(()), "sum")

        def update(self, output: Tensor, target: Mapping[str, Tensor]) -> None:
            self.error += hidden_l1(output, target).sum()
            self.mean_color_error += hidden_l1(mean_visible_color(target), target).sum()
            self.samples += len(output)

    class L1(HiddenPixels):
        def compute(self) -> Tensor:
            return self.error / self.samples

    class OverMean(HiddenPixels):
        def compute(self) -> Tensor:
            return self.error / self.mean_color_error

    return {"l1": L1(), "over_mean": OverMean()}
