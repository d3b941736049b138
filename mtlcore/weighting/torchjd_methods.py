"""TorchJD's scalarizers and Gramian weightings: `torchjd:UPGrad`, `torchjd:DWA` ... The one file that knows TorchJD.

TorchJD (Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, arXiv:2406.16232; MIT) computes; here are
- names: a method's memory is kept by task name, so that tasks may be missing from a step and a resumed run goes on exactly;
- units: task weights are scaled so that 1 is the sum of losses (TorchJD's weights mostly add up to 1: they are multiplied by K);
- numbers: a Gramian is divided by its mean diagonal and solved in float64 on the CPU (one host sync on a GPU); one that is not
  finite gives the sum of losses, and the step is skipped anyway;
- absence: a task whose gradient is exactly 0 has task weight 1 (0 times anything), and the others the task weights that they have without it;
- draws: TorchJD draws from torch's global generator, which is seeded from the step's keyed_rng and put back afterwards.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from attrs import Attribute, field, frozen
from attrs.validators import ge, in_
from torch import Tensor, nn
from torch.func import functional_call

from ..contracts import LossWeighting, StepLosses
from ..errors import MtlError, nearest
from ..rng import Rng
from .gramian import GramianModule
from .state import ByName

SERIES = "0.18"  # private attributes are set, so another series is refused
DEPENDENT = 1e-4  # an eigenvalue of the cosines: below it, rounding in a float32 Gramian says more than the gradients do
INSTALL, SOLVERS = "pip install 'mtlcore[torchjd]'", "pip install 'mtlcore[torchjd-solvers]'"

# ------------------------------------------------------------------------------------------------ the methods

DRAWN = "projects in a drawn order: fair, but other names in the order give another draw"
LEARNS = "the learned scale follows the loss's size"


@frozen
class Method:
    """One of TorchJD's, as it is used here.

    level: what it looks at. scale: (K) -> what its weights are multiplied by, so that 1 is the sum of losses. cites: its paper.
    defaults: of its own parameters that TorchJD wants to be given (the paper's choice). positive: those that must be above 0, which
    TorchJD does not ask. lacks: as in `Component`.
    protects: no task's gradient is opposed, so the primary one is not either. additive: as in `LossWeighting`.
    """

    level: Literal["losses", "gramian"]
    cites: str
    scale: Callable[[int], float] = float
    defaults: Mapping[str, Any] = {}
    positive: tuple[str, ...] = ()
    lacks: Mapping[str, str] = {}
    protects: bool = False
    additive: bool = False


def _one(_: int) -> float:
    return 1.0


METHODS: dict[str, Method] = {
    "DWA": Method("losses", "Liu, Johns and Davison 2019, CVPR, eq. 7, arXiv:1803.10704", _one),
    "FAMO": Method("losses", "Liu et al. 2023, NeurIPS, Algorithm 2, arXiv:2306.03792"),
    "GeometricMean": Method(
        "losses", "Chennupati et al. 2019, CVPR workshops (GLS), arXiv:1904.08492"
    ),
    "IMTLL": Method(
        "losses",
        "Liu et al. 2021, ICLR (IMTL-L), OpenReview IMPnRXEWpvr",
        _one,
        lacks={"units": LEARNS},
        additive=True,
    ),
    "Random": Method(
        "losses",
        "Lin et al. 2022, TMLR (RLW), Algorithm 2, arXiv:2111.10603",
        lacks={
            "order": "draws a weight for each place in the order",
            "sum_of_losses": "weights are drawn anew in each step; their mean is 1",
        },
        additive=True,
    ),
    "STCH": Method(
        "losses",
        "Lin et al. 2024, ICML, arXiv:2402.19078",
        lambda k: float(k * k),
        defaults={"mu": 0.1},
        lacks={"units": "mu is in units of the loss"},
    ),
    "UW": Method(
        "losses",
        "Kendall, Gal and Cipolla 2018, CVPR, eq. 7, arXiv:1705.07115",
        lambda _: 2.0,
        lacks={"units": LEARNS},
        additive=True,
    ),
    "AlignedMTL": Method("gramian", "Senushkin et al. 2023, CVPR, Algorithm 1, arXiv:2305.19000"),
    "CAGrad": Method(
        "gramian",
        "Liu et al. 2021, NeurIPS, Algorithm 1, arXiv:2110.14048",
        defaults={"c": 0.4},
        lacks={
            "sum_of_losses": "a step of c times the mean gradient's length is added: 1 + c where all agree"
        },
    ),
    "DualProj": Method(
        "gramian",
        "Lopez-Paz and Ranzato 2017, NeurIPS (GEM), eq. 11, arXiv:1706.08840",
        _one,
        protects=True,
    ),
    "FairGrad": Method(
        "gramian",
        "Ban and Ji 2024, ICML, eq. 4, arXiv:2402.15638",
        _one,
        defaults={"alpha": 2.0, "max_iters": 50},
        positive=("alpha",),
    ),
    "GradVac": Method(
        "gramian",
        "Wang et al. 2021, ICLR, arXiv:2010.05874",
        _one,
        lacks={"order": DRAWN},
    ),
    "IMTLG": Method("gramian", "Liu et al. 2021, ICLR (IMTL-G), OpenReview IMPnRXEWpvr"),
    "MGDA": Method("gramian", "Sener and Koltun 2018, NeurIPS, Algorithm 2, arXiv:1810.04650"),
    "PCGrad": Method(
        "gramian",
        "Yu et al. 2020, NeurIPS, Algorithm 1, arXiv:2001.06782",
        _one,
        lacks={"order": DRAWN},
    ),
    "UPGrad": Method("gramian", "Quinton and Rey 2024, arXiv:2406.16232", _one, protects=True),
}
ALIASES = {"RLW": "Random", "GLS": "GeometricMean"}
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("Constant", "Mean", "Sum"), 'that is `name = "equal"` with the tasks\' own `weight`'
    ),
    **dict.fromkeys(
        ("COSMOS", "PBI"),
        "it needs a preference vector that is drawn anew, to trace a Pareto front",
    ),
    **dict.fromkeys(
        ("MoDo", "SDMGrad"), "it needs the gradients of two independent batches a step"
    ),
    **dict.fromkeys(
        ("ConFIG", "ExcessMTL", "GradDrop", "TrimmedMean"),
        "it needs every gradient, not their Gramian",
    ),
    "CRMOGM": "it wraps another weighting",
    "Krum": "it chooses among honest and hostile senders of the same gradient, not among tasks",
    "NashMTL": "TorchJD gives it no public weighting, and it keeps state that no checkpoint would hold",
    "PCD": "it takes the first task for the primary one: see primary_projection and budget",
}


def plain(name: str) -> str:
    """Case, "-" and "_" do not count: IMTL-G is IMTLG."""
    return name.casefold().replace("-", "").replace("_", "")


def method_named(name: str) -> str:
    """TorchJD's own spelling of a method. Raises MtlError where it is unknown, or known and of no use here."""
    known = {plain(n): n for n in (*METHODS, *REFUSED)} | {
        plain(alias): n for alias, n in ALIASES.items()
    }
    official = known.get(plain(name))
    if official is None:
        raise MtlError(f"[weighting] torchjd has no method {name!r}; {nearest(name, METHODS)}")
    if official in REFUSED:
        raise MtlError(
            f"[weighting] torchjd:{official} can't be used: {REFUSED[official]}; {nearest('', METHODS)}"
        )
    return official


# ------------------------------------------------------------------------------------------------ the component


@frozen
class TorchJD(LossWeighting):
    """method: TorchJD's name for it ("UPGrad", "DWA", also "RLW"). options: the method's own parameters, as in { c = 0.4 }.

    at: "losses" for scalarizers; "parameters" (default) or "features" for Gramian weightings. every: measure each N-th step.
    Tasks are told apart by their `weight` alone: TorchJD's preference vectors are not offered.
    """

    name = "torchjd"
    family = True
    cites = "TorchJD: Quinton and Rey 2024, arXiv:2406.16232; and each method's own paper"
    method: str = field(converter=method_named)
    at: Literal["losses", "parameters", "features"] = field(
        validator=in_(("losses", "parameters", "features"))
    )
    every: int = field(default=1, validator=ge(1))
    options: dict[str, Any] = field(factory=dict)

    @at.default
    def _at_level(self) -> str:
        return "losses" if self.about.level == "losses" else "parameters"

    @at.validator
    def _at_fits(self, attribute: Attribute[Any], value: str) -> None:
        if (value == "losses") != (self.about.level == "losses"):
            expected = "'losses'" if self.about.level == "losses" else "'parameters' or 'features'"
            raise MtlError(f"weighting.at = {value!r}: torchjd:{self.method} works at {expected}")

    @every.validator
    def _every_fits(self, attribute: Attribute[Any], value: int) -> None:
        if value != 1 and self.at == "losses":
            raise MtlError(
                f"weighting.every = {value}: torchjd:{self.method} reads the losses, which cost nothing"
            )

    @options.validator
    def _options_are_numbers(self, attribute: Attribute[Any], options: dict[str, Any]) -> None:
        """What TorchJD would take, and make something else of."""
        for name, value in options.items():
            where = f"weighting.options.{name} = {value!r}: torchjd:{self.method} expects"
            if isinstance(value, bool):
                raise MtlError(f"{where} a number")
            if name in self.about.positive and not (isinstance(value, int | float) and value > 0):
                raise MtlError(f"{where} a number above 0")

    @property
    def about(self) -> Method:
        """What is known of the method without TorchJD."""
        return METHODS[self.method]

    @property
    def lacks(self) -> Mapping[str, str]:  # type: ignore[override]
        return self.about.lacks

    @property
    def additive(self) -> bool:  # type: ignore[override]
        return self.about.additive

    @property
    def protects(self) -> bool:  # type: ignore[override]
        """Is the primary gradient never opposed?"""
        return self.about.protects

    def build(self, names: Sequence[str]) -> nn.Module:
        return _MODULES.get(
            self.method, _Weighted if self.about.level == "gramian" else _Scalarized
        )(self, names)

    def make(self, *shape: int) -> Any:
        """TorchJD's object. Raises MtlError where TorchJD or a solver is missing, or where an option does not fit."""
        cls = self._class()
        options = {**self.about.defaults, **self._checked(cls)}
        try:
            return cls(*shape, **options)
        except ImportError as error:
            raise MtlError(
                f"[weighting] torchjd:{self.method}: a solver is missing ({error}): {SOLVERS}"
            ) from error
        except (TypeError, ValueError) as error:
            raise MtlError(
                f"[weighting] torchjd:{self.method}, options = {self.options}: {error}"
            ) from error

    def _class(self) -> Any:
        gramian = self.about.level == "gramian"
        try:
            version = importlib.metadata.version("torchjd")
            home = importlib.import_module(
                "torchjd.aggregation" if gramian else "torchjd.scalarization"
            )
        except ImportError as error:
            raise MtlError(
                f"[weighting] torchjd:{self.method} needs torchjd ({error}): {INSTALL}"
            ) from error
        if not version.startswith(f"{SERIES}."):
            raise MtlError(
                f"[weighting] torchjd {version} is installed; expected {SERIES}: {INSTALL}"
            )
        return getattr(home, f"{self.method}Weighting" if gramian else self.method)

    def _checked(self, cls: Any) -> dict[str, Any]:
        tensors = {"shape", "min_losses", "weights", "reference", "pref_vector", "projector"}
        known = [name for name in inspect.signature(cls).parameters if name not in tensors]
        for name in self.options:
            if name not in known:
                where = f"weighting.options.{name}: torchjd:{self.method} has no such option"
                raise MtlError(f"{where}; {nearest(name, known)}")
        return self.options


# ------------------------------------------------------------------------------------------------ Gramian weightings


class _Weighted(GramianModule):
    """A weighting without memory. TorchJD's object is held in a list, so that none of its tensors enters our state."""

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__()
        self.held, self.scale = [torchjd.make()], torchjd.about.scale

    def task_weights(self, losses: StepLosses, gram: Tensor) -> Tensor:
        solved = gram.detach().to("cpu", torch.float64)
        task_weights = torch.ones(len(gram), dtype=torch.float64)
        there = (solved.diagonal() > 0).nonzero().flatten()
        if not solved.isfinite().all() or not len(there):
            return task_weights
        names = tuple(losses.names[k] for k in there.tolist())
        solved = solved[there][:, there]
        with drawn_from(losses.rng):
            weights = self.weights(names, solved / solved.diagonal().mean())
        task_weights[there] = self.scale(len(there)) * weights.to(task_weights)
        return task_weights

    def weights(self, names: tuple[str, ...], gram: Tensor) -> Tensor:
        """(K,) from the float64 Gramian (K, K) of the tasks whose gradient is not 0; its mean diagonal is 1."""
        return self.held[0](gram)


class _Projected(_Weighted):
    """UPGrad and DualProj, solved on the COSINES, with the gradients' lengths as preferences: the same quadratic programme.

    TorchJD adds 1e-4 of the trace to the diagonal, so that a task with a small gradient beside a large one would not be seen, and
    not be protected. Put v = w / length in min v G v, v >= 1.
    """

    def weights(self, names: tuple[str, ...], gram: Tensor) -> Tensor:
        length, cosines = lengths_and_cosines(gram)
        self.held[0].pref_vector = length
        return self.held[0](cosines) / length


class _Aligned(_Weighted):
    """Aligned-MTL balances the Gramian's principal components within its rank, which must be known: a component that is rounding
    noise would be balanced like the others.

    The rank is that of the COSINES: a component is small where a gradient is short, which is no reason to leave it out. TorchJD is
    given the components themselves, a diagonal matrix, in which those left out are exactly 0.
    """

    def weights(self, names: tuple[str, ...], gram: Tensor) -> Tensor:
        _, cosines = lengths_and_cosines(gram)
        rank = (torch.linalg.eigvalsh(cosines) > DEPENDENT).sum()
        values, vectors = torch.linalg.eigh(gram)
        known = torch.where(torch.arange(len(gram)) >= len(gram) - rank, values, 0)  # they ascend
        self.held[0].pref_vector = vectors.mean(0)  # 1 / K each, seen along the components
        return vectors @ self.held[0](known.diag())


class _Impartial(_Weighted):
    """IMTL-G on the COSINES: its weights, over the gradients' lengths, give a step along which all gradients are equally long.

    The same weights where gradients are independent; where they are dependent, a short gradient counts as a long one does. Where
    there is no such step (two opposed gradients) it is 0.
    """

    def weights(self, names: tuple[str, ...], gram: Tensor) -> Tensor:
        length, cosines = lengths_and_cosines(gram)
        values, vectors = torch.linalg.eigh(cosines)
        known = torch.where(values > DEPENDENT, values, 0)
        reached = (
            vectors.sum(0)[known > 0].square().sum()
        )  # how much of (1 ... 1) the gradients span
        if reached < DEPENDENT:
            return torch.zeros_like(length)
        weights = (
            self.held[0](((vectors * known) @ vectors.T).float()) / length
        )  # float32: its limit leaves 0 at 0
        total = weights.sum()
        return weights / total if total != 0 else weights


def lengths_and_cosines(gram: Tensor) -> tuple[Tensor, Tensor]:
    """(K,) and (K, K)."""
    length = gram.diagonal().sqrt()
    return length, gram / torch.outer(length, length)


class _GradVac(_Weighted):
    """GradVac remembers the cosine that each ordered pair of tasks has had; TorchJD keeps it by place and saves none."""

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__(torchjd, names)
        self.cosine = ByName(names, pairs=True)

    def weights(self, names: tuple[str, ...], gram: Tensor) -> Tensor:
        weighting = self.held[0]
        weighting._phi_t, weighting._state_key = (
            self.cosine.read(names).to(gram),
            (len(gram), gram.dtype),
        )
        weights = weighting(gram)
        self.cosine.write(names, weighting._phi_t)
        return weights


@contextmanager
def drawn_from(rng: Rng) -> Iterator[None]:
    """torch's global CPU generator seeded from the step's stream; its state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.integer(0, 2**62))
        yield


# ------------------------------------------------------------------------------------------------ scalarizers


class _Scalarized(nn.Module):
    """A scalarizer without memory."""

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__()
        self.held, self.scale = [torchjd.make()], torchjd.about.scale

    def forward(self, losses: StepLosses) -> Tensor:
        return self.scale(len(losses.names)) * self.held[0](losses.values)


class _Geometric(_Scalarized):
    """The geometric mean takes logarithms: losses below 1e-12 count as that."""

    def forward(self, losses: StepLosses) -> Tensor:
        return self.scale(len(losses.names)) * self.held[0](losses.values.clamp_min(1e-12))


class _Random(_Scalarized):
    """Weights are drawn on the CPU, whatever the device: so all ranks and devices draw the same."""

    def forward(self, losses: StepLosses) -> Tensor:
        ones = torch.ones(len(losses.names), requires_grad=True)
        with drawn_from(losses.rng):
            (weights,) = torch.autograd.grad(self.held[0](ones), ones)
        task_weights = (self.scale(len(ones)) * weights).to(losses.values.device, non_blocking=True)
        return (task_weights * losses.values).sum()


class _Learned(nn.Module):
    """UW and IMTL-L: learned scales, here a parameter a task, of which TorchJD is shared those that are present."""

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__()
        (self.parameter, _), *_ = torchjd.make(1).named_parameters()
        self.make, self.scale = torchjd.make, torchjd.about.scale
        self.learned = nn.ParameterDict({name: torch.zeros(()) for name in names})

    def forward(self, losses: StepLosses) -> Tensor:
        scales = torch.stack([self.learned[name] for name in losses.names])
        scalarizer = self.make(len(losses.names))
        return self.scale(len(scales)) * functional_call(
            scalarizer, {self.parameter: scales}, (losses.values,)
        )


class _DWA(nn.Module):
    """DWA remembers each task's mean loss of the last two epochs, and the sums of this one. Epochs turn without a host sync."""

    epoch: Tensor

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__()
        self.held, self.scale, self.names = [torchjd.make()], torchjd.about.scale, tuple(names)
        self.register_buffer("epoch", torch.tensor(-1))
        self.total, self.batches = ByName(names), ByName(names)
        self.older, self.newer, self.epochs = ByName(names), ByName(names), ByName(names)

    def forward(self, losses: StepLosses) -> Tensor:
        self._turn(losses.epoch)
        names, dwa = losses.names, self.held[0]
        known = self.epochs.read(names) >= 2
        older, newer = self.older.read(names).clamp_min(1e-12), self.newer.read(names)
        dwa._previous_averages = [
            torch.where(known, x, 1) for x in (older, newer)
        ]  # unknown: neither falls nor rises
        objective: Tensor = self.scale(len(names)) * dwa(losses.values)
        dwa.reset()
        self.total.write(names, self.total.read(names) + losses.values)
        self.batches.write(names, self.batches.read(names) + 1)
        return objective

    def _turn(self, epoch: int) -> None:
        """Where a new epoch begins, the sums of the last one become its mean."""
        begins = self.epoch != epoch
        done = begins & (self.batches.values > 0)
        mean = self.total.values / self.batches.values.clamp_min(1)
        self.older.values.copy_(torch.where(done, self.newer.values, self.older.values))
        self.newer.values.copy_(torch.where(done, mean, self.newer.values))
        self.epochs.values.add_(done)
        for sums in (self.total, self.batches):
            sums.values.masked_fill_(begins, 0)
        self.epoch.fill_(epoch)


class _FAMO(nn.Module):
    """FAMO learns from how far each loss fell in a step. The exact method looks again at the SAME batch, after the step, which is
    one more forward and more than one objective; here the loss of the NEXT batch stands for it: free, and noisier.

    TorchJD keeps logits by place, and neither the last losses nor the inner Adam in its state: all are kept here, by name.
    """

    updates: Tensor

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__()
        torchjd.make(len(names))
        self.make, self.scale = torchjd.make, torchjd.about.scale
        self.logit, self.before, self.seen = ByName(names), ByName(names), ByName(names)
        self.first, self.second = ByName(names), ByName(names)  # Adam's moments
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, losses: StepLosses) -> Tensor:
        names, values = losses.names, losses.values.clamp_min(0)
        with values.device:  # made there: copied there, it would wait for the device
            famo = self.make(len(names))
        famo._w.data.copy_(self.logit.read(names))
        self._learn(famo, names, values.detach())
        self.logit.write(names, famo._w)
        self.before.write(names, values)
        self.seen.write(names, torch.ones_like(values))
        return self.scale(len(names)) * famo(values)

    def _learn(self, famo: Any, names: tuple[str, ...], values: Tensor) -> None:
        known = self.seen.read(names) > 0
        famo._prev_losses = torch.where(known, self.before.read(names), values)
        adam = torch.optim.Adam([famo._w], lr=famo.lr, weight_decay=famo.weight_decay, fused=True)
        moments = {"exp_avg": self.first.read(names), "exp_avg_sq": self.second.read(names)}
        adam.state[famo._w] = {
            "step": self.updates.clone(),
            **moments,
        }  # fused: on the device, and never read
        famo._optimizer = adam
        famo.update(values)
        self.first.write(names, moments["exp_avg"])
        self.second.write(names, moments["exp_avg_sq"])
        self.updates.add_(known.any())


_MODULES: dict[str, Callable[[TorchJD, Sequence[str]], nn.Module]] = {
    "UPGrad": _Projected,
    "DualProj": _Projected,
    "AlignedMTL": _Aligned,
    "IMTLG": _Impartial,
    "GradVac": _GradVac,
    "GeometricMean": _Geometric,
    "Random": _Random,
    "UW": _Learned,
    "IMTLL": _Learned,
    "DWA": _DWA,
    "FAMO": _FAMO,
}
