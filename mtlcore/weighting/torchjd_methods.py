"""The table of TorchJD's methods: how each is used here, and which can't be used.

TorchJD 0.18, https://torchjd.org. Nothing here imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from attrs import frozen

from ..errors import MtlError, nearest

DRAWN = "projects in a drawn order: fair, but other names in the order give another draw"
LEARNS = "the learned scale follows the loss's size"


@frozen
class Method:
    """One method of TorchJD.

    level: "losses" if it is a scalarizer of the losses, "gramian" if it needs the Gramian.
    cites: its paper.
    scale: K -> the factor that makes a task weight of 1 mean the sum of losses. Most methods of
    TorchJD return weights that add up to 1, so the factor is K.
    defaults: parameters that TorchJD requires, with the paper's choice.
    positive: parameters that must be above 0, which TorchJD does not check.
    lacks: as in `Component`.
    protects: True if the step opposes no gradient of a task. It then opposes no primary gradient.
    additive: as in `LossWeighting`.
    """

    level: Literal["losses", "gramian"]
    cites: str
    scale: Callable[[int], float] = float
    defaults: Mapping[str, float] = {}
    positive: tuple[str, ...] = ()
    lacks: Mapping[str, str] = {}
    protects: bool = False
    additive: bool = False


def _one(_: int) -> float:
    return 1.0


def _two(_: int) -> float:
    return 2.0


def _square(k: int) -> float:
    return float(k * k)


METHODS: dict[str, Method] = {
    "DWA": Method(
        level="losses",
        cites="Liu, Johns and Davison 2019, CVPR, eq. 7, arXiv:1803.10704",
        scale=_one,
    ),
    "FAMO": Method(
        level="losses",
        cites="Liu et al. 2023, NeurIPS, Algorithm 2, arXiv:2306.03792",
    ),
    "GeometricMean": Method(
        level="losses",
        cites="Chennupati et al. 2019, CVPR workshops (GLS), arXiv:1904.08492",
    ),
    "IMTLL": Method(
        level="losses",
        cites="Liu et al. 2021, ICLR (IMTL-L), OpenReview IMPnRXEWpvr",
        scale=_one,
        lacks={"units": LEARNS},
        additive=True,
    ),
    "Random": Method(
        level="losses",
        cites="Lin et al. 2022, TMLR (RLW), Algorithm 2, arXiv:2111.10603",
        lacks={
            "order": "draws a weight for each place in the order",
            "sum_of_losses": "weights are drawn again in each step; their mean is 1",
        },
        additive=True,
    ),
    "STCH": Method(
        level="losses",
        cites="Lin et al. 2024, ICML, arXiv:2402.19078",
        scale=_square,
        defaults={"mu": 0.1},
        lacks={"units": "mu is in units of the loss"},
    ),
    "UW": Method(
        level="losses",
        cites="Kendall, Gal and Cipolla 2018, CVPR, eq. 7, arXiv:1705.07115",
        scale=_two,
        lacks={"units": LEARNS},
        additive=True,
    ),
    "AlignedMTL": Method(
        level="gramian",
        cites="Senushkin et al. 2023, CVPR, Algorithm 1, arXiv:2305.19000",
    ),
    "CAGrad": Method(
        level="gramian",
        cites="Liu et al. 2021, NeurIPS, Algorithm 1, arXiv:2110.14048",
        defaults={"c": 0.4},
        lacks={
            "sum_of_losses": (
                "a step of c times the mean gradient's length is added: 1 + c where all agree"
            )
        },
    ),
    "DualProj": Method(
        level="gramian",
        cites="Lopez-Paz and Ranzato 2017, NeurIPS (GEM), eq. 11, arXiv:1706.08840",
        scale=_one,
        protects=True,
    ),
    "FairGrad": Method(
        level="gramian",
        cites="Ban and Ji 2024, ICML, eq. 4, arXiv:2402.15638",
        scale=_one,
        defaults={"alpha": 2.0, "max_iters": 50},
        positive=("alpha",),
    ),
    "GradVac": Method(
        level="gramian",
        cites="Wang et al. 2021, ICLR, arXiv:2010.05874",
        scale=_one,
        lacks={"order": DRAWN},
    ),
    "IMTLG": Method(
        level="gramian",
        cites="Liu et al. 2021, ICLR (IMTL-G), OpenReview IMPnRXEWpvr",
    ),
    "MGDA": Method(
        level="gramian",
        cites="Sener and Koltun 2018, NeurIPS, Algorithm 2, arXiv:1810.04650",
    ),
    "PCGrad": Method(
        level="gramian",
        cites="Yu et al. 2020, NeurIPS, Algorithm 1, arXiv:2001.06782",
        scale=_one,
        lacks={"order": DRAWN},
    ),
    "UPGrad": Method(
        level="gramian",
        cites="Quinton and Rey 2024, arXiv:2406.16232",
        scale=_one,
        protects=True,
    ),
}

ALIASES = {"RLW": "Random", "GLS": "GeometricMean"}

_IS_EQUAL = 'that is `name = "equal"` with the tasks\' own `weight`'
_NEEDS_PREFERENCES = "it needs a new random preference vector in each step"
_NEEDS_BATCHES = "it needs the gradients of two independent batches per step"
_NEEDS_GRADIENTS = "it needs every gradient, not their Gramian"

REFUSED: dict[str, str] = {
    "Constant": _IS_EQUAL,
    "Mean": _IS_EQUAL,
    "Sum": _IS_EQUAL,
    "COSMOS": _NEEDS_PREFERENCES,
    "PBI": _NEEDS_PREFERENCES,
    "MoDo": _NEEDS_BATCHES,
    "SDMGrad": _NEEDS_BATCHES,
    "ConFIG": _NEEDS_GRADIENTS,
    "ExcessMTL": _NEEDS_GRADIENTS,
    "GradDrop": _NEEDS_GRADIENTS,
    "TrimmedMean": _NEEDS_GRADIENTS,
    "CRMOGM": "it wraps another weighting",
    "Krum": "it selects among workers that send the same gradient, not among tasks",
    "NashMTL": (
        "TorchJD gives it no public weighting, and it keeps state that no checkpoint would hold"
    ),
    "PCD": "it treats the first task as primary: use primary_projection or budget",
}


def plain(name: str) -> str:
    """Remove what does not distinguish methods: case, "-" and "_". IMTL-G is IMTLG."""
    return name.casefold().replace("-", "").replace("_", "")


def method_named(name: str) -> str:
    """Return TorchJD's own spelling of a method.

    Raises MtlError if there is no such method, or if it can't be used here.
    """
    known = {plain(official): official for official in (*METHODS, *REFUSED)}
    known |= {plain(alias): official for alias, official in ALIASES.items()}
    official = known.get(plain(name))
    if official is None:
        raise MtlError(f"[weighting] torchjd has no method {name!r}; {nearest(name, METHODS)}")
    if official in REFUSED:
        raise MtlError(
            f"[weighting] torchjd:{official} can't be used: {REFUSED[official]}; "
            f"{nearest('', METHODS)}"
        )
    return official
