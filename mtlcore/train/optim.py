"""Optimizers and the learning rate: pure functions of the configuration and the step, so that resuming needs no state of theirs."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..config.experiment import Optimizer, Schedule


def optimizer_for(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW or SGD, fused: a fused optimizer can skip a bad step on the device. No weight decay on norms and biases."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=True)
    if settings.momentum:
        # torch makes these buffers uninitialized in the first step: a skipped one would leave them so, and a head that is
        # absent from it would have none.
        for p in trainable:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def loss_weighting_optimizer_for(
    loss_weighting: nn.Module, lr: float
) -> torch.optim.Optimizer | None:
    """Learned loss weights: Adam on the run's schedule, no decay."""
    learned = list(loss_weighting.parameters())
    return torch.optim.Adam(learned, lr=lr, fused=True) if learned else None


def lr_at(lr: float, schedule: Schedule, step: int, steps: int) -> float:
    """The learning rate of `step` of `steps`: linear warm-up, then the schedule over what is left."""
    warmup = min(schedule.warmup, steps // 2)
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule.name == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.name == "step":
        return float(lr * schedule.gamma ** sum(step / steps >= m for m in schedule.milestones))
    return lr
