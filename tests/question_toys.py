"""Helpers for tests of pretexts with views of one image: batches, easy images, short trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from torch import Tensor
from torch.utils._pytree import tree_leaves
from toys import Plain, Toy, batch, counted, experiment, key, train_state

from mtlcore import Batch, BuildContext, Encoder, Head, PretextTask, Target, View
from mtlcore.config.experiment import Experiment, PretextEntry
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.evaluation.preview import strips
from mtlcore.model.inference import SharedEncoder
from mtlcore.training.step import train_step


@frozen(eq=False)
class Look:
    """An `AugmentedBatch` with one clean view, which is also every augmentation."""

    clean: View
    progress: float = 0.0

    def augment(self, number: int = 1, augmentation: str | None = None) -> View:
        return self.clean


def alike(n: int = 8, size: int = 32, seed: int = 0, noise: float = 0.05) -> Tensor:
    """Return images (n, 3, size, size) uint8: the same colored pattern, with a little noise.

    Each place of the pattern has its own color, so every task on places can be solved.
    """
    g = torch.Generator().manual_seed(123)
    pattern = F.interpolate(torch.rand(1, 3, 6, 6, generator=g), (size, size), mode="bilinear")
    noises = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return ((pattern + noise * noises).clamp(0, 1) * 255).round().byte()


def view_of(images: Tensor) -> View:
    """Return the clean view of raw images, without augmentation."""
    return Plain().view(images, tuple(images.shape[-2:]), key()("view"))


def asked(task: PretextTask, images: Tensor, seed: int = 0) -> tuple[list[View], Target]:
    """Return a pretext's views of raw images, and its target."""
    views, target = task.views(Look(view_of(images)), key(seed)("question"))
    return list(views), target


def setting(
    task: PretextTask, tasks: tuple[str, ...] = (), size: int = 32, **more: Any
) -> Experiment:
    """Return an experiment whose only pretext, with the label "pretext", is this task."""
    exp = experiment(tasks, size=size, **{"augment": Plain()} | more)
    return evolve(exp, pretexts={"pretext": PretextEntry(task)})


def built(
    task: PretextTask, size: int = 32, encoder: Encoder | None = None
) -> tuple[SharedEncoder, Head]:
    """Return a toy encoder, and the head of the task on top of it."""
    net = SharedEncoder(encoder or Toy(), (size, size))
    return net, task.build(BuildContext(net.info, net, {}))


def plain_batch(images: Tensor) -> Batch:
    """Return a batch of these images, without labels."""
    n = len(images)
    unlabeled = batch(n=n, size=images.shape[-1], tasks=(), unlabeled=n)
    return evolve(unlabeled, images=images)


def learned(
    task: PretextTask,
    steps: int = 60,
    n: int = 16,
    lr: float = 3e-3,
    encoder: Encoder | None = None,
    size: int = 32,
) -> list[float]:
    """Train on `alike` images, and return the loss of each step."""
    torch.manual_seed(0)
    exp = setting(task, size=size, encoder=encoder or Toy(width=8))
    state = train_state(exp, optimizer="adamw", lr=lr)
    losses = []
    for step in range(steps):
        images = plain_batch(alike(n, size, seed=step))
        logged = train_step(state, counted([images]))
        assert not bool(logged["skipped"])
        losses.append(float(logged["loss/pretext"]))
    return losses


def by_default_on_48_pixels(task: PretextTask) -> list[float]:
    """Train three steps with a small ResNet on 48-pixel images."""
    return learned(task, steps=3, n=4, encoder=ResnetSmall(width=16), size=48)


Asked = tuple[Sequence[View], Target]
"""What `asked` returns."""


def same(one: Asked, other: Asked) -> bool:
    """Return whether views and targets are equal, bit for bit."""
    pairs = zip(_tensors(one), _tensors(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _tensors(views_and_target: Asked) -> list[Tensor]:
    views, target = views_and_target
    return [*(view.images for view in views), *tree_leaves(target)]


def shown(task: PretextTask, images: Tensor) -> dict[str, Tensor]:
    """Return the strips of a preview: label -> images."""
    found = strips(setting(task, size=images.shape[-1]), images)
    return {strip.label.replace("\n", ": "): strip.images for strip in found}


def ramp(n: int, size: int) -> Tensor:
    """Return (n, 2, size, size): the x and y coordinates of each pixel's center."""
    at = torch.arange(size) + 0.5
    x = at.expand(size, size)
    y = at[:, None].expand(size, size)
    return torch.stack([x, y]).expand(n, 2, size, size)
