"""The network of inference: the encoder and the supervised heads. Pretext heads are left out.

images (B, 3, H, W) in [0, 1] -> normalization -> encoder -> one output for each task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts import Encoder, EncoderInfo, Features, Head, Output, Visible
from ..errors import MtlError
from ..image_size import written

LARGE_PX = 224  # published networks read images of this size


class SharedEncoder(nn.Module):
    """An encoder with its normalization: (B, 3, H, W) in [0, 1] -> Features.

    The normalization is part of the module, so heads, EMA copies and exports all use the same.

    info: sizes of the features.

    size: (H, W) of the images. Raises MtlError if the encoder can't process it.
    """

    mean: Tensor
    std: Tensor
    _compiled: Callable[[Tensor], Features] | None = None

    def __init__(self, encoder: Encoder, size: tuple[int, int]) -> None:
        super().__init__()
        mean = torch.tensor(encoder.mean).view(3, 1, 1)
        std = torch.tensor(encoder.std).view(3, 1, 1)

        # Not persistent: the configuration defines them, so a checkpoint must not override it.
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.net = encoder.build(size)
        self._frozen: tuple[nn.Module, ...] = ()
        self.info = self._measure(size)

    @property
    def encodes_visible(self) -> bool:
        """Whether the network has a method to leave out the hidden parts of an image."""
        return hasattr(self.net, "forward_visible")

    def forward(self, images: Tensor, visible: Visible | None = None) -> Features:
        """Encode images (B, 3, H, W) in [0, 1]. `Features.images` are these images.

        visible: the parts to encode. Raises MtlError if the network can't leave out the others.
        """
        if visible is not None:
            return self._encode_visible(images, visible)
        # Evaluation stays eager: its metrics are those of a process that compiles nothing.
        net = self._compiled if self._compiled and self.training else self.net
        features: Features = net(self._normalized(images))
        return features._replace(images=images, cells=None)

    def _encode_visible(self, images: Tensor, visible: Visible) -> Features:
        if not self.encodes_visible:
            raise MtlError(
                "a view has hidden parts (View.only), but this encoder can't leave them out: "
                'set [encoder] name = "vit_small", or another pretext'
            )
        height, width = images.shape[-2:]
        if (height, width) != self.info.image_size:
            raise MtlError(
                f"View.only: the view has {written((height, width))} pixels: expected those of "
                f"input.size, {written(self.info.image_size)}"
            )
        cells = visible.cells(self.info.map_sizes[-1])
        net: Any = self.net
        features: Features = net.forward_visible(self._normalized(images), cells)
        if features.shared.shape[:2] != cells.shape:
            raise MtlError(
                f"the encoder {type(self.net).__name__}: forward_visible returns as shared "
                f"{tuple(features.shared.shape)}: expected a token for each of {cells.shape[1]} "
                "cells"
            )
        return features._replace(images=images, cells=cells)

    def finest_maps(self, images: Tensor, number: int) -> tuple[Tensor, ...]:
        """Return the `number` finest maps of `forward`, bit for bit, for images in [0, 1].

        If the network has a method `finest_maps` (its input is normalized), it runs no later layer.
        """
        normalized = self._normalized(images)
        of_net = getattr(self.net, "finest_maps", None)
        if of_net is None:
            features: Features = self.net(normalized)
            return features.maps[:number]
        maps: tuple[Tensor, ...] = of_net(normalized, number)
        return maps

    def _normalized(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def compile_training(self, on: bool = True) -> None:
        """Run the network by torch.compile in training mode, or no longer.

        It is compiled in the next forward. Names of parameters do not change. Copies of the module
        are not compiled.
        """
        self._compiled = None
        if on:
            # Equal networks share their compiled code, also that of an earlier run of this process
            # with other settings. So each run compiles its own.
            torch._dynamo.reset()
            # fullgraph: a graph break raises an error. Else it would only cost speed, in silence.
            self._compiled = torch.compile(self.net.forward, fullgraph=True)

    def __getstate__(self) -> dict[str, Any]:
        # A copy must not run the network of the original.
        return {**super().__getstate__(), "_compiled": None}

    def keep_in_eval_mode(self, modules: Sequence[nn.Module]) -> None:
        """Keep frozen parts of the network in eval mode: BatchNorm uses its fixed statistics."""
        self._frozen = tuple(modules)
        self.train(self.training)

    def train(self, mode: bool = True) -> SharedEncoder:
        """Set the mode. Frozen parts stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @torch.no_grad()
    def _measure(self, size: tuple[int, int]) -> EncoderInfo:
        """Return the sizes of the features, from one dry forward in eval mode."""
        training = self.training

        # Eval mode: one empty image must not update BatchNorm's running statistics.
        features = self._dry_forward(size)
        self.train(training)
        if not isinstance(features, Features) or features.pooled.ndim != 2:
            raise MtlError(
                f"the encoder {type(self.net).__name__} must return mtlcore.Features with "
                "pooled (B, D)"
            )
        channels = tuple(m.shape[1] for m in features.maps)
        map_sizes = tuple((int(m.shape[-2]), int(m.shape[-1])) for m in features.maps)
        return EncoderInfo(
            dim=features.pooled.shape[1],
            channels=channels,
            map_sizes=map_sizes,
            image_size=size,
        )

    def _dry_forward(self, size: tuple[int, int]) -> object:
        images = torch.zeros(1, 3, *size)
        self.eval()
        try:
            return self.net(images)
        except (RuntimeError, ValueError, LookupError, TypeError, AssertionError) as error:
            fix = f"one number, such as input.size = {max(size)}"
            if size[0] == size[1]:
                if not self._reads_large_images():
                    raise  # not a matter of the size
                fix = "a larger input.size"
            raise MtlError(
                f"input.size = {written(size)}: the encoder {type(self.net).__name__} can't read "
                f"images of this size ({error}): set {fix}, or another encoder"
            ) from error

    def _reads_large_images(self) -> bool:
        with suppress(Exception):
            self.net(torch.zeros(1, 3, LARGE_PX, LARGE_PX))
            return True
        return False


class Inference(nn.Module):
    """Images in [0, 1] -> one output for each task.

    Parameter names are the same as in `HybridModel`, so its weights can be loaded by name.
    """

    def __init__(self, encoder: SharedEncoder, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> dict[str, Output]:
        """Return task label -> output of its head, for images (B, 3, H, W) in [0, 1].

        Raises MtlError for integers, such as uint8 in 0 ... 255, and for another shape.
        """
        if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
            raise MtlError(
                f"images are {tuple(images.shape)} {images.dtype}: expected (B, 3, H, W) float in "
                "[0, 1]; divide uint8 images by 255"
            )
        features = self.encoder(images)
        return {label: head(features) for label, head in self.heads.items()}
