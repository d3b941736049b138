"""timm's networks: `timm:<name>`, such as `timm:resnet10t` or `timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k`.

`forward_intermediates`, which all of timm's families have, gives the maps and the final features in one forward; the
keys of the state are those of timm's own files, which `features_only` would rename.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from attrs import frozen
from einops import rearrange
from torch import Tensor, nn

from ..contracts import Encoder, Features
from ..errors import MtlError
from . import weights as files

RGB = tuple[float, float, float]


@frozen
class Timm(Encoder):
    """model: timm's name, with or without a tag. weights: "none" (random), "imagenet" (those that timm publishes under
    this name and tag, from its cache or a download), or a state file.

    With weights, images are normalized by the mean and std that timm records for them.
    """

    name = "timm"
    family = True
    model: str
    weights: str = files.NONE

    @property
    def mean(self) -> RGB:  # type: ignore[override]
        return Encoder.mean if self.weights == files.NONE else tuple(self._facts().mean)

    @property
    def std(self) -> RGB:  # type: ignore[override]
        return Encoder.std if self.weights == files.NONE else tuple(self._facts().std)

    @property
    def lacks(self) -> Mapping[str, str]:  # type: ignore[override]
        fixed = self._facts().fixed_input_size
        return {"other_sizes": "timm builds this model for one image size"} if fixed else {}

    def build(self, image_size: int) -> nn.Module:
        timm, facts = _timm(), self._facts()
        options = {"num_classes": 0, **({"img_size": image_size} if facts.fixed_input_size else {})}
        wanted = files.to_load(self.weights)
        published = wanted == files.IMAGENET
        net = (
            self._published(timm, options)
            if published
            else timm.create_model(self.model, **options)
        )
        self._check(net, image_size)
        if wanted not in (files.NONE, files.IMAGENET):
            classifier = (
                facts.classifier if isinstance(facts.classifier, tuple) else (facts.classifier,)
            )
            state = _fitted(files.read(self._label, self.weights), net)
            files.load(self._label, net, state, [f"{name}." for name in classifier])
        return _TimmNet(net)

    @property
    def _label(self) -> str:
        return f"timm:{self.model}"

    def _facts(self) -> Any:
        """What timm knows of the model without building it. Raises MtlError for a name that timm does not know."""
        timm = _timm()
        try:
            facts = (
                timm.models.get_pretrained_cfg(self.model) if timm.is_model(self.model) else None
            )
        except RuntimeError as error:  # a known net, an unknown tag
            tags = timm.list_pretrained(self.model.partition(".")[0] + ".*")
            raise MtlError(
                f"[encoder] {self._label}: {error} Known: {', '.join(tags) or 'none'}"
            ) from error
        if facts is None:
            close = difflib.get_close_matches(self.model, timm.list_models(), n=5)
            hint = f"nearest: {', '.join(close)}" if close else "`timm.list_models()` lists them"
            raise MtlError(
                f"[encoder] {self._label}: timm {timm.__version__} knows no such model; {hint}"
            )
        return facts

    def _check(self, net: nn.Module, image_size: int) -> None:
        """A ViT would cut off in silence what does not fill a patch."""
        patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
        if isinstance(patch, tuple) and image_size % patch[0]:
            raise MtlError(
                f"input.size = {image_size}: {self._label} reads whole patches of {patch[0]} pixels; "
                f"expected a multiple of {patch[0]}"
            )

    def _published(self, timm: ModuleType, options: Mapping[str, Any]) -> nn.Module:
        return files.published(
            self._label, lambda: timm.create_model(self.model, pretrained=True, **options)
        )


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise MtlError(
            f'[encoder] timm:<name> needs timm ({error}): pip install "mtlcore[timm]"'
        ) from error
    return timm


def _fitted(state: Mapping[str, Tensor], net: nn.Module) -> Mapping[str, Tensor]:
    """A transformer's foreign position embeddings interpolated to this image size, as timm does with its own files."""
    from timm.layers import resample_abs_pos_embed

    mine: Any = getattr(net, "pos_embed", None)
    if mine is None or "pos_embed" not in state or state["pos_embed"].shape[1] == mine.shape[1]:
        return state
    prefix = 0 if getattr(net, "no_embed_class", False) else getattr(net, "num_prefix_tokens", 1)
    patches: Any = net.patch_embed
    embeddings = resample_abs_pos_embed(
        state["pos_embed"], patches.grid_size, num_prefix_tokens=prefix
    )
    return {**state, "pos_embed": embeddings}


class _TimmNet(nn.Module):
    """Normalized images (B, 3, H, W) -> Features: one map a resolution; pooled is what timm's own classifier reads.

    shared is the net's final features, in its own layout: its last map, or all tokens of a transformer (B, prefix + n, D).
    Nets with depthwise convolutions read their images in channels_last, as our efficientnets do: a CPU then takes about
    0.6 of the time (tf_efficientnet_lite0 and mobilenetv3_small_100 at 96 px); others gain nothing or lose.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.gives_nhwc = getattr(net, "output_fmt", "NCHW") == "NHWC"
        depthwise = any(
            isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in net.modules()
        )
        self.memory_format = torch.channels_last if depthwise else torch.contiguous_format
        self.prefix = getattr(net, "num_prefix_tokens", 0)  # the class token, and its like

    def forward(self, images: Tensor) -> Features:
        net: Any = self.net
        final, maps = net.forward_intermediates(images.contiguous(memory_format=self.memory_format))
        pooled = net.forward_head(final, pre_logits=True)
        if final.ndim == 3:
            coarse = rearrange(
                final[:, self.prefix :], "b (h w) d -> b d h w", h=maps[-1].shape[-2]
            )
            return Features((coarse,), pooled, final)
        coarse = rearrange(final, "b h w d -> b d h w") if self.gives_nhwc else final
        finer = [m for m in maps if m.shape[-1] > coarse.shape[-1]]
        return Features((*finer, coarse), pooled, final)
