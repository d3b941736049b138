"""A small vision transformer, for small images and few labels.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929. The blocks and
their initialization are timm's, with stochastic depth (Huang et al., ECCV 2016, arXiv:1603.09382).
There is no class token: heads read the mean of all tokens.

It can encode the visible patches of an image alone, as MAE does (He et al., CVPR 2022,
arXiv:2111.06377): with a quarter of the patches, its blocks process a quarter of the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, le, lt
from einops import rearrange
from torch import Tensor, nn

from ..contracts import Encoder, Features, Layer
from ..errors import MtlError
from ..image_size import written
from .patches import require_whole_patches
from .timm_nets import import_timm

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


def _whole_heads(encoder: VitSmall, _: Attribute[int], value: int) -> None:
    if encoder.width % value:
        raise ValueError(
            f"heads = {value} of width = {encoder.width}: expected a number that divides the width"
        )


@frozen
class VitSmall(Encoder):
    """A vision transformer of a few narrow blocks; narrower than ViT-S. It needs the extra `timm`.

    patch: side of a patch in pixels; it divides `input.size`. 4 is for images of 32 pixels.
    width: width of a token.
    depth: blocks.
    heads: attention heads; they divide the width.
    drop_path: largest rate of stochastic depth, that of the last block; 0 switches it off.
    """

    cites = "Dosovitskiy et al. 2021, ICLR, arXiv:2010.11929; timm"
    needs_extra = "timm"

    patch: int = field(default=4, validator=and_(ge(1), le(64)))
    width: int = field(default=192, validator=and_(ge(8), le(2048)))
    depth: int = field(default=6, validator=and_(ge(1), le(48)))
    heads: int = field(default=4, validator=[ge(1), _whole_heads])
    drop_path: float = field(default=0.1, validator=and_(ge(0.0), lt(1.0)))

    @property
    def lacks(self) -> Mapping[str, str]:  # type: ignore[override]
        lacks = {"other_sizes": "its position embedding belongs to one image size"}
        if 16 % self.patch:  # the kit builds for 32, 48 and 64 pixels
            lacks["any_size"] = "it reads whole patches, which do not fit into each size"
        return lacks

    def build(self, size: tuple[int, int]) -> nn.Module:
        require_whole_patches("vit_small", size, (self.patch, self.patch))
        timm = import_timm("vit_small")
        net = timm.models.VisionTransformer(
            img_size=size,
            patch_size=self.patch,
            num_classes=0,
            global_pool="avg",
            class_token=False,
            fc_norm=False,  # the tokens are normalized before they are averaged
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            drop_path_rate=self.drop_path,
        )
        return _VitSmall(net)

    def layers(self, net: nn.Module) -> Sequence[Layer]:
        found = [Layer(0, ("net.patch_embed", "net.pos_embed"))]
        found += [Layer(i + 1, (f"net.blocks.{i}",)) for i in range(self.depth - 1)]
        return [*found, Layer(self.depth, (f"net.blocks.{self.depth - 1}", "net.norm"))]


class _VitSmall(nn.Module):
    """Normalized images (B, 3, H, W) -> Features.

    There is one map, of the tokens, (B, width, h, w). `pooled` is their mean; `shared` are the
    tokens, (B, h * w, width), or (B, n, width) of n visible patches.
    """

    def __init__(self, net: VisionTransformer) -> None:
        super().__init__()
        self.net = net
        self.pixels = net.patch_embed.img_size
        self.rows = net.patch_embed.grid_size[0]

    def forward(self, images: Tensor) -> Features:
        tokens = self._encode(self._embed(images))
        return Features((self._as_map(tokens),), tokens.mean(1), tokens)

    def forward_visible(self, images: Tensor, cells: Tensor) -> Features:
        """Encode these patches alone. cells: (B, n) int64, distinct positions, counted row by row.

        The map holds zeros in the other places; `pooled` is the mean of the visible tokens.
        """
        every = self._embed(images)
        at = cells[..., None].expand(-1, -1, every.shape[-1])
        tokens = self._encode(every.gather(1, at))
        everywhere = tokens.new_zeros(every.shape).scatter(1, at, tokens)
        return Features((self._as_map(everywhere),), tokens.mean(1), tokens)

    def _embed(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != self.pixels:
            raise MtlError(
                f"vit_small reads images of input.size alone, {written(self.pixels)} pixels; a "
                f"view has {tuple(images.shape[-2:])}: remove the pretext that makes it, or set "
                "another [encoder]"
            )
        embedded: Tensor = self.net.patch_embed(images) + self.net.pos_embed
        return embedded

    def _encode(self, tokens: Tensor) -> Tensor:
        encoded: Tensor = self.net.norm(self.net.blocks(tokens))
        return encoded

    def _as_map(self, tokens: Tensor) -> Tensor:
        return rearrange(tokens, "b (h w) d -> b d h w", h=self.rows)
