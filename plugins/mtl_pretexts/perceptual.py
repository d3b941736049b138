"""Perceptual distance: how far a restored image is from the clean one, as a network sees both.

After Johnson, Alahi and Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016: features of
several layers are compared. The judge is either a momentum copy of the encoder that is being trained (no outside weights), or
torchvision's VGG16.

Ours: a layer's distance is RELATIVE, the mean |restored - clean| over its channels and positions, divided by the mean |clean|. So a
layer counts the same whatever the scale of its features, which grows as an encoder learns; and 0.1 means "10 % off", as an L1 of
0.05 does for a mid-gray pixel.

Shapes: B images (B, 3, H, W) in [0, 1]; a layer is (B, C, h, w).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from mtlcore import EMA, BuildContext, FrozenModule, MtlError

FINEST = 3  # layers, where none are named
TINY = 1e-6
VGG_ENDS = (
    3,
    8,
    15,
    22,
)  # relu1_2, relu2_2, relu3_3, relu4_3: Johnson's, by their places in torchvision's `features`
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Layers = Callable[[Tensor], Sequence[Tensor]]


def relative_distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Layers of the restored and of the clean images -> (B,) fp32: the mean relative error, over layers."""
    return torch.stack([_size(f - w) / (_size(w) + TINY) for f, w in zip(found, wanted)]).mean(0)


def _size(layer: Tensor) -> Tensor:
    return layer.float().abs().mean((1, 2, 3))


class Judge(nn.Module):
    """(restored, clean) -> (B,). Gradient flows into the restored images, never into the judge."""

    def __init__(self, net: EMA | FrozenModule, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.layers = net, layers

    def forward(self, restored: Tensor, clean: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._look(clean)
        return relative_distance(self._look(restored), wanted)

    def _look(self, images: Tensor) -> list[Tensor]:
        found = self.net(images)
        maps = found.maps if isinstance(self.net, EMA) else found
        return [maps[i] for i in self.layers]


def ema_judge(context: BuildContext, layers: tuple[int, ...], momentum: float) -> Judge:
    """The encoder's momentum copy, by its running statistics; layers are its maps, 0 the finest."""
    return Judge(
        EMA(context.encoder, momentum),
        _chosen(layers, len(context.info.channels), "the encoder's maps"),
    )


def vgg16_judge(layers: tuple[int, ...], weights: str) -> Judge:
    """VGG16 as deep as the layers need, fixed and not saved. weights: a file, or "" for torchvision's own.

    Raises MtlError where they can't be had.
    """
    chosen = _chosen(layers, len(VGG_ENDS), "VGG16's relu1_2, relu2_2, relu3_3, relu4_3")
    net = Vgg16(max(chosen) + 1)
    net.load(_read(weights) if weights else _published())
    return Judge(FrozenModule(net), chosen)


def _chosen(layers: tuple[int, ...], known: int, what: str) -> tuple[int, ...]:
    if any(layer >= known for layer in layers):
        raise MtlError(
            f"inpainting: layers = {list(layers)}: expected numbers from 0 to {known - 1} ({what}, 0 the finest)"
        )
    return layers or tuple(range(min(FINEST, known)))


# ---------------------------------------------------------------------------------------------------- VGG16


class Vgg16(nn.Module):
    """torchvision's VGG16 up to its `depth`-th compared layer: images in [0, 1], which it normalizes -> that many layers."""

    mean: Tensor
    std: Tensor

    def __init__(self, depth: int) -> None:
        super().__init__()
        from torchvision.models import vgg16  # late: 1.9 s

        with torch.device("meta"):  # 138 million weights, of which the first layers are kept
            whole = vgg16(weights=None).features
        ends = VGG_ENDS[:depth]
        self.blocks = nn.ModuleList(whole[a + 1 : b + 1] for a, b in zip((-1, *ends), ends))
        self.to_empty(device="cpu")
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x, layers = (images - self.mean) / self.std, []
        for block in self.blocks:
            x = block(x)
            layers.append(x)
        return tuple(layers)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Weights by torchvision's names ("features.0.weight"); deeper ones are left aside. Raises MtlError for what is missing."""
        own = {
            f"features.{name}": p for block in self.blocks for name, p in block.named_parameters()
        }
        wrong = [
            name for name, p in own.items() if name not in state or state[name].shape != p.shape
        ]
        if wrong:
            raise MtlError(
                f"inpainting: these are no weights of torchvision's VGG16; missing or of another shape: {', '.join(wrong)}"
            )
        for name, p in own.items():
            p.data.copy_(state[name])


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
            "inpainting: perceptual = \"vgg16\": torchvision's weights are not in the cache and can't be downloaded "
            f'({reason}). Give a file of them, vgg16_weights = "<file>", or choose perceptual = "ema" or "none"'
        ) from error
    return state


def _read(path: str) -> Mapping[str, Tensor]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise MtlError(f'inpainting: vgg16_weights = "{path}": no such file')
    try:
        state: Any = _tensors(file)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise MtlError(
            f"inpainting: vgg16_weights: {file} can't be read as a file of tensors: {reason}"
        ) from error
    if not isinstance(state, dict):
        raise MtlError(
            f"inpainting: vgg16_weights: {file} holds no network's state (a table of names and tensors)"
        )
    return state


def _tensors(file: Path) -> Any:
    if file.suffix != ".safetensors":
        return torch.load(file, map_location="cpu", weights_only=True)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
