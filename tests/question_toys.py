"""A bench for pretexts that ask about one image: a batch to look at, images that are easy, what all of them must hold."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from torch import Tensor
from torch.utils._pytree import tree_leaves
from toys import Plain, Toy, batch, experiment, key, prepared_batches, train_state

from mtlcore import Batch, BuildContext, Head, PretextTask, Target, View
from mtlcore.config.experiment import Experiment, PretextEntry
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.evaluation.preview import strips
from mtlcore.model.inference import SharedEncoder
from mtlcore.train.step import train_step


@frozen(eq=False)
class Look:
    """A batch of one clean view."""

    clean: View
    progress: float = 0.0

    def augment(self, number: int = 1, augmentation: str | None = None) -> View:
        return self.clean


def alike(n: int = 8, size: int = 32, seed: int = 0, noise: float = 0.05) -> Tensor:
    """(n, 3, size, size) uint8: one and the same patch of colors, a little noise on it. Every place of it can be told apart."""
    g = torch.Generator().manual_seed(123)
    batch = F.interpolate(torch.rand(1, 3, 6, 6, generator=g), (size, size), mode="bilinear")
    noises = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return ((batch + noise * noises).clamp(0, 1) * 255).round().byte()


def view_of(images: Tensor) -> View:
    return Plain().view(images, tuple(images.shape[-2:]), key()("view"))


def asked(task: PretextTask, images: Tensor, seed: int = 0) -> tuple[list[View], Target]:
    """Its views of these raw images, and what must be answered."""
    views, target = task.views(Look(view_of(images)), key(seed)("question"))
    return list(views), target


def setting(
    task: PretextTask, tasks: tuple[str, ...] = (), size: int = 32, **more: Any
) -> Experiment:
    """An experiment whose one pretext, labeled "pretext", is this task."""
    exp = experiment(tasks, size=size, **{"augment": Plain()} | more)
    return evolve(exp, pretexts={"pretext": PretextEntry(task)})


def built(task: PretextTask, size: int = 32, encoder: Any = None) -> tuple[SharedEncoder, Head]:
    """An encoder of toys, and the task's head on it."""
    net = SharedEncoder(encoder or Toy(), size)
    return net, task.build(BuildContext(net.info, net, {}))


def plain_batch(images: Tensor) -> Batch:
    """These images, without a label."""
    return evolve(
        batch(n=len(images), size=images.shape[-1], tasks=(), unlabeled=len(images)), images=images
    )


def learned(
    task: PretextTask,
    steps: int = 60,
    n: int = 16,
    lr: float = 3e-3,
    encoder: Any = None,
    size: int = 32,
) -> list[float]:
    """The loss of each of these steps on images that are alike."""
    torch.manual_seed(0)
    eng = train_state(
        setting(task, size=size, encoder=encoder or Toy(width=8)), optimizer="adamw", lr=lr
    )
    losses = []
    for step in range(steps):
        logged = train_step(eng, prepared_batches(eng, [plain_batch(alike(n, size, seed=step))]))
        assert not bool(logged["skipped"])
        losses.append(float(logged["loss/pretext"]))
    return losses


def by_default_on_48_pixels(task: PretextTask) -> list[float]:
    """Three steps of a small residual net on 48-pixel images."""
    return learned(task, steps=3, n=4, encoder=ResnetSmall(width=16), size=48)


def same(one: tuple[Any, Target], other: tuple[Any, Target]) -> bool:
    """The same views and the same answers, bit for bit."""
    leaves = [[*(v.images for v in views), *tree_leaves(target)] for views, target in (one, other)]
    return all(torch.equal(a, b) for a, b in zip(*leaves, strict=True))


def shown(task: PretextTask, images: Tensor) -> dict[str, Tensor]:
    """The samples of a preview."""
    return {
        s.label.replace("\n", ": "): s.images
        for s in strips(setting(task, size=images.shape[-1]), images)
    }


def ramp(n: int, size: int) -> Tensor:
    """(n, 2, size, size): the x and y of each pixel's center."""
    at = torch.arange(size) + 0.5
    return torch.stack([at.expand(size, size), at[:, None].expand(size, size)]).expand(
        n, 2, size, size
    )
