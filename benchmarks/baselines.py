"""The hand-written rivals: plain PyTorch, as one would write it for this very experiment, doing the same work and nothing more.

Same network, images, normalization, clipping, fused optimizer, precision, batch and memory format as ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import kornia.augmentation as K
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlcore import Encoder


class HandNet(nn.Module):
    """The encoder's network and one linear head a task, written out."""

    def __init__(self, encoder: Encoder, size: int, dim: int, classes: Sequence[int]) -> None:
        super().__init__()
        self.net = encoder.build(size)
        self.heads = nn.ModuleList(nn.Linear(dim, c) for c in classes)

    def forward(self, images: Tensor) -> list[Tensor]:
        pooled = self.net((images - 0.5) / 0.25).pooled
        return [head(pooled) for head in self.heads]


class HandStep:
    """A supervised step of K classification tasks on uint8 images in memory."""

    def __init__(
        self, net: nn.Module, pixels: Tensor, labels: Sequence[Tensor], batch: int
    ) -> None:
        self.net, self.pixels, self.labels, self.batch = net.train(), pixels, labels, batch
        wide = [p for p in net.parameters() if p.ndim > 1]
        narrow = [p for p in net.parameters() if p.ndim <= 1]
        groups = [{"params": wide, "weight_decay": 0.05}, {"params": narrow, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
        self.order, self.at = torch.randperm(len(pixels)), 0

    def rows(self) -> Tensor:
        if self.at + self.batch > len(self.order):
            self.order, self.at = torch.randperm(len(self.pixels)), 0
        self.at += self.batch
        return self.order[self.at - self.batch : self.at]

    def losses(self, images: Tensor, rows: Tensor) -> list[Tensor]:
        return [F.cross_entropy(out, y[rows]) for out, y in zip(self.net(images), self.labels)]

    def loss(self, images: Tensor, rows: Tensor) -> Tensor:
        return torch.stack(self.losses(images, rows)).sum()

    def differentiate(self, images: Tensor, rows: Tensor) -> None:
        self.loss(images, rows).backward()

    def __call__(self) -> None:
        rows = self.rows()
        images = self.pixels.index_select(0, rows).float() / 255
        self.optimizer.zero_grad(set_to_none=True)
        self.differentiate(images, rows)
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimizer.step()


class LoopStep(HandStep):
    """The floor of every exact gradient-level weighting: K backwards, their gradients simply added up."""

    def differentiate(self, images: Tensor, rows: Tensor) -> None:
        losses = self.losses(images, rows)
        for k, loss in enumerate(losses):
            loss.backward(retain_graph=k + 1 < len(losses))


class TorchJDStep(HandStep):
    """UPGrad as TorchJD's documentation writes it, with its defaults."""

    def __init__(self, net: HandNet, pixels: Tensor, labels: Sequence[Tensor], batch: int) -> None:
        from torchjd.aggregation import UPGrad

        super().__init__(net, pixels, labels, batch)
        self.encoder, self.heads, self.aggregator = net.net, net.heads, UPGrad()

    def differentiate(self, images: Tensor, rows: Tensor) -> None:
        from torchjd.autojac import jac_to_grad, mtl_backward

        pooled = self.encoder((images - 0.5) / 0.25).pooled
        losses = [
            F.cross_entropy(head(pooled), y[rows]) for head, y in zip(self.heads, self.labels)
        ]
        mtl_backward(losses, features=pooled)
        jac_to_grad(self.encoder.parameters(), self.aggregator)


class HandMixedStep(HandStep):
    """The same on K sources side by side, each labeling one task: joint forward, masked losses."""

    def __init__(
        self, net: nn.Module, pixels: Tensor, labels: Sequence[Tensor], batch: int
    ) -> None:
        super().__init__(net, pixels, labels, batch)
        k = len(labels)
        self.source = torch.arange(len(pixels)) * k // len(pixels)
        self.quotas = [batch // k + (i < batch % k) for i in range(k)]
        self.orders = [torch.randperm(int((self.source == i).sum())) for i in range(k)]
        self.starts = [int((self.source < i).sum()) for i in range(k)]
        self.places = [0] * k

    def rows(self) -> Tensor:
        parts = []
        for i, quota in enumerate(self.quotas):
            if self.places[i] + quota > len(self.orders[i]):
                self.orders[i], self.places[i] = torch.randperm(len(self.orders[i])), 0
            parts.append(self.orders[i][self.places[i] : self.places[i] + quota] + self.starts[i])
            self.places[i] += quota
        return torch.cat(parts)

    def loss(self, images: Tensor, rows: Tensor) -> Tensor:
        source, total = self.source[rows], images.new_zeros(())
        for k, (out, y) in enumerate(zip(self.net(images), self.labels)):
            here = source == k
            each = F.cross_entropy(out, y[rows], reduction="none")
            total = total + (each * here).sum() / here.sum()
        return total


def kornia_weak(size: int) -> nn.Module:
    """The paper's weak augmentation as one would write it with kornia's own modules."""
    return K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomRotation(15.0, p=1.0),
        K.RandomResizedCrop(
            (size, size),
            scale=(0.69**2, 0.99**2),
            ratio=(1.0, 1.0),
            p=1.0,
            cropping_mode="resample",
        ),
        K.RandomContrast((0.6, 1.4), p=1.0),
    )


def kornia_strong(size: int) -> nn.Module:
    """The paper's strong augmentation, likewise."""
    return K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomRotation(20.0, p=1.0),
        K.RandomResizedCrop(
            (size, size),
            scale=(0.69**2, 0.99**2),
            ratio=(1.0, 1.0),
            p=1.0,
            cropping_mode="resample",
        ),
        K.RandomContrast((0.6, 1.4), p=1.0),
        K.RandomBrightness((0.95, 1.05), p=1.0),
        K.RandomGaussianNoise(std=0.025, p=1.0),
        K.RandomGaussianBlur((3, 3), (1.5, 1.5), p=0.5),
        K.RandomErasing(
            scale=((60 / 224) ** 2, (60 / 224) ** 2), ratio=(1.0, 1.0), value=0.5, p=1.0
        ),
    )
