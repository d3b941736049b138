"""The strategies that the train_state's tests go through: every registered one, at each level and age, and some of TorchJD's."""

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
TOLD = {"schedule": Schedule(pretexts=((0.0, 0.2), (0.1, 1.5)))}  # its default is the sum of losses


def registered() -> dict[str, LossWeighting]:
    """name -> the strategy as it comes, of every weighting that needs no key."""
    classes = {k: cls for k, cls in catalog().of_kind("weighting").items() if not cls.family}
    made = {k: TOLD.get(k) or cls() for k, cls in classes.items()}
    return {k: w for k, w in made.items() if isinstance(w, LossWeighting)}


def strategies() -> dict[str, LossWeighting]:
    """The registered ones and TorchJD's, Gramian ones at both levels, measured in each step and in every third."""
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
    """Task weights by name, whatever it sees; counts how often it is asked."""

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
    """Its head has a parameter that no loss reaches."""

    def build(self, context):
        head = super().build(context)
        head.spare = nn.Parameter(torch.ones(2, 2))
        return head


def with_spare(exp: Experiment) -> Experiment:
    """The pretext `location` of `small` has a head with a parameter that no loss reaches."""
    return evolve(exp, pretexts={"location": evolve(exp.pretexts["location"], component=Spare())})


def small(weighting: LossWeighting, **fields) -> Experiment:
    """Two tasks and a pretext that all read the clean view, so that every level is allowed; no batch statistics."""
    made = {
        "tasks": ("fer", "gender"),
        "pretexts": ("location",),
        "encoder": Toy(norm="none"),
        "weights": {"location": 0.5},
    }
    return experiment(weighting=weighting, **{**made, **fields})
