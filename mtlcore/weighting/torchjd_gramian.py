"""TorchJD's Gramian weightings, adapted to steps in which tasks may be missing.

Some methods are solved on the COSINES of the gradients instead of their inner products. Then a
task whose gradient is short beside the others is not lost in TorchJD's regularization, nor in the
rounding errors of a float32 Gramian.

Shapes: K tasks of the step with a gradient that is not 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..contracts import StepLosses
from .global_rng import global_rng_from
from .gramian import GramianModule
from .state import ByName

if TYPE_CHECKING:
    from .torchjd_weighting import TorchJD

# A limit for eigenvalues of the cosines. Below it, the rounding errors of a float32 Gramian
# outweigh the gradients: the gradients count as linearly dependent.
DEPENDENT = 1e-4


def gramian_module(torchjd: TorchJD, names: Sequence[str]) -> nn.Module:
    """Return the module of a Gramian weighting. Raises MtlError as `TorchJD.make` does."""
    adapter = ADAPTERS.get(torchjd.method, _Weighting)
    return adapter(torchjd, names)


class _Weighting(GramianModule):
    """A weighting without state."""

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__()
        # In a list, so that no tensor of TorchJD's module becomes part of our state dict.
        self.held: list[Any] = [torchjd.make()]
        self.scale = torchjd.about.scale

    def task_weights(self, losses: StepLosses, gram: Tensor) -> Tensor:
        gram64 = gram.detach().cpu().double()  # in two steps: MPS has no float64
        task_weights = torch.ones(len(gram), dtype=torch.float64)
        indices = (gram64.diagonal() > 0).nonzero().flatten()
        if not gram64.isfinite().all() or not len(indices):
            return task_weights

        names = tuple(losses.names[k] for k in indices.tolist())
        nonzero = gram64[indices][:, indices]
        with global_rng_from(losses.rng):
            weights = self.weights(names, nonzero / nonzero.diagonal().mean())
        task_weights[indices] = self.scale(len(indices)) * weights.to(task_weights)
        return task_weights

    def weights(self, names: tuple[str, ...], gram: Tensor) -> Tensor:
        """Return TorchJD's weights (K,).

        gram: (K, K) float64, divided by its mean diagonal.
        """
        weights: Tensor = self.held[0](gram)
        return weights


class _Projected(_Weighting):
    """UPGrad and DualProj on the cosines, with the gradients' lengths as preferences.

    This is the same quadratic program: substitute v = w / length in min v G v, v >= 1. TorchJD adds
    1e-4 of the trace to the diagonal. On the Gramian itself, that would hide a task with a short
    gradient beside a long one, and the task would not be protected.
    """

    def weights(self, names: tuple[str, ...], gram: Tensor) -> Tensor:
        lengths, cosines = lengths_and_cosines(gram)
        self.held[0].pref_vector = lengths
        weights: Tensor = self.held[0](cosines) / lengths
        return weights


class _Aligned(_Weighting):
    """Aligned-MTL with a rank that is found on the cosines.

    Aligned-MTL balances the principal components of the Gramian within its rank. With too high a
    rank, a component of rounding noise would be balanced like the others. The rank of the cosines
    is right for short gradients too, since the lengths have no influence on it.

    TorchJD receives the components themselves: a diagonal matrix in which those beyond the rank are
    exactly 0.
    """

    def weights(self, names: tuple[str, ...], gram: Tensor) -> Tensor:
        _, cosines = lengths_and_cosines(gram)
        rank = (torch.linalg.eigvalsh(cosines) > DEPENDENT).sum()
        values, vectors = torch.linalg.eigh(gram)  # in ascending order
        is_within_rank = torch.arange(len(gram)) >= len(gram) - rank
        components = torch.where(is_within_rank, values, 0)
        # A preference of 1 / K for each task, expressed in the components.
        self.held[0].pref_vector = vectors.mean(0)
        weights: Tensor = vectors @ self.held[0](components.diag())
        return weights


class _Impartial(_Weighting):
    """IMTL-G on the cosines.

    Its weights, divided by the gradients' lengths, yield a step with equal projections on all
    gradients. If the gradients are independent, these are IMTL-G's own weights. If they are
    dependent, a short gradient counts as much as a long one. If there is no such step (two opposite
    gradients), the weights are 0.
    """

    def weights(self, names: tuple[str, ...], gram: Tensor) -> Tensor:
        lengths, cosines = lengths_and_cosines(gram)
        values, vectors = torch.linalg.eigh(cosines)
        known = torch.where(values > DEPENDENT, values, 0)
        # How much of the vector (1 ... 1) is in the span of the gradients.
        reached = vectors.sum(0)[known > 0].square().sum()
        if reached < DEPENDENT:
            return torch.zeros_like(lengths)

        of_full_rank = (vectors * known) @ vectors.T
        # In float32, TorchJD's threshold keeps eigenvalues of 0 at 0.
        weights: Tensor = self.held[0](of_full_rank.float()) / lengths
        total = weights.sum()
        return weights / total if total != 0 else weights


class _GradVac(_Weighting):
    """GradVac, which remembers a moving average of the cosine for each ordered pair of tasks.

    TorchJD keeps it by position, and not in its state dict. Here it is kept by task name.
    """

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__(torchjd, names)
        self.cosine = ByName(names, pairs=True)

    def weights(self, names: tuple[str, ...], gram: Tensor) -> Tensor:
        weighting = self.held[0]
        weighting._phi_t = self.cosine.read(names).to(gram)
        # TorchJD would reset the averages if this key differed from the Gramian's.
        weighting._state_key = (len(gram), gram.dtype)
        weights: Tensor = weighting(gram)
        self.cosine.write(names, weighting._phi_t)
        return weights


def lengths_and_cosines(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths (K,) and the cosines (K, K) of the gradients."""
    lengths = gram.diagonal().sqrt()
    return lengths, gram / torch.outer(lengths, lengths)


# Methods that need more than `_Weighting`.
ADAPTERS: Mapping[str, Callable[[TorchJD, Sequence[str]], nn.Module]] = {
    "UPGrad": _Projected,
    "DualProj": _Projected,
    "AlignedMTL": _Aligned,
    "IMTLG": _Impartial,
    "GradVac": _GradVac,
}
