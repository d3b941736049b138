"""The layers of timm's networks, as timm's own layer decay groups them."""

from __future__ import annotations

from torch import nn

from ..contracts import Layer

_HEAD = "\0"  # no parameter has this name, so timm groups it with the classifier
NET = "net."  # timm's network in the encoder's module


def layers_of(net: nn.Module) -> list[Layer]:
    """Return the layers of a network without its classifier. () if timm does not know them.

    What timm groups with the classifier, such as a norm after pooling, is in no layer.
    """
    fine, coarse = _places(net, coarse=False), _places(net, coarse=True)
    if not fine:
        return []
    members: dict[int, list[str]] = {}
    for name, place in fine.items():
        if place != fine[_HEAD]:
            members.setdefault(place, []).append(name)
    layers: list[Layer] = []
    for place in sorted(members):
        names = members[place]
        stage = min(coarse[name] for name in names)
        layers.append(Layer(stage, tuple(NET + name for name in names)))
    return layers


def _places(net: nn.Module, coarse: bool) -> dict[str, int]:
    """Return parameter name -> the number of its group, and that of the classifier as `_HEAD`."""
    from timm.models._manipulate import group_with_matcher

    matcher = getattr(net, "group_matcher", None)
    if matcher is None:
        return {}
    named = [(name, name) for name, _ in net.named_parameters()]
    groups = group_with_matcher([*named, (_HEAD, _HEAD)], matcher(coarse=coarse))
    return {name: number for number, names in groups.items() for name in names}
