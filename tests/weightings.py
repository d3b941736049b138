"""Loss weightings for the tests of training.

They are every registered weighting, at each level and interval, and some of TorchJD's.
"""

from __future__ import annotations

import attrs
import torch
from attrs import evolve, field, frozen
from torch import nn
from toys import RelativeLocation, Toy, experiment

from mtlcore import LossWeighting
from mtlcore.config.experiment import Experiment
from mtlcore.registry.catalog import catalog
from mtlcore.weighting import Schedule, TorchJD

GRAMIANS = ("UPGrad", "MGDA", "PCGrad", "IMTLG", "AlignedMTL")
SCALARIZERS = ("Random", "DWA", "FAMO", "GeometricMean", "IMTLL", "STCH", "UW")
# The default of `schedule` would be the sum of losses.
CONFIGURED = {"schedule": Schedule(pretexts=((0.0, 0.2), (0.1, 1.5)))}


def registered() -> dict[str, LossWeighting]:
    """Return every registered weighting that needs no configuration, by name."""
    classes = {k: cls for k, cls in catalog().of_kind("weighting").items() if not cls.family}
    made = {k: CONFIGURED.get(k) or cls() for k, cls in classes.items()}
    return {k: w for k, w in made.items() if isinstance(w, LossWeighting)}


def strategies() -> dict[str, LossWeighting]:
    """Return the registered weightings and TorchJD's.

    Gramian weightings are at both levels, measured in each step and in every third.
    """
    torchjd = {f"torchjd:{name}": TorchJD(name) for name in (*GRAMIANS, *SCALARIZERS)}
    found: dict[str, LossWeighting] = {}
    for name, weighting in {**registered(), **torchjd}.items():
        levels = ("parameters", "features") if "at" in attrs.fields_dict(type(weighting)) else ()
        if weighting.at == "losses":
            found[name] = weighting
            continue
        for at in levels:
            for every in (1, 3):
                found[f"{name} at {at} every {every}"] = evolve(weighting, at=at, every=every)
    return found


STRATEGIES = strategies()


@frozen
class Fixed(LossWeighting):
    """Fixed task weights by name. It records the tasks of each call in `asked`."""

    of: dict[str, float] = field(factory=dict)
    at: str = "parameters"
    every: int = 1
    asked: list[tuple[str, ...]] = field(factory=list)

    def build(self, names):
        return FixedFactors(self)


class FixedFactors(nn.Module):
    def __init__(self, fixed: Fixed) -> None:
        super().__init__()
        self.fixed = fixed

    def forward(self, losses):
        self.fixed.asked.append(losses.names)
        return sum(
            self.fixed.of.get(name, 1.0) * value for name, value in zip(losses.names, losses.values)
        )


@frozen
class Spare(RelativeLocation):
    """A pretext with a head that has a parameter without a gradient."""

    def build(self, context):
        head = super().build(context)
        head.spare = nn.Parameter(torch.ones(2, 2))
        return head


def with_spare(exp: Experiment) -> Experiment:
    """Replace the pretext `location` of `small` by `Spare`."""
    return evolve(exp, pretexts={"location": evolve(exp.pretexts["location"], component=Spare())})


def small(weighting: LossWeighting, **fields) -> Experiment:
    """Return two tasks and a pretext that read the clean view, without batch statistics.

    So every level of gradients is allowed.
    """
    made = {
        "tasks": ("fer", "gender"),
        "pretexts": ("location",),
        "encoder": Toy(norm="none"),
        "weights": {"location": 0.5},
    }
    return experiment(weighting=weighting, **{**made, **fields})
