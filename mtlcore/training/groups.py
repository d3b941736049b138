"""The parameters of a network in groups, each with its learning rate and weight decay.

Layer-wise learning rates: Clark et al., "ELECTRA", ICLR 2020, arXiv:2003.10555, as timm computes
them. The last layer of an encoder with n layers has the rate of the encoder times decay, its first
one that rate times decay^n. Heads have the rate of the optimizer.
"""

from __future__ import annotations

import difflib
import re
from fnmatch import fnmatchcase

from attrs import define, frozen
from torch import nn

from ..config.experiment import Experiment, GroupOverride
from ..contracts import ParameterGroup
from ..errors import MtlError
from ..model.freezing import layers_of
from ..model.hybrid import HybridModel

NEAREST = 5  # names that a message suggests
_WRAPPERS = re.compile(r"^encoder\.(net\.)+")


@frozen(eq=False)
class Groups:
    """The groups of an optimizer, and the learning rate of each after the warm-up."""

    groups: list[ParameterGroup]
    lrs: tuple[float, ...]


@define(eq=False)
class _Trained:
    """One trained parameter.

    name: as users write it. lr: after the warm-up. weight_decay: 0 for vectors.
    """

    name: str
    parameter: nn.Parameter
    lr: float
    weight_decay: float


def groups_of(model: HybridModel, experiment: Experiment) -> Groups:
    """Return all trained parameters of the run in groups.

    The first two have the learning rate of the optimizer: weights, and vectors without decay.
    Raises MtlError if an encoder's depth is unknown, or if a pattern matches nothing.
    """
    optimizer, settings = experiment.optimizer, experiment.parameter_groups
    scales = _layer_scales(model, experiment)
    trained: list[_Trained] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = optimizer.lr
        if name.startswith("encoder."):
            lr = (settings.encoder_lr or lr) * scales.get(name, 1.0)
        decay = optimizer.weight_decay if parameter.ndim > 1 else 0.0
        trained.append(_Trained(short_name(name), parameter, lr, decay))
    for override in settings.groups:
        _apply(override, trained, model)
    return _grouped(trained, optimizer.lr, optimizer.weight_decay)


def short_name(name: str) -> str:
    """Return the name of a parameter as users write it: encoder.net.net.conv1 -> encoder.conv1."""
    return _WRAPPERS.sub("encoder.", name)


def _layer_scales(model: HybridModel, experiment: Experiment) -> dict[str, float]:
    """Return parameter name -> factor of its learning rate, for layer_decay."""
    decay = experiment.parameter_groups.layer_decay
    if decay == 1.0:
        return {}
    layers = layers_of(
        model.encoder, experiment.encoder, f"optimizer.layer_decay = {decay}", "layer_decay = 1.0"
    )
    scales: dict[str, float] = {}
    for below, layer in enumerate(reversed(layers), 1):
        scales |= dict.fromkeys((f"encoder.{name}" for name in layer.names), decay**below)
    return scales


def _apply(override: GroupOverride, trained: list[_Trained], model: HybridModel) -> None:
    matching = [each for each in trained if fnmatchcase(each.name, override.match)]
    if not matching:
        raise MtlError(_matches_nothing(override.match, trained, model))
    for each in matching:
        if override.lr is not None:
            each.lr = override.lr
        if override.weight_decay is not None:
            each.weight_decay = override.weight_decay


def _matches_nothing(match: str, trained: list[_Trained], model: HybridModel) -> str:
    where = f"optimizer.groups: match = {match!r}"
    every = [short_name(name) for name, _ in model.named_parameters()]
    if any(fnmatchcase(name, match) for name in every):
        return f"{where}: all of these parameters are frozen: see encoder.freeze"
    names = [each.name for each in trained]
    if any(name.startswith(f"{match}.") for name in names):
        return f'{where} is no parameter, but a part of the network: set match = "{match}.*"'
    plain = match.replace("*", "")

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, plain, name[: len(plain) + 1]).ratio()

    close = sorted(names, key=likeness, reverse=True)[:NEAREST]
    return f"{where}: no parameter has such a name; nearest: {', '.join(close)}"


def _grouped(trained: list[_Trained], lr: float, weight_decay: float) -> Groups:
    """Collect parameters with equal values, in the order of their first parameter."""
    # These two come first, so that a run without other rates has exactly them.
    found: dict[tuple[float, float, bool], list[nn.Parameter]] = {
        (lr, weight_decay, False): [],
        (lr, 0.0, True): [],
    }
    for each in trained:
        key = (each.lr, each.weight_decay, each.parameter.ndim <= 1)
        found.setdefault(key, []).append(each.parameter)

    groups: list[ParameterGroup] = []
    lrs: list[float] = []
    for (group_lr, decay, _), parameters in found.items():
        if not parameters:
            continue
        group: ParameterGroup = {"params": parameters, "weight_decay": decay}
        if group_lr != lr:
            group["lr"] = group_lr
        groups.append(group)
        lrs.append(group_lr)
    return Groups(groups, tuple(lrs))
