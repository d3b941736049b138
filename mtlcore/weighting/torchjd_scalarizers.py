"""TorchJD's scalarizers, adapted to steps in which tasks may be missing.

A scalarizer computes the objective from the values of the losses alone.

Shapes: K tasks of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..contracts import StepLosses
from .global_rng import global_rng_from
from .state import ByName

if TYPE_CHECKING:
    from .torchjd_weighting import TorchJD

SMALLEST_LOSS = 1e-12  # smaller losses count as this where a logarithm or a ratio is taken


def scalarizer_module(torchjd: TorchJD, names: Sequence[str]) -> nn.Module:
    """Return the module of a scalarizer. Raises MtlError as `TorchJD.make` does."""
    adapter = ADAPTERS.get(torchjd.method, _Scalarizer)
    return adapter(torchjd, names)


class _Scalarizer(nn.Module):
    """A scalarizer without state."""

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__()
        # In a list, so that no tensor of TorchJD's module becomes part of our state dict.
        self.held: list[Any] = [torchjd.make()]
        self.scale = torchjd.about.scale

    def forward(self, losses: StepLosses) -> Tensor:
        objective: Tensor = self.scale(len(losses.names)) * self.held[0](losses.values)
        return objective


class _GeometricMean(_Scalarizer):
    """The geometric mean of the losses. It takes logarithms, so losses are clamped from below."""

    def forward(self, losses: StepLosses) -> Tensor:
        values = losses.values.clamp_min(SMALLEST_LOSS)
        objective: Tensor = self.scale(len(losses.names)) * self.held[0](values)
        return objective


class _Random(_Scalarizer):
    """Random weights. They are drawn on the CPU, so that all ranks and devices draw the same."""

    def forward(self, losses: StepLosses) -> Tensor:
        ones = torch.ones(len(losses.names), requires_grad=True)
        with global_rng_from(losses.rng):
            (weights,) = torch.autograd.grad(self.held[0](ones), ones)
        task_weights = self.scale(len(ones)) * weights
        task_weights = task_weights.to(losses.values.device, non_blocking=True)
        return (task_weights * losses.values).sum()


class _Learned(nn.Module):
    """UW and IMTL-L: learned scales, here one parameter for each task.

    TorchJD receives the scales of the tasks that are present in the step.
    """

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__()
        # The name of the only parameter of TorchJD's module.
        (self.parameter, _), *_ = torchjd.make(1).named_parameters()
        self.make = torchjd.make
        self.scale = torchjd.about.scale
        self.learned = nn.ParameterDict({name: torch.zeros(()) for name in names})

    def forward(self, losses: StepLosses) -> Tensor:
        scales = torch.stack([self.learned[name] for name in losses.names])
        scalarizer = self.make(len(losses.names))
        objective: Tensor = functional_call(scalarizer, {self.parameter: scales}, (losses.values,))
        return self.scale(len(scales)) * objective


class _DWA(nn.Module):
    """Dynamic weight average: weights from the change of each mean loss over the last two epochs.

    The state holds the mean losses of the last two epochs and the sums of the current one. Epochs
    change without a host sync.
    """

    epoch: Tensor

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__()
        self.held: list[Any] = [torchjd.make()]
        self.scale = torchjd.about.scale
        self.names = tuple(names)
        self.register_buffer("epoch", torch.tensor(-1))
        # Of the current epoch: the sum of the losses, and the number of steps.
        self.total = ByName(names)
        self.batches = ByName(names)
        # The mean losses of the last two epochs, and the number of epochs so far.
        self.older = ByName(names)
        self.newer = ByName(names)
        self.epochs = ByName(names)

    def forward(self, losses: StepLosses) -> Tensor:
        self._start_epoch(losses.epoch)
        names = losses.names
        dwa = self.held[0]
        known = self.epochs.read(names) >= 2
        older = self.older.read(names).clamp_min(SMALLEST_LOSS)
        newer = self.newer.read(names)
        # A task without two epochs counts as one whose loss neither falls nor rises.
        dwa._previous_averages = [torch.where(known, mean, 1) for mean in (older, newer)]
        objective: Tensor = self.scale(len(names)) * dwa(losses.values)
        dwa.reset()
        self.total.write(names, self.total.read(names) + losses.values)
        self.batches.write(names, self.batches.read(names) + 1)
        return objective

    def _start_epoch(self, epoch: int) -> None:
        """If a new epoch begins, turn the sums of the last one into its mean losses."""
        begins = self.epoch != epoch
        is_done = begins & (self.batches.values > 0)
        mean = self.total.values / self.batches.values.clamp_min(1)
        self.older.values.copy_(torch.where(is_done, self.newer.values, self.older.values))
        self.newer.values.copy_(torch.where(is_done, mean, self.newer.values))
        self.epochs.values.add_(is_done)
        for sums in (self.total, self.batches):
            sums.values.masked_fill_(begins, 0)
        self.epoch.fill_(epoch)


class _FAMO(nn.Module):
    """FAMO: learned logits, updated by how far each loss fell in a step.

    The exact method computes the losses of the SAME batch again after the step. That costs one more
    forward and does not fit into one objective. Here the losses of the NEXT batch take their place,
    which is free but noisier.

    TorchJD keeps the logits by position, and neither the last losses nor its inner Adam in its
    state dict. Here all of them are kept by task name.
    """

    updates: Tensor

    def __init__(self, torchjd: TorchJD, names: Sequence[str]) -> None:
        super().__init__()
        torchjd.make(len(names))  # raises now, not in the first step, if an option is wrong
        self.make = torchjd.make
        self.scale = torchjd.about.scale
        self.logit = ByName(names)
        # The losses of the last step with the task, and whether there was one.
        self.before = ByName(names)
        self.seen = ByName(names)
        # Adam's first and second moments.
        self.first = ByName(names)
        self.second = ByName(names)
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, losses: StepLosses) -> Tensor:
        names = losses.names
        values = losses.values.clamp_min(0)
        # Created on the device: a copy to it would wait for the device.
        with values.device:
            famo: Any = self.make(len(names))
        famo._w.data.copy_(self.logit.read(names))
        self._learn(famo, names, values.detach())
        self.logit.write(names, famo._w)
        self.before.write(names, values)
        self.seen.write(names, torch.ones_like(values))
        objective: Tensor = self.scale(len(names)) * famo(values)
        return objective

    def _learn(
        self,
        famo: Any,
        names: tuple[str, ...],
        values: Tensor,
    ) -> None:
        """Update FAMO's logits by the change of the losses since the last step."""
        known = self.seen.read(names) > 0
        famo._prev_losses = torch.where(known, self.before.read(names), values)
        # The fused Adam keeps its step counter on the device and never reads it on the host.
        adam = torch.optim.Adam(
            [famo._w],
            lr=famo.lr,
            weight_decay=famo.weight_decay,
            fused=True,
        )
        first = self.first.read(names)
        second = self.second.read(names)
        adam.state[famo._w] = {
            "step": self.updates.clone(),
            "exp_avg": first,
            "exp_avg_sq": second,
        }
        famo._optimizer = adam
        famo.update(values)  # changes `first` and `second` in place
        self.first.write(names, first)
        self.second.write(names, second)
        self.updates.add_(known.any())


# Methods that need more than `_Scalarizer`.
ADAPTERS: Mapping[str, Callable[[TorchJD, Sequence[str]], nn.Module]] = {
    "GeometricMean": _GeometricMean,
    "Random": _Random,
    "UW": _Learned,
    "IMTLL": _Learned,
    "DWA": _DWA,
    "FAMO": _FAMO,
}
