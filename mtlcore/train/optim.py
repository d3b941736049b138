"""Optimizers and the learning rate: pure functions of the configuration and the step, so that resuming needs no state of theirs."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..experiment import Train


def optimizer_for(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    """AdamW or SGD, fused: a fused optimizer can skip a bad step on the device. No weight decay on norms and biases."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.lr, fused=True)
    optimizer = torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, fused=True)
    if train.momentum:
        # torch makes these buffers uninitialized in the first step: a skipped one would leave them so, and a head that is
        # absent from it would have none.
        for p in trainable:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def loss_weighting_optimizer_for(loss_weighting: nn.Module, train: Train) -> torch.optim.Optimizer | None:
    """Learned loss weights: Adam on the run's schedule, no decay."""
    learned = list(loss_weighting.parameters())
    return torch.optim.Adam(learned, lr=train.lr, fused=True) if learned else None


def lr_at(train: Train, step: int, steps: int) -> float:
    """The learning rate of `step` of `steps`: linear warm-up, then the schedule over what is left."""
    warmup = min(train.warmup, steps // 2)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if train.schedule == "cosine":
        return train.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if train.schedule == "step":
        return float(train.lr * train.decay ** sum(step / steps >= m for m in train.milestones))
    return train.lr
