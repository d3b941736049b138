"""Perceptual distance: compare a restored image with the clean one in a network's features.

After Johnson, Alahi and Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and
Super-Resolution", ECCV 2016: features of several layers are compared. The network is a momentum
copy of the encoder in training (no outside weights), or torchvision's VGG16.

Ours: the distance of a layer is relative. It is the mean |restored - clean| over channels and
positions, divided by the mean |clean|. So a layer counts the same whatever the scale of its
features, which grows while an encoder learns. 0.1 means "10 % off", as an L1 of 0.05 does for a
mid-gray pixel.

Shapes: B images (B, 3, H, W) in [0, 1]; a layer is (B, C, h, w).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from mtlcore import EMA, BuildContext, FrozenModule, MtlError

FINEST = 3  # how many layers are compared by default
EPSILON = 1e-6
# Johnson's relu1_2, relu2_2, relu3_3, relu4_3: their indices in torchvision's `features`.
VGG_ENDS = (3, 8, 15, 22)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def relative_distance(restored: Sequence[Tensor], clean: Sequence[Tensor]) -> Tensor:
    """Layers of the restored and of the clean images -> (B,) fp32: mean relative error."""
    errors: list[Tensor] = []
    for of_restored, of_clean in zip(restored, clean):
        difference = _size(of_restored - of_clean)
        errors.append(difference / (_size(of_clean) + EPSILON))
    return torch.stack(errors).mean(0)


def _size(layer: Tensor) -> Tensor:
    """(B, C, h, w) -> (B,): mean absolute value."""
    return layer.float().abs().mean((1, 2, 3))


class PerceptualDistance(nn.Module):
    """(restored, clean) -> (B,). Gradient flows into the restored images, not into the network."""

    def __init__(self, net: EMA | FrozenModule, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.net = net
        self.layers = layers

    def forward(self, restored: Tensor, clean: Tensor) -> Tensor:
        with torch.no_grad():
            clean_layers = self._compared(clean)
        return relative_distance(self._compared(restored), clean_layers)

    def _compared(self, images: Tensor) -> list[Tensor]:
        if isinstance(self.net, EMA):
            # No layer runs beyond the coarsest compared map.
            maps = self.net.call("finest_maps", images, max(self.layers) + 1)
        else:
            maps = self.net(images)  # VGG16 ends with its last compared layer
        assert isinstance(maps, tuple)
        return [maps[i] for i in self.layers]


def ema_distance(
    context: BuildContext, layers: tuple[int, ...], momentum: float
) -> PerceptualDistance:
    """Compare maps of the encoder's momentum copy, with its running batch statistics."""
    chosen = _chosen(layers, len(context.info.channels), "the encoder's maps")
    return PerceptualDistance(EMA(context.encoder, momentum), chosen)


def vgg16_distance(layers: tuple[int, ...], weights: str) -> PerceptualDistance:
    """Compare layers of VGG16, which is fixed and not saved with the run.

    weights: a file, or "" for torchvision's own. Raises MtlError if they are not available.
    """
    chosen = _chosen(layers, len(VGG_ENDS), "VGG16's relu1_2, relu2_2, relu3_3, relu4_3")
    net = Vgg16(max(chosen) + 1)
    net.load(_read(weights) if weights else _published())
    return PerceptualDistance(FrozenModule(net), chosen)


def _chosen(layers: tuple[int, ...], known: int, what: str) -> tuple[int, ...]:
    if any(layer >= known for layer in layers):
        raise MtlError(
            f"inpainting: layers = {list(layers)}: expected numbers from 0 to {known - 1} "
            f"({what}, 0 the finest)"
        )
    return layers or tuple(range(min(FINEST, known)))


# ------------------------------------------------------------------------------------------ VGG16


class Vgg16(nn.Module):
    """torchvision's VGG16 up to the `depth`-th compared layer.

    Images in [0, 1], which it normalizes, -> `depth` layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, depth: int) -> None:
        super().__init__()
        from torchvision.models import vgg16  # imported late: it takes 1.9 s

        # On the meta device: the whole network has 138 million weights, and few are needed.
        with torch.device("meta"):
            whole = vgg16(weights=None).features
        ends = VGG_ENDS[:depth]
        spans = pairwise((-1, *ends))
        self.blocks = nn.ModuleList(whole[a + 1 : b + 1] for a, b in spans)
        self.to_empty(device="cpu")
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = (images - self.mean) / self.std
        layers: list[Tensor] = []
        for block in self.blocks:
            x = block(x)
            layers.append(x)
        return tuple(layers)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load weights by torchvision's names ("features.0.weight"); ignore deeper layers.

        Raises MtlError if a weight is missing or has another shape.
        """
        own: dict[str, nn.Parameter] = {}
        # A block keeps the indices of torchvision's `features`, since it is a slice of it.
        for block in self.blocks:
            for name, parameter in block.named_parameters():
                own[f"features.{name}"] = parameter
        wrong: list[str] = []
        for name, parameter in own.items():
            if getattr(state.get(name), "shape", None) != parameter.shape:
                wrong.append(name)
        if wrong:
            raise MtlError(
                "inpainting: these are not the weights of torchvision's VGG16; "
                f"missing or of another shape: {', '.join(wrong)}"
            )
        for name, parameter in own.items():
            parameter.data.copy_(state[name])


def _published() -> Mapping[str, Tensor]:
    from torchvision.models import VGG16_Weights

    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            VGG16_Weights.IMAGENET1K_V1.url,
            map_location="cpu",
            progress=False,
            check_hash=True,
            weights_only=True,
        )
    except (OSError, RuntimeError, HTTPException) as error:
        reason = str(error).partition("\n")[0]
        raise MtlError(
            'inpainting: perceptual = "vgg16": torchvision\'s weights are not in the cache and '
            f'can\'t be downloaded ({reason}). Set vgg16_weights = "<file>", or '
            'perceptual = "ema" or "none"'
        ) from error
    return state


def _read(path: str) -> Mapping[str, Tensor]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise MtlError(f'inpainting: vgg16_weights = "{path}": no such file')
    try:
        state = _tensors(file)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, UnpicklingError):  # torch advises to run the code in the file
            reason = "it is damaged, or holds Python objects beside tensors"
        raise MtlError(
            f"inpainting: vgg16_weights: {file} can't be read as a file of tensors: {reason}"
        ) from error
    if not isinstance(state, dict):
        raise MtlError(
            f"inpainting: vgg16_weights: {file} holds no state dict (names and tensors), "
            f"got {type(state).__name__}"
        )
    return state


def _tensors(file: Path) -> object:
    if file.suffix != ".safetensors":
        return torch.load(file, map_location="cpu", weights_only=True)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
