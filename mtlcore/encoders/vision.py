"""torchvision's networks by name. Each is a small class that lists the layers of its features.

`create_feature_extractor` cuts the network off before its classifier. `pooled` is therefore the
exact input of torchvision's own classifier, with final norm and pooling, and the parameters keep
torchvision's names.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from attrs import frozen
from einops import rearrange
from torch import Tensor, fx, nn

from ..contracts import Encoder, Features, Layer
from ..errors import MtlError
from ..image_size import written
from . import weights as files
from .patches import nearest_multiple, require_whole_patches

RGB = tuple[float, float, float]


@frozen
class VisionNet(Encoder):
    """A network of torchvision.

    weights: "none" (random), "imagenet" (torchvision's weights, from its cache or a download), a
    file of weights, or the folder of a run; "FILE#KEY" for one of several networks in a file, such
    as "state_dict_ema".

    With weights, images are normalized with ImageNet's mean and std, as torchvision's weights
    expect; with those of a run, as in that run.
    """

    weights: str = files.NONE

    # The modules that output the feature maps, coarse last.
    maps: ClassVar[tuple[str, ...]]
    # The module that outputs the input of the classifier.
    pooled: ClassVar[str] = "flatten"
    # How the parameter names of the classifier begin.
    classifier: ClassVar[str] = "classifier."
    # Regular expressions of the stem's parameters, and of each layer: its numbers are its place.
    stem: ClassVar[str] = r"features\.0\."
    blocks: ClassVar[str] = r"features\.(\d+)\.(\d+)\."
    # The faster layout on a CPU.
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    # The smallest image size in pixels that the network can process.
    smallest: ClassVar[int] = 1

    @property
    def mean(self) -> RGB:  # type: ignore[override]
        return Encoder.mean if self.weights == files.NONE else files.IMAGENET_MEAN

    @property
    def std(self) -> RGB:  # type: ignore[override]
        return Encoder.std if self.weights == files.NONE else files.IMAGENET_STD

    def build(self, size: tuple[int, int]) -> nn.Module:
        # Imported late: torchvision takes 1.9 s.
        from torchvision.models import get_model
        from torchvision.models.feature_extraction import create_feature_extractor
        from torchvision.ops import StochasticDepth

        self.check(size)
        model = get_model(self.name, weights=None, **self.options(size))
        nodes = {name: name for name in self.maps}
        nodes[self.pooled] = "pooled"
        # As a leaf, stochastic depth follows the mode of its own module: frozen parts skip nothing.
        net = create_feature_extractor(
            model, nodes, tracer_kwargs={"leaf_modules": [StochasticDepth]}
        )
        if files.weights_to_load(self.weights) != files.NONE:
            state = self.fitted(self._read_state(net), size)
            files.load(str(self.name), net, state, [self.classifier])
        return self.adapted(net)

    def check(self, size: tuple[int, int]) -> None:
        """Raise MtlError if the network can't process images of this size (h, w)."""
        if min(size) < self.smallest:
            raise MtlError(
                f"input.size = {written(size)}: {self.name} needs images of at least "
                f"{self.smallest} x {self.smallest} pixels"
            )

    def options(self, size: tuple[int, int]) -> dict[str, object]:
        """Return further arguments of torchvision's constructor."""
        return {}

    def fitted(self, state: Mapping[str, Tensor], size: tuple[int, int]) -> Mapping[str, Tensor]:
        """Return the weights adapted to this image size."""
        return state

    def adapted(self, net: nn.Module) -> nn.Module:
        """Return the feature extractor as a module with the output `Features`."""
        return _Maps(net, self.memory_format)

    def layers(self, net: nn.Module) -> Sequence[Layer]:
        names = [name.removeprefix("net.") for name, _ in net.named_parameters()]
        ends = [tuple(map(int, re.findall(r"\d+", path))) for path in self.maps]
        return [
            Layer(stage, tuple(f"net.{name}" for name in members))
            for stage, members in grouped(names, self.stem, self.blocks, ends)
        ]

    def _read_state(self, net: nn.Module) -> Mapping[str, Tensor]:
        from torchvision.models import get_model_weights

        if self.weights != files.IMAGENET:
            return files.read(str(self.name), self.weights, net)
        url = get_model_weights(self.name).DEFAULT.url

        def download() -> Mapping[str, Tensor]:
            return torch.hub.load_state_dict_from_url(
                url,
                map_location="cpu",
                progress=False,
                check_hash=True,
                weights_only=True,
            )

        return files.published(str(self.name), download)


def grouped(
    names: Sequence[str], stem: str, blocks: str, ends: Sequence[tuple[int, ...]]
) -> list[tuple[int, list[str]]]:
    """Return (stage, names of its parameters) of each layer, in order.

    stem, blocks: regular expressions. ends: the numbers in the path of each feature map; a stage
    ends with the map. Without maps, each layer is a stage. Other parameters, such as a final norm,
    belong to the last layer.
    """
    layers: dict[tuple[int, ...], list[str]] = {(-1,): []}
    others: list[str] = []
    for name in names:
        if re.match(stem, name):
            layers[-1,].append(name)
        elif found := re.match(blocks, name):
            layers.setdefault(tuple(int(n) for n in found.groups() if n), []).append(name)
        else:
            others.append(name)
    places = sorted(layers)
    layers[places[-1]] += others

    result: list[tuple[int, list[str]]] = []
    for number, place in enumerate(places):
        stage = number
        if ends and number:
            stage = 1 + sum(end < place[:1] for end in ends)
        result.append((stage, layers[place]))
    return result


class _Maps(nn.Module):
    """Normalized images (B, 3, H, W) -> Features of a convolutional network.

    net: a feature extractor with the outputs "pooled" and, in their order, the maps.
    """

    def __init__(self, net: nn.Module, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.net = net
        self.memory_format = memory_format
        # Number of maps and mode -> the network up to them. It is no submodule: it has the same
        # layers.
        self._cut: dict[tuple[int, bool], nn.Module] = {}

    def forward(self, images: Tensor) -> Features:
        outputs = dict(self.net(images.contiguous(memory_format=self.memory_format)))
        pooled = outputs.pop("pooled")
        maps = tuple(outputs.values())
        return Features(maps, pooled, maps[-1])

    def finest_maps(self, images: Tensor, number: int) -> tuple[Tensor, ...]:
        """Return the first `number` maps. Later layers do not run."""
        key = number, self.net.training  # torchvision has one graph for each mode
        if key not in self._cut:
            self._cut[key] = _up_to(self.net, number)
        outputs = self._cut[key](images.contiguous(memory_format=self.memory_format))
        return tuple(outputs.values())

    def __getstate__(self) -> dict[str, Any]:
        # A copy must not run the layers of the original.
        return {**super().__getstate__(), "_cut": {}}


def _up_to(net: nn.Module, number: int) -> nn.Module:
    """Return a feature extractor with the same layers that ends at its `number`-th map."""
    assert isinstance(net, fx.GraphModule)
    graph = copy.deepcopy(net.graph)
    (output,) = (node for node in graph.nodes if node.op == "output")
    (every,) = output.args
    maps = [name for name in every if name != "pooled"]
    output.args = ({name: every[name] for name in maps[:number]},)
    cut = fx.GraphModule(net, graph)
    cut.graph.eliminate_dead_code()
    cut.delete_all_unused_submodules()
    cut.recompile()
    return cut


class _Tokens(nn.Module):
    """Normalized images (B, 3, H, W) -> Features of a ViT.

    shared: all tokens (B, 1 + n, D). pooled: the first, the class token (B, D).
    """

    def __init__(self, net: nn.Module, patch: int) -> None:
        super().__init__()
        self.net = net
        self.patch = patch

    def forward(self, images: Tensor) -> Features:
        tokens = self.net(images)["pooled"]
        height = images.shape[-2] // self.patch
        coarse = rearrange(tokens[:, 1:], "b (h w) d -> b d h w", h=height)
        return Features((coarse,), tokens[:, 0], tokens)


@frozen
class Resnet18(VisionNet):
    """ResNet-18: 18 layers of basic residual blocks."""

    name = "resnet18"
    cites = "He et al. 2016, CVPR, arXiv:1512.03385"
    maps = ("layer1", "layer2", "layer3", "layer4")
    classifier = "fc."
    stem = r"(conv|bn)1\."
    blocks = r"layer(\d)\.(\d+)\."


@frozen
class Resnet50(VisionNet):
    """ResNet-50: 50 layers of bottleneck residual blocks."""

    name = "resnet50"
    cites = "He et al. 2016, CVPR, arXiv:1512.03385"
    maps = ("layer1", "layer2", "layer3", "layer4")
    classifier = "fc."
    stem = r"(conv|bn)1\."
    blocks = r"layer(\d)\.(\d+)\."


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
    """MobileNetV3-Large: found by architecture search for the CPU of a phone."""

    name = "mobilenet_v3_large"
    cites = "Howard et al. 2019, ICCV, arXiv:1905.02244"
    maps = ("features.3", "features.6", "features.12", "features.16")
    blocks = r"features\.(\d+)\."
    memory_format = torch.channels_last


@frozen
class ConvnextTiny(VisionNet):
    """ConvNeXt-Tiny. `pooled` includes the norm at the start of its classifier."""

    name = "convnext_tiny"
    cites = "Liu et al. 2022, CVPR, arXiv:2201.03545"
    maps = ("features.1", "features.3", "features.5", "features.7")
    # Downsampling (an even number: a norm and a convolution) is one layer.
    blocks = r"features\.(\d+)\.(?:(?<=[1357]\.)(\d+))?"
    pooled = "classifier.1"
    classifier = "classifier.2."
    smallest = 32


@frozen
class VitB16(VisionNet):
    """ViT-B/16, a vision transformer of torchvision.

    Its position embeddings belong to one image size. Those of a file are interpolated to it.
    """

    name = "vit_b_16"
    cites = "Dosovitskiy et al. 2021, ICLR, arXiv:2010.11929"
    maps = ()
    pooled = "encoder.ln"
    classifier = "heads."
    stem = r"conv_proj\.|class_token|encoder\.pos_embedding"
    blocks = r"encoder\.layers\.encoder_layer_(\d+)\."
    patch: ClassVar[int] = 16
    lacks: ClassVar[Mapping[str, str]] = {
        "other_sizes": "its position embeddings belong to one image size"
    }

    def check(self, size: tuple[int, int]) -> None:
        if size[0] != size[1]:
            near = nearest_multiple(max(size), self.patch)
            raise MtlError(
                f"input.size = {written(size)}: vit_b_16 reads square images only; "
                f"expected one number, such as {near}, or another encoder"
            )
        require_whole_patches("vit_b_16", size, (self.patch, self.patch))

    def options(self, size: tuple[int, int]) -> dict[str, object]:
        return {"image_size": size[0]}

    def fitted(self, state: Mapping[str, Tensor], size: tuple[int, int]) -> Mapping[str, Tensor]:
        from torchvision.models.vision_transformer import interpolate_embeddings

        if "encoder.pos_embedding" not in state:
            return state  # `load` will report what is missing
        resized: Mapping[str, Tensor] = interpolate_embeddings(size[0], self.patch, dict(state))
        return resized

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
