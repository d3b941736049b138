"""Optimizers and the learning rate.

The learning rate is a pure function of the configuration and the step, so a resumed run needs no
scheduler state.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.optimizer import ParamsT

from ..config.experiment import Schedule


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer skips a step by its `found_inf`, without a host read.

    torch sets this attribute on optimizers with a fused step.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def loss_weighting_optimizer_for(
    loss_weighting: nn.Module,
    lr: float,
) -> torch.optim.Optimizer | None:
    """Adam without weight decay for learned loss weights; None if the weighting learns nothing."""
    learned = list(loss_weighting.parameters())
    return adam(learned, lr) if learned else None


def adam(parameters: ParamsT, lr: float = 1e-3) -> torch.optim.Optimizer:
    """Adam as it trains learned loss weights."""
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def lr_at(lr: float, schedule: Schedule, step: int, steps: int) -> float:
    """The learning rate of `step` of `steps`.

    Linear warm-up to `lr`, then the schedule over the remaining steps. Warm-up takes at most half
    of the run.
    """
    warmup = min(schedule.warmup, steps // 2)
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule.name == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.name == "step":
        passed = sum(step / steps >= m for m in schedule.milestones)
        return float(lr * schedule.gamma**passed)
    return lr
