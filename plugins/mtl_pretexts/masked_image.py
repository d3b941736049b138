"""Masked image modeling: hide most patches of an image, and predict their pixels.

After Xie et al. 2022, "SimMIM: A Simple Framework for Masked Image Modeling", arXiv:2111.09886.
As in the paper: random patches of 32 of 192 pixels (6 along each side), 60 % of them hidden, raw
pixels as the target, one linear layer on the coarse map as the decoder, L1 on hidden pixels alone.

Differences from the paper:

- SimMIM replaces hidden patches by a learned token inside a vision transformer. Here pixels are
  painted gray (0.5), which works for any encoder. The encoder gets no mask beside the image.
- Colors are predicted in [0, 1], as offsets from that gray; the paper standardizes them.

With `drop`, the encoder reads the visible patches alone, as in MAE (He et al. 2022, "Masked
Autoencoders Are Scalable Vision Learners", arXiv:2111.06377; their ratio is 0.75), and a small
transformer decodes them: see `mae_head`. The blocks of the encoder then process the visible share.

`inpainting` hides less and decodes from all maps. Here the decoder reads the coarse map alone, so
that map must hold everything.

Shapes: B images (B, 3, H, W) in [0, 1]; a mask (B, 1, H, W) bool, true where an image is hidden.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor, nn

from mtl_pretexts._shared import (
    GRAY,
    HiddenPixelsHead,
    blocks_of,
    grid_mask,
    hidden_number,
    hidden_pixel_metrics,
    require_some_hidden,
    resize_to,
)
from mtl_pretexts.mae_head import MaeHead
from mtlcore import (
    AugmentedBatch,
    BuildContext,
    EncoderInfo,
    Features,
    Head,
    MtlError,
    PretextTask,
    Rng,
    View,
    Visible,
    hookimpl,
)

if TYPE_CHECKING:
    from torchmetrics import Metric

Target = dict[str, Tensor]
"""image: the clean image (B, 3, H, W). hidden: (B, 1, H, W) bool."""


def _some_patches(task: MaskedImage, _: Attribute[float], value: float) -> None:
    require_some_hidden(value, task.grid, "patches")


@frozen
class MaskedImage(PretextTask):
    """Predict the pixels of the hidden patches.

    grid: patches along each side; 6 is the paper's 32 of 192 pixels.
    ratio: share of the patches that is hidden, rounded to whole patches; drawn for each image. 0.6
    is the paper's.
    drop: the encoder leaves out the hidden patches instead of reading gray ones. It must be able
    to (`vit_small` is), and each patch must cover whole cells of its map.
    """

    cites = (
        "after Xie et al. 2022 (SimMIM), arXiv:2111.09886; He et al. 2022 (MAE), arXiv:2111.06377"
    )
    reads_mixed = True

    grid: int = field(default=6, validator=and_(ge(2), le(32)))
    ratio: float = field(default=0.6, validator=_some_patches)
    drop: bool = False

    @property
    def lacks(self) -> Mapping[str, str]:  # type: ignore[override]
        return {"any_size": "its grid must divide the patches of the encoder"} if self.drop else {}

    @property
    def hidden(self) -> int:
        """Number of hidden patches."""
        return hidden_number(self.ratio, self.grid)

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Target]:
        """Return the image with hidden patches, and {"image": clean, "hidden": mask}."""
        clean = batch.clean
        # The first `hidden` places of a permutation: exactly that many distinct patches.
        order = rng.permutations(len(clean.images), self.grid**2)
        hidden = grid_mask(order < self.hidden, clean.images, self.grid)
        damaged = clean.repaint(clean.images.masked_fill(hidden, GRAY))
        if self.drop:
            # Positions and no mask: their number is known without a sync with the host.
            visible = order.argsort(1)[:, self.hidden :].sort(1).values
            damaged = damaged.only(Visible(visible, (self.grid, self.grid)))
        return [damaged], {"image": clean.images, "hidden": hidden}

    def permute(self, target: Target, order: Tensor) -> Target:
        """Permute the image alone: the mask is part of the input."""
        return target | {"image": target["image"][order]}

    def undo(self, view: Tensor, target: Target) -> Tensor:
        """Put the hidden pixels back; all others are the view's own, bit for bit."""
        return torch.where(target["hidden"], target["image"], view)

    def build(self, context: BuildContext) -> Head:
        if not self.drop:
            return MaskedImageHead(context.info)
        self._require_visible(context)
        return MaeHead(context.info)

    def _require_visible(self, context: BuildContext) -> None:
        """Raise MtlError if the encoder can't leave out the hidden patches."""
        if not context.encoder.encodes_visible:
            raise MtlError(
                "masked_image: drop = true: this encoder can't encode the visible patches alone: "
                'set [encoder] name = "vit_small", or drop = false'
            )
        cells = context.info.map_sizes[-1]
        if cells[0] % self.grid or cells[1] % self.grid:
            most = math.gcd(*cells)
            fitting = [n for n in range(2, min(most, 32) + 1) if most % n == 0]
            hint = f"expected {' or '.join(map(str, fitting))}" if fitting else "none fits"
            raise MtlError(
                f"masked_image: drop = true: grid = {self.grid} does not divide the encoder's "
                f"{cells[0]} x {cells[1]} patches: {hint}; encoder.patch and input.size change them"
            )

    def metrics(self) -> dict[str, Metric]:
        """Errors of the hidden pixels, lower is better.

        l1: mean absolute error.
        over_mean: that error divided by the error of the mean visible color.
        """
        return hidden_pixel_metrics()

    def draw(self, images: Tensor, target: Target, output: Tensor) -> Tensor:
        """Draw the clean image, with the output in the hidden patches."""
        return torch.where(target["hidden"], output.clamp(0, 1), target["image"])


class MaskedImageHead(HiddenPixelsHead):
    """The predicted image.

    One 1 x 1 convolution of the coarse map predicts the block of pixels of each cell (sub-pixel
    convolution).
    """

    def __init__(self, info: EncoderInfo) -> None:
        super().__init__()
        self.block = blocks_of(info.image_size, info.map_sizes[-1])
        self.decode = nn.Conv2d(info.channels[-1], 3 * self.block**2, 1)

    def forward(self, features: Features) -> Tensor:
        assert features.images is not None
        blocks = F.pixel_shuffle(self.decode(features.maps[-1]), self.block)
        height, width = features.images.shape[-2:]
        # The blocks exceed the image if its size is not a multiple of the block.
        return GRAY + resize_to(blocks, (height, width))


@hookimpl
def mtl_components() -> list[type]:
    return [MaskedImage]
