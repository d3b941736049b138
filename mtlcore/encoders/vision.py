"""torchvision's networks by name, through one adapter: each is a small class that says where its features lie.

`create_feature_extractor` cuts the network behind what its own classifier reads, so `pooled` is what torchvision's
classifier would have been given, final norm and pooling included, and the keys of the state are torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from attrs import frozen
from einops import rearrange
from torch import Tensor, nn

from ..contracts import Encoder, Features
from ..errors import MtlError
from . import weights as files

RGB = tuple[float, float, float]


@frozen
class VisionNet(Encoder):
    """weights: "none" (random), "imagenet" (torchvision's own, from its cache or a download), or a state file.

    With weights, images are normalized by ImageNet's mean and std, as those weights expect.
    """

    weights: str = files.NONE

    maps: ClassVar[tuple[str, ...]]  # the modules whose outputs are the maps, coarse last
    pooled: ClassVar[str] = "flatten"  # what the classifier reads
    classifier: ClassVar[str] = "classifier."  # how its keys begin
    memory_format: ClassVar[torch.memory_format] = (
        torch.contiguous_format
    )  # the faster one on a CPU
    smallest: ClassVar[int] = 1  # image side that the net still digests

    @property
    def mean(self) -> RGB:  # type: ignore[override]
        return Encoder.mean if self.weights == files.NONE else files.IMAGENET_MEAN

    @property
    def std(self) -> RGB:  # type: ignore[override]
        return Encoder.std if self.weights == files.NONE else files.IMAGENET_STD

    def build(self, image_size: int) -> nn.Module:
        from torchvision.models import get_model  # late: 1.9 s
        from torchvision.models.feature_extraction import create_feature_extractor

        self.check(image_size)
        nodes = {**{name: name for name in self.maps}, self.pooled: "pooled"}
        net = create_feature_extractor(
            get_model(self.name, weights=None, **self.options(image_size)), nodes
        )
        if files.to_load(self.weights) != files.NONE:
            files.load(
                str(self.name), net, self.fitted(self._state(), image_size), [self.classifier]
            )
        return self.adapted(net)

    def check(self, image_size: int) -> None:
        """Raises MtlError where the net can't read images of this side."""
        if image_size < self.smallest:
            raise MtlError(
                f"input.size = {image_size}: {self.name} needs images of at least {self.smallest} pixels a side"
            )

    def options(self, image_size: int) -> dict[str, Any]:
        """What torchvision's constructor needs to know."""
        return {}

    def fitted(self, state: Mapping[str, Tensor], image_size: int) -> Mapping[str, Tensor]:
        """Foreign weights made to fit this image size."""
        return state

    def adapted(self, net: nn.Module) -> nn.Module:
        return _Maps(net, self.memory_format)

    def _state(self) -> Mapping[str, Tensor]:
        from torchvision.models import get_model_weights

        if self.weights != files.IMAGENET:
            return files.read(str(self.name), self.weights)
        url = get_model_weights(self.name).DEFAULT.url
        return files.published(
            str(self.name),
            lambda: torch.hub.load_state_dict_from_url(
                url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            ),
        )


class _Maps(nn.Module):
    """Normalized images (B, 3, H, W) -> Features of a convolutional net; the extractor names its outputs."""

    def __init__(self, net: nn.Module, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.net, self.memory_format = net, memory_format

    def forward(self, images: Tensor) -> Features:
        found = dict(self.net(images.contiguous(memory_format=self.memory_format)))
        pooled = found.pop("pooled")
        maps = tuple(found.values())
        return Features(maps, pooled, maps[-1])


class _Tokens(nn.Module):
    """Normalized images (B, 3, H, W) -> Features of a ViT: shared is all tokens (B, 1 + n, D), pooled the first."""

    def __init__(self, net: nn.Module, patch: int) -> None:
        super().__init__()
        self.net, self.patch = net, patch

    def forward(self, images: Tensor) -> Features:
        tokens = self.net(images)["pooled"]
        coarse = rearrange(tokens[:, 1:], "b (h w) d -> b d h w", h=images.shape[-2] // self.patch)
        return Features((coarse,), tokens[:, 0], tokens)


@frozen
class Resnet18(VisionNet):
    """ResNet-18: eighteen layers of basic residual blocks."""

    name = "resnet18"
    cites = "He et al. 2016, CVPR, arXiv:1512.03385"
    maps = ("layer1", "layer2", "layer3", "layer4")
    classifier = "fc."


@frozen
class Resnet50(VisionNet):
    """ResNet-50: fifty layers of bottleneck residual blocks."""

    name = "resnet50"
    cites = "He et al. 2016, CVPR, arXiv:1512.03385"
    maps = ("layer1", "layer2", "layer3", "layer4")
    classifier = "fc."


@frozen
class EfficientnetB0(VisionNet):
    """EfficientNet-B0: mobile inverted bottlenecks with squeeze and excitation."""

    name = "efficientnet_b0"
    cites = "Tan and Le 2019, ICML, arXiv:1905.11946"
    maps = ("features.2", "features.3", "features.5", "features.8")
    memory_format = torch.channels_last


@frozen
class EfficientnetB2(VisionNet):
    """EfficientNet-B2: B0, deeper and wider by its compound scaling."""

    name = "efficientnet_b2"
    cites = "Tan and Le 2019, ICML, arXiv:1905.11946"
    maps = ("features.2", "features.3", "features.5", "features.8")
    memory_format = torch.channels_last


@frozen
class MobilenetV3Large(VisionNet):
    """MobileNetV3-Large: found by architecture search for a telephone's processor."""

    name = "mobilenet_v3_large"
    cites = "Howard et al. 2019, ICCV, arXiv:1905.02244"
    maps = ("features.3", "features.6", "features.12", "features.16")
    memory_format = torch.channels_last


@frozen
class ConvnextTiny(VisionNet):
    """ConvNeXt-Tiny. Its classifier begins with a norm, which is kept."""

    name = "convnext_tiny"
    cites = "Liu et al. 2022, CVPR, arXiv:2201.03545"
    maps = ("features.1", "features.3", "features.5", "features.7")
    pooled = "classifier.1"
    classifier = "classifier.2."
    smallest = 32


@frozen
class VitB16(VisionNet):
    """ViT-B/16. Its position embeddings are made for one image size; foreign ones are interpolated to it."""

    name = "vit_b_16"
    cites = "Dosovitskiy et al. 2021, ICLR, arXiv:2010.11929"
    maps = ()
    pooled = "encoder.ln"
    classifier = "heads."
    patch: ClassVar[int] = 16
    lacks: ClassVar[Mapping[str, str]] = {
        "other_sizes": "its position embeddings are made for one image size"
    }

    def check(self, image_size: int) -> None:
        if image_size % self.patch:
            near = max(self.patch, round(image_size / self.patch) * self.patch)
            raise MtlError(
                f"input.size = {image_size}: vit_b_16 reads whole patches of {self.patch} pixels; "
                f"expected a multiple of {self.patch}, such as {near}"
            )

    def options(self, image_size: int) -> dict[str, Any]:
        return {"image_size": image_size}

    def fitted(self, state: Mapping[str, Tensor], image_size: int) -> Mapping[str, Tensor]:
        from torchvision.models.vision_transformer import interpolate_embeddings

        if "encoder.pos_embedding" not in state:
            return state  # `load` tells what is missing
        return interpolate_embeddings(image_size, self.patch, dict(state))

    def adapted(self, net: nn.Module) -> nn.Module:
        return _Tokens(net, self.patch)


NETS: tuple[type[VisionNet], ...] = (
    Resnet18,
    Resnet50,
    EfficientnetB0,
    EfficientnetB2,
    MobilenetV3Large,
    ConvnextTiny,
    VitB16,
)
