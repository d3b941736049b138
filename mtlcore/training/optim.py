"""Optimizers and the learning rate.

The learning rate is a pure function of the configuration and the step, so a resumed run needs no
scheduler state.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ..config.experiment import Optimizer, Schedule


def optimizer_for(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW or SGD over all trainable parameters; norms and biases get no weight decay.

    It is fused, because a fused optimizer can skip a bad step on the device.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)

    optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=True)
    if settings.momentum:
        # torch allocates these buffers uninitialized in the first step. If that step is skipped
        # they would stay so, and a head that is absent from it would have none.
        for p in trainable:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def loss_weighting_optimizer_for(
    loss_weighting: nn.Module,
    lr: float,
) -> torch.optim.Optimizer | None:
    """Adam without weight decay for learned loss weights; None if the weighting learns nothing."""
    learned = list(loss_weighting.parameters())
    return torch.optim.Adam(learned, lr=lr, fused=True) if learned else None


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
