"""Freeze parts of the encoder: no gradient, eval mode, not in the optimizer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..config.experiment import Freeze
from ..contracts import Encoder, Layer
from ..errors import MtlError
from .inference import SharedEncoder

NET = "net."  # the encoder's own network inside of `SharedEncoder`


def layers_of(shared: SharedEncoder, encoder: Encoder, where: str, fix: str) -> list[Layer]:
    """Return the layers of the network with the names of their parameters in `SharedEncoder`.

    where, fix: the setting that needs them, and its value without them, for the message.
    Raises MtlError if the encoder does not declare its layers.
    """
    layers: list[Layer] = []
    names = [name for name, _ in shared.net.named_parameters()]
    for layer in encoder.layers(shared.net):
        under = [NET + name for name in names if _is_in(name, layer)]
        layers.append(Layer(layer.stage, tuple(under)))
    if not layers:
        raise MtlError(
            f"{where}: the encoder {type(encoder).__name__} does not declare its layers: "
            f"set {fix}, or implement Encoder.layers"
        )
    return layers


def freeze_encoder(shared: SharedEncoder, encoder: Encoder, freeze: Freeze) -> None:
    """Freeze these parts of an encoder.

    Raises MtlError if the encoder does not declare its layers, or has fewer stages.
    """
    if freeze == "none":
        return
    if freeze == "all":
        frozen = {name for name, _ in shared.named_parameters()}
    else:
        frozen = _first_stages(shared, encoder, 0 if freeze == "stem" else freeze)
    for name, parameter in shared.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    shared.keep_in_eval_mode(_frozen_modules(shared, frozen))


def _first_stages(shared: SharedEncoder, encoder: Encoder, stages: int | str) -> set[str]:
    """Return the names of the parameters up to this stage; stage 0 is the stem."""
    assert isinstance(stages, int)
    layers = layers_of(shared, encoder, f"encoder.freeze = {stages or 'stem'!r}", 'freeze = "all"')
    most = max(layer.stage for layer in layers)
    if stages > most:
        raise MtlError(
            f"encoder.freeze = {stages}: this encoder has {most} stages: "
            f'set freeze = {most} or less, or freeze = "all"'
        )
    found: set[str] = set()
    for layer in layers:
        if layer.stage <= stages:
            found.update(layer.names)
    return found


def _frozen_modules(shared: SharedEncoder, frozen: set[str]) -> Sequence[nn.Module]:
    """Return the largest modules with parameters that are all frozen.

    What they hold without parameters, such as dropout, belongs to them.
    """
    found: list[nn.Module] = []
    inside: list[str] = []
    for path, module in shared.net.named_modules():
        start = f"{NET}{path}." if path else NET
        if any(start.startswith(outer) for outer in inside):
            continue
        names = [start + name for name, _ in module.named_parameters()]
        if names and frozen.issuperset(names):
            found.append(module)
            inside.append(start)
    return found


def _is_in(name: str, layer: Layer) -> bool:
    """Whether a parameter is one of a layer, or of its modules."""
    return any(name == start or name.startswith(f"{start}.") for start in layer.names)
