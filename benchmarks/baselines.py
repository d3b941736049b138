"""Hand-written baselines: plain PyTorch for one fixed experiment, with no more work than it needs.

They have the same network, images, normalization, clipping, fused optimizer, precision, batch size
and memory format as our variants.

Shapes: images (B, 3, H, W) float in [0, 1]; indices (B,) int64 into the data set.
"""

from __future__ import annotations

from collections.abc import Sequence

import kornia.augmentation as K
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlcore import Encoder


class HandNet(nn.Module):
    """The encoder's network with one linear head for each task."""

    def __init__(self, encoder: Encoder, size: int, dim: int, classes: Sequence[int]) -> None:
        super().__init__()
        self.net = encoder.build((size, size))
        self.heads = nn.ModuleList(nn.Linear(dim, c) for c in classes)

    def forward(self, images: Tensor) -> list[Tensor]:
        pooled = self.net((images - 0.5) / 0.25).pooled
        return [head(pooled) for head in self.heads]


class HandStep:
    """A supervised step of K classification tasks on uint8 images in memory."""

    def __init__(
        self, net: nn.Module, pixels: Tensor, labels: Sequence[Tensor], batch: int
    ) -> None:
        self.net = net.train()
        self.pixels = pixels
        self.labels = labels
        self.batch = batch
        matrices = [p for p in net.parameters() if p.ndim > 1]
        vectors = [p for p in net.parameters() if p.ndim <= 1]
        # As in our optimizer, biases and norms are not decayed.
        groups = [
            {"params": matrices, "weight_decay": 0.05},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
        self.order = torch.randperm(len(pixels))
        self.position = 0

    def draw_indices(self) -> Tensor:
        """Return the samples of the next batch; each epoch has a new order."""
        if self.position + self.batch > len(self.order):
            self.order = torch.randperm(len(self.pixels))
            self.position = 0
        begin = self.position
        self.position += self.batch
        return self.order[begin : self.position]

    def losses(self, images: Tensor, indices: Tensor) -> list[Tensor]:
        """Return the cross-entropy of each task."""
        logits = self.net(images)
        return [F.cross_entropy(out, y[indices]) for out, y in zip(logits, self.labels)]

    def loss(self, images: Tensor, indices: Tensor) -> Tensor:
        return torch.stack(self.losses(images, indices)).sum()

    def backward(self, images: Tensor, indices: Tensor) -> None:
        """Set the gradients of all parameters."""
        self.loss(images, indices).backward()

    def __call__(self) -> None:
        indices = self.draw_indices()
        images = self.pixels.index_select(0, indices).float() / 255
        self.optimizer.zero_grad(set_to_none=True)
        self.backward(images, indices)
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimizer.step()


class LoopStep(HandStep):
    """K backward passes whose gradients are added.

    No exact gradient-level weighting can do less, so this is its lower bound.
    """

    def backward(self, images: Tensor, indices: Tensor) -> None:
        losses = self.losses(images, indices)
        for k, loss in enumerate(losses):
            is_last = k + 1 == len(losses)
            loss.backward(retain_graph=not is_last)


class TorchJDStep(HandStep):
    """UPGrad as in TorchJD's documentation, with its defaults."""

    def __init__(self, net: HandNet, pixels: Tensor, labels: Sequence[Tensor], batch: int) -> None:
        from torchjd.aggregation import UPGrad

        super().__init__(net, pixels, labels, batch)
        self.encoder = net.net
        self.heads = net.heads
        self.aggregator = UPGrad()

    def backward(self, images: Tensor, indices: Tensor) -> None:
        from torchjd.autojac import jac_to_grad, mtl_backward

        pooled = self.encoder((images - 0.5) / 0.25).pooled
        logits = [head(pooled) for head in self.heads]
        losses = [F.cross_entropy(out, y[indices]) for out, y in zip(logits, self.labels)]
        mtl_backward(losses, features=pooled)
        jac_to_grad(self.encoder.parameters(), self.aggregator)


class HandMixedStep(HandStep):
    """The step on K datasets that each label one task: joint forward, masked losses."""

    def __init__(
        self, net: nn.Module, pixels: Tensor, labels: Sequence[Tensor], batch: int
    ) -> None:
        super().__init__(net, pixels, labels, batch)
        k = len(labels)
        # Consecutive blocks of samples are the datasets.
        self.dataset = torch.arange(len(pixels)) * k // len(pixels)
        self.quotas = [batch // k + (i < batch % k) for i in range(k)]
        sizes = [int((self.dataset == i).sum()) for i in range(k)]
        self.orders = [torch.randperm(size) for size in sizes]
        self.starts = [int((self.dataset < i).sum()) for i in range(k)]
        self.positions = [0] * k

    def draw_indices(self) -> Tensor:
        """Return the samples of the next batch: a fixed share of every dataset."""
        parts: list[Tensor] = []
        for i, quota in enumerate(self.quotas):
            if self.positions[i] + quota > len(self.orders[i]):
                self.orders[i] = torch.randperm(len(self.orders[i]))
                self.positions[i] = 0
            begin = self.positions[i]
            self.positions[i] += quota
            parts.append(self.orders[i][begin : self.positions[i]] + self.starts[i])
        return torch.cat(parts)

    def loss(self, images: Tensor, indices: Tensor) -> Tensor:
        """Return the sum of the tasks' mean losses, each over the samples with its label."""
        dataset = self.dataset[indices]
        total = images.new_zeros(())
        for k, (out, y) in enumerate(zip(self.net(images), self.labels)):
            has_label = dataset == k
            losses = F.cross_entropy(out, y[indices], reduction="none")
            total = total + (losses * has_label).sum() / has_label.sum()
        return total


def kornia_weak(size: int) -> nn.Module:
    """Return the paper's weak augmentation, written with kornia's modules."""
    return K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomRotation(15.0, p=1.0),
        _kornia_crop(size),
        K.RandomContrast((0.6, 1.4), p=1.0),
    )


def kornia_strong(size: int) -> nn.Module:
    """Return the paper's strong augmentation, written with kornia's modules."""
    cutout = (60 / 224) ** 2  # share of the area: 60 x 60 pixels at 224 x 224
    return K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomRotation(20.0, p=1.0),
        _kornia_crop(size),
        K.RandomContrast((0.6, 1.4), p=1.0),
        K.RandomBrightness((0.95, 1.05), p=1.0),
        K.RandomGaussianNoise(std=0.025, p=1.0),
        K.RandomGaussianBlur((3, 3), (1.5, 1.5), p=0.5),
        K.RandomErasing(scale=(cutout, cutout), ratio=(1.0, 1.0), value=0.5, p=1.0),
    )


def _kornia_crop(size: int) -> nn.Module:
    return K.RandomResizedCrop(
        (size, size),
        scale=(0.69**2, 0.99**2),
        ratio=(1.0, 1.0),
        p=1.0,
        cropping_mode="resample",  # one grid sample, as ours
    )
