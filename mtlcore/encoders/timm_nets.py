"""timm's networks, named `timm:<name>`.

Examples: `timm:resnet10t`, `timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k`.

Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models.

All families of timm have `forward_intermediates`. It returns the feature maps and the final
features in one forward, and keeps the parameter names of timm's own files. timm's `features_only`
would rename the parameters.
"""

from __future__ import annotations

import difflib
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from attrs import field, frozen
from einops import rearrange
from torch import Tensor, nn

from ..contracts import Encoder, Features, Layer
from ..errors import MtlError
from ..image_size import written
from . import weights as files
from .patches import require_whole_patches
from .timm_layers import layers_of
from .timm_options import require_free, require_known

RGB = tuple[float, float, float]

if TYPE_CHECKING:

    class _TimmModel(nn.Module):
        """The methods of timm's models that are used here."""

        def forward_intermediates(self, x: Tensor, **options: object) -> Any: ...
        def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor: ...


class _PretrainedConfig(Protocol):
    """The fields of timm's `PretrainedCfg` that are used here."""

    mean: RGB
    std: RGB
    fixed_input_size: bool
    classifier: str | tuple[str, ...]


@frozen
class Timm(Encoder):
    """A network of timm.

    model: timm's name, with or without a tag.
    weights: "none" (random), "imagenet" (the weights that timm publishes for this name and tag,
    from its cache or a download), a file of weights, or the folder of a run; "FILE#KEY" for one of
    several networks in a file, such as "state_dict_ema".

    options: arguments of timm's network, such as { drop_path_rate = 0.1 }, or
    { dynamic_img_size = true } for a ViT that reads images of several sizes.

    With weights, images are normalized with the mean and std that timm records for them; with those
    of a run, as in that run.
    """

    name = "timm"
    family = True
    needs_extra = "timm"
    model: str
    weights: str = files.NONE
    options: dict[str, Any] = field(factory=dict)

    @property
    def mean(self) -> RGB:  # type: ignore[override]
        if self.weights == files.NONE:
            return Encoder.mean
        red, green, blue = self._pretrained_config().mean
        return (red, green, blue)

    @property
    def std(self) -> RGB:  # type: ignore[override]
        if self.weights == files.NONE:
            return Encoder.std
        red, green, blue = self._pretrained_config().std
        return (red, green, blue)

    @property
    def lacks(self) -> Mapping[str, str]:  # type: ignore[override]
        if self._pretrained_config().fixed_input_size:
            return {
                "any_size": "it reads whole patches or windows, which do not fit into each size",
                "other_sizes": "timm builds this model for one image size",
            }
        return {}

    def build(self, size: tuple[int, int]) -> nn.Module:
        timm = import_timm("timm:<name>")
        config = self._pretrained_config()
        options: dict[str, object] = {"num_classes": 0}
        if config.fixed_input_size:
            options["img_size"] = size[0] if size[0] == size[1] else size
        require_free(self._label, self.options, size)
        options |= self.options

        weights = files.weights_to_load(self.weights)
        try:
            if weights == files.IMAGENET:
                net = self._with_published_weights(timm, options)
            else:
                net = timm.create_model(self.model, **options)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            require_known(self._label, self.model, self.options)
            if self.options:
                shown = ", ".join(self.options)
                raise MtlError(f"[encoder] {self._label}: options ({shown}): {error}") from error
            if size[0] == size[1]:
                raise
            raise MtlError(
                f"input.size = {written(size)}: timm can't build {self._label} for this height and "
                f"width ({error}); expected one number, such as {max(size)}"
            ) from error
        if not self.options.get("dynamic_img_pad"):
            self._check_size(net, size)
        if weights not in (files.NONE, files.IMAGENET):
            state = files.read(self._label, self.weights, net)
            state = _resize_position_embedding(self._converted(state, net), net)
            files.load(self._label, net, state, _classifier_prefixes(config))
        return _TimmNet(net)

    def layers(self, net: nn.Module) -> Sequence[Layer]:
        """Return the layers that timm's own layer decay uses. Its coarse groups are the stages."""
        assert isinstance(net, _TimmNet)
        return layers_of(net.net)

    def _converted(self, state: Mapping[str, Tensor], net: nn.Module) -> Mapping[str, Tensor]:
        """Return a state with timm's parameter names, converted from those of the authors.

        timm has such a function in the module of most networks. Others are returned unchanged.
        """
        own = set(net.state_dict())
        convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
        if convert is None or own <= set(state):
            return state
        try:
            converted: Mapping[str, Tensor] = convert(dict(state), net)
        except Exception:  # noqa: BLE001 - of another network: `load` says what is missing
            return state
        if len(own & set(converted)) <= len(own & set(state)):
            return state
        warnings.warn(
            f"[encoder] {self._label}: weights: {self.weights}: its parameter names are "
            "those of the network's authors; timm converted them",
            files.WeightsWarning,
            stacklevel=2,
        )
        return converted

    @property
    def _label(self) -> str:
        return f"timm:{self.model}"

    def _pretrained_config(self) -> _PretrainedConfig:
        """Return what timm knows about the model without building it.

        Raises MtlError if timm does not know the name or the tag.
        """
        timm = import_timm("timm:<name>")
        config: _PretrainedConfig | None = None
        try:
            if timm.is_model(self.model):
                config = timm.models.get_pretrained_cfg(self.model)
        except RuntimeError as error:  # a known model with an unknown tag
            tags = timm.list_pretrained(self.model.partition(".")[0] + ".*")
            known = ", ".join(tags) or "none"
            raise MtlError(f"[encoder] {self._label}: {error} Known: {known}") from error
        if config is None:
            close = difflib.get_close_matches(self.model, timm.list_models(), n=5)
            hint = f"nearest: {', '.join(close)}" if close else "`timm.list_models()` lists them"
            raise MtlError(
                f"[encoder] {self._label}: timm {timm.__version__} has no such model; {hint}"
            )
        return config

    def _check_size(self, net: nn.Module, size: tuple[int, int]) -> None:
        """Raise MtlError if the height or the width is not a multiple of a ViT's patch size.

        timm itself would ignore the pixels beyond the last whole patch.
        """
        embed = getattr(net, "patch_embed", None)
        patch = getattr(embed, "patch_size", None)
        stride = getattr(getattr(embed, "proj", None), "stride", patch)
        # Patches that overlap are those of a convolution with padding: it reads all pixels.
        if isinstance(patch, tuple) and stride == patch:
            require_whole_patches(self._label, size, patch)

    def _with_published_weights(
        self, timm: ModuleType, options: Mapping[str, object]
    ) -> _TimmModel:
        def create() -> _TimmModel:
            net: _TimmModel = timm.create_model(self.model, pretrained=True, **options)
            return net

        return files.published(self._label, create)


def import_timm(label: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise MtlError(
            f'[encoder] {label} needs timm ({error}): pip install "mtlcore[timm]"'
        ) from error
    return timm


def _classifier_prefixes(config: _PretrainedConfig) -> list[str]:
    """Return how the parameter names of the model's classifier begin."""
    names = config.classifier
    if not isinstance(names, tuple):
        names = (names,)
    return [f"{name}." for name in names]


def _resize_position_embedding(state: Mapping[str, Tensor], net: nn.Module) -> Mapping[str, Tensor]:
    """Interpolate a ViT's position embedding to this image size, as timm does with its own files.

    Like timm, it takes the patches of the file for a square grid. Other states are returned
    unchanged.
    """
    from timm.layers import resample_abs_pos_embed

    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    if grid is None or "pos_embed" not in state:
        return state

    # The class token and its like come first and have no place in the grid of patches.
    prefix_tokens = getattr(net, "num_prefix_tokens", 1)
    if getattr(net, "no_embed_class", False):
        prefix_tokens = 0
    patches = state["pos_embed"].shape[1] - prefix_tokens
    side = math.isqrt(max(patches, 0))
    if side**2 != patches or tuple(grid) == (side, side):
        return state
    if grid[0] * grid[1] == patches:
        warnings.warn(
            f"[encoder] the position embedding of the file is taken for that of {side} x {side} "
            f"patches, and interpolated to {grid[0]} x {grid[1]}",
            files.WeightsWarning,
            stacklevel=3,
        )
    resized = resample_abs_pos_embed(state["pos_embed"], grid, num_prefix_tokens=prefix_tokens)
    return {**state, "pos_embed": resized}


class _TimmNet(nn.Module):
    """Normalized images (B, 3, H, W) -> Features.

    maps: one map for each resolution. pooled: the input of timm's own classifier.
    shared: the final features in the network's own layout: its last map, or all tokens of a
    transformer (B, prefix + n, D).
    """

    net: _TimmModel

    def __init__(self, net: _TimmModel) -> None:
        super().__init__()
        self.net = net
        self.outputs_nhwc = getattr(net, "output_fmt", "NCHW") == "NHWC"
        # On a CPU, networks with depthwise convolutions take about 0.6 of the time in channels_last
        # (tf_efficientnet_lite0 and mobilenetv3_small_100 at 96 pixels). Others are not faster.
        is_depthwise = any(
            isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in net.modules()
        )
        self.memory_format = torch.channels_last if is_depthwise else torch.contiguous_format
        self.prefix_tokens = getattr(net, "num_prefix_tokens", 0)  # the class token and its like
        self._finer: list[int] | None = None  # positions of the finer maps, once known

    def forward(self, images: Tensor) -> Features:
        features, _ = self._encode(images)
        return features

    def finest_maps(self, images: Tensor, number: int) -> tuple[Tensor, ...]:
        """Return the first `number` maps. From the second call on, no later layer runs.

        For all maps, the whole network runs.
        """
        if self._finer is None or number > len(self._finer):
            features, self._finer = self._encode(images)
            return features.maps[:number]
        images = images.contiguous(memory_format=self.memory_format)
        maps = self.net.forward_intermediates(
            images, indices=self._finer[:number], stop_early=True, intermediates_only=True
        )
        return tuple(maps)

    def _encode(self, images: Tensor) -> tuple[Features, list[int]]:
        """Return the features, and the positions of the finer maps among timm's."""
        images = images.contiguous(memory_format=self.memory_format)
        final, maps = self.net.forward_intermediates(images)
        pooled = self.net.forward_head(final, pre_logits=True)
        if final.ndim == 3:  # the tokens of a transformer
            patches = final[:, self.prefix_tokens :]
            coarse = rearrange(patches, "b (h w) d -> b d h w", h=maps[-1].shape[-2])
            return Features((coarse,), pooled, final), []
        coarse = rearrange(final, "b h w d -> b d h w") if self.outputs_nhwc else final
        cells = coarse.shape[-2:].numel()
        finer = [i for i, m in enumerate(maps) if m.shape[-2:].numel() > cells]
        return Features((*(maps[i] for i in finer), coarse), pooled, final), finer
