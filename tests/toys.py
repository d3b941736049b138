"""Toy components and batches: networks of a few hundred weights, so that a test takes milliseconds.

The pretexts here are the ones that strain the contracts: a shared head, the clean forward, patches, coupled losses, EMA teachers.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from einops import rearrange
from lightning_fabric import Fabric
from mtl_pretexts.puzzling import Puzzling
from torch import Tensor, nn

from mtlcore import (
    EMA,
    Augmentation,
    Batch,
    Encoder,
    Features,
    Geometry,
    Head,
    LossWeighting,
    PretextTask,
    SharedHead,
    StepCounts,
    SupervisedTask,
    View,
    gather,
    orthogonal,
)
from mtlcore.config.experiment import (
    Experiment,
    Input,
    Optimizer,
    PretextEntry,
    Schedule,
    TaskEntry,
    Train,
    Views,
)
from mtlcore.contracts import PreparedBatch
from mtlcore.geometry import similarity
from mtlcore.model.views import prepare
from mtlcore.rng import KeyedRng
from mtlcore.tasks.classification import Classification
from mtlcore.train.build import build_train_state
from mtlcore.train.step import TrainState
from mtlcore.weighting import Equal, Uncertainty

# ---------------------------------------------------------------------------------------------------- encoders, augmentations


@frozen
class Toy(Encoder):
    """Three strided convolutions."""

    width: int = 4
    norm: str = "batch"  # "batch" | "none"

    def build(self, image_size: int) -> nn.Module:
        return ToyNet(self.width, nn.BatchNorm2d if self.norm == "batch" else nn.Identity)


class ToyNet(nn.Module):
    def __init__(self, width: int, norm: Any) -> None:
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), norm(o), nn.ReLU()) for i, o in pairwise(sizes)
        )

    def forward(self, x: Tensor) -> Features:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features(tuple(maps), x.mean((2, 3)), shared=x)


@frozen
class Plain(Augmentation):
    """Resize only."""

    def view(self, images, size, rng):
        x, geometry = images.float() / 255, Geometry.resize(images.shape[-2:], size, images)
        return View(x if x.shape[-2:] == size else geometry.warp(x, "bilinear"), geometry)


@frozen
class Jitter(Augmentation):
    """Turn, crop, mirror, and a cutout after the pretexts."""

    turn_rad: float = 0.3

    def view(self, images, size, rng):
        u = rng.rand(3, len(images))
        matrix = similarity(
            (2 * u[0] - 1) * self.turn_rad, 0.7 + 0.3 * u[1], u[2] < 0.5, images.shape[-2:], size
        )
        geometry = Geometry.affine(matrix, size)
        return View(geometry.warp(images.float() / 255, "bilinear"), geometry)

    def finish(self, images, rng):
        h, w = images.shape[-2:]
        y0, x0 = rng.rand(2, len(images), 1, 1, 1) * 0.7
        y, x = torch.arange(h).view(h, 1) / h, torch.arange(w).view(1, w) / w
        return images.masked_fill((y >= y0) & (y < y0 + 0.3) & (x >= x0) & (x < x0 + 0.3), 0.5)


@frozen
class Mixup(Plain):
    def view(self, images, size, rng):
        view = super().view(images, size, rng)
        partner, own = rng.permutations(1, len(images))[0], rng.rand(len(images))
        share = own.view(-1, 1, 1, 1)
        return evolve(
            view,
            images=view.images * share + view.images[partner] * (1 - share),
            mix=(partner, own),
        )


# ---------------------------------------------------------------------------------------------------- supervised tasks


@frozen
class Pose(SupervisedTask):
    """Rotation matrices that follow in-plane turns and mirrors; 6D output (Zhou et al. 2019)."""

    reads = "pose"

    def target(self, annotation):
        return torch.from_numpy(annotation), torch.ones(len(annotation), dtype=torch.bool)

    def build(self, context):
        return PoseHead(context.info.dim)

    def move(self, target, geometry):
        turn, mirrored = orthogonal(geometry.matrix)
        q = torch.eye(3).repeat(len(target), 1, 1)
        q[:, :2, :2] = turn
        mirror = torch.ones(len(target), 1, 3)
        mirror[:, 0, 0] = torch.where(
            mirrored, -1.0, 1.0
        )  # the mirrored head's own left and right change too
        return (q @ target) * mirror


class PoseHead(Head):
    def __init__(self, dim):
        super().__init__()
        self.answer = nn.Linear(dim, 6)

    def forward(self, features):
        return self.answer(features.pooled)

    def loss(self, output, target):
        x = F.normalize(output[:, :3], dim=1)
        y = F.normalize(output[:, 3:] - (x * output[:, 3:]).sum(1, keepdim=True) * x, dim=1)
        r = torch.stack([x, y, torch.linalg.cross(x, y)], 2) @ target.mT
        vee = torch.stack(
            [r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], 1
        )
        return torch.atan2(
            (vee.square().sum(1) + 1e-12).sqrt(), r.diagonal(dim1=1, dim2=2).sum(1) - 1
        )


@frozen
class Parsing(SupervisedTask):
    """Dense: a class for each pixel; target (B, 1, H0, W0) of the raw image."""

    reads = "parsing"

    def target(self, annotation):
        return torch.from_numpy(annotation), torch.ones(len(annotation), dtype=torch.bool)

    def build(self, context):
        return ParsingHead(context.info.channels[-1])

    def move(self, target, geometry):
        return geometry.warp(target.float(), "nearest").long()


class ParsingHead(Head):
    def __init__(self, channels):
        super().__init__()
        self.answer = nn.Conv2d(channels, 3, 1)

    def forward(self, features):
        return F.interpolate(
            self.answer(features.maps[-1]), features.images.shape[-2:], mode="bilinear"
        )

    def loss(self, output, target):
        return F.cross_entropy(output, target[:, 0], reduction="none").mean((1, 2))


# ---------------------------------------------------------------------------------------------------- pretexts


@frozen
class Rotation(PretextTask):
    def views(self, batch, rng):
        n, turns = float(batch.clean.images.shape[-1]), rng.randint(4, len(batch.clean.images))
        samples = [
            [1, 0, 0, 0, 1, 0],
            [0, 1, 0, -1, 0, n],
            [-1, 0, n, 0, -1, n],
            [0, -1, n, 1, 0, 0],
        ]
        quarter = torch.tensor([[*sample, 0, 0, 1] for sample in samples]).view(4, 3, 3)
        return [batch.clean.rearrange(partial(turn, turns), matrix=quarter[turns])], turns

    def build(self, context):
        return RotationHead(context.info.dim)


class RotationHead(Head):
    def __init__(self, dim):
        super().__init__()
        self.answer = nn.Linear(dim, 4)

    def forward(self, features):
        return self.answer(features.pooled)

    def loss(self, output, target):
        return F.cross_entropy(output, target, reduction="none")


def turn(turns: Tensor, maps: Tensor) -> Tensor:
    return torch.stack([maps.rot90(k, (-2, -1)) for k in range(4)])[turns, torch.arange(len(maps))]


@frozen
class RelativeLocation(PretextTask):
    """On the CLEAN forward: how far apart are two places of the coarse map?"""

    pairs: int = 5

    def views(self, batch, rng):
        places = rng.rand(len(batch.clean.images), self.pairs, 2, 2)
        return [batch.clean], {"asked": places, "answer": places}

    def permute(self, target, order):
        return target | {"answer": target["answer"][order]}

    def build(self, context):
        return RelativeLocationHead(context.info.channels[-1])


class RelativeLocationHead(Head):
    def __init__(self, channels):
        super().__init__()
        self.answer = nn.Linear(2 * channels, 2)

    def forward(self, features):
        return features.maps[-1]

    def loss(self, output, target):
        size = torch.tensor(output.shape[:-3:-1])
        asked, answer = ((target[key] * size).long() for key in ("asked", "answer"))
        samples = torch.arange(len(output)).view(-1, 1, 1)
        pairs = rearrange(
            output[samples, :, asked[..., 1], asked[..., 0]], "b p ends c -> b p (ends c)"
        )
        offset = (answer[:, :, 1] - answer[:, :, 0]) / size
        return F.l1_loss(self.answer(pairs), offset, reduction="none").mean((1, 2))


@frozen
class Consistency(PretextTask):
    """FixMatch: a supervised head judges a weak and a strong view."""

    task: str = "fer"
    threshold: float = 0.13

    def views(self, batch, rng):
        return [batch.augment(1, "weak"), batch.augment(2, "strong")], None

    def build(self, context):
        return ConsistencyHead(context.heads[self.task], self.threshold)


class ConsistencyHead(Head):
    def __init__(self, judge, threshold):
        super().__init__()
        self.judge, self.threshold = SharedHead(judge), threshold

    def forward(self, weak, strong):
        with torch.no_grad():
            wanted = self.judge(weak)
        return wanted, self.judge(strong)

    def loss(self, output, target):
        wanted, answer = output
        sure, label = wanted.softmax(1).max(1)
        return torch.where(
            sure >= self.threshold, F.cross_entropy(answer, label, reduction="none"), 0
        )


@frozen
class Inpainting(PretextTask):
    def views(self, batch, rng):
        images = batch.clean.images
        cells = rng.permutations(len(images), 9) < 3
        mask = F.interpolate(
            rearrange(cells, "b (i j) -> b 1 i j", i=3).float(), images.shape[-2:]
        ).bool()
        return [batch.clean.repaint(images.masked_fill(mask, 0.5))], {
            "images": images,
            "mask": mask,
        }

    def permute(self, target, order):
        return target | {"images": target["images"][order]}

    def build(self, context):
        return InpaintingHead(context.info.channels[-1], EMA(context.encoder, 0.9))


class InpaintingHead(Head):
    def __init__(self, channels, judge):
        super().__init__()
        self.decoder, self.judge = nn.Conv2d(channels, 3, 1), judge

    def forward(self, features):
        return F.interpolate(
            self.decoder(features.maps[-1]), features.images.shape[-2:], mode="bilinear"
        ).sigmoid()

    def loss(self, output, target):
        restored = torch.where(target["mask"], output, target["images"])
        pixels = (restored - target["images"]).abs().mean((1, 2, 3))
        with torch.no_grad():
            wanted = self.judge(target["images"]).maps[-1]
        return pixels + (self.judge(restored).maps[-1] - wanted).square().mean((1, 2, 3))


@frozen
class RelativePosition(PretextTask):
    """Patches: no geometry, so no supervised head may read them."""

    def views(self, batch, rng):
        images = batch.clean.images
        side = images.shape[-1] // 3
        cells = rearrange(
            images[..., : 3 * side, : 3 * side], "b c (i h) (j w) -> b (i j) c h w", i=3, j=3
        )
        where = rng.randint(8, len(images))
        return [
            View(cells[:, 4]),
            View(cells[torch.arange(len(images)), where + (where >= 4)]),
        ], where

    def build(self, context):
        return RelativePositionHead(context.info.dim)


class RelativePositionHead(Head):
    def __init__(self, dim):
        super().__init__()
        self.answer = nn.Linear(2 * dim, 8)

    def forward(self, center, neighbor):
        return self.answer(torch.cat([center.pooled, neighbor.pooled], 1))

    def loss(self, output, target):
        return F.cross_entropy(output, target, reduction="none")


@frozen
class Barlow(PretextTask):
    """Coupled: samples are judged together."""

    def views(self, batch, rng):
        return [batch.clean, batch.augment(1)], None

    def build(self, context):
        return BarlowHead(context.info.dim)


class BarlowHead(Head):
    coupled = True

    def __init__(self, dim):
        super().__init__()
        self.project = nn.Linear(dim, 8)

    def forward(self, a, b):
        return self.project(a.pooled), self.project(b.pooled)

    def loss(self, output, target):
        a, b = (F.batch_norm(gather(z), None, None, training=True) for z in output)
        c = a.T @ b / len(a)
        return (c.diagonal() - 1).square().sum() + 0.005 * (
            c - torch.diag(c.diagonal())
        ).square().sum()


@frozen
class Byol(PretextTask):
    def views(self, batch, rng):
        return [batch.clean, batch.augment(1)], None

    def build(self, context):
        return ByolHead(context)


class ByolHead(Head):
    def __init__(self, context):
        super().__init__()
        self.project, self.predict = nn.Linear(context.info.dim, 8), nn.Linear(8, 8)
        self.teacher = EMA(context.encoder, 0.9, final=1.0, batch_stats=True)
        self.teacher_project = EMA(self.project, 0.9, final=1.0)

    def forward(self, a, b):
        with torch.no_grad():
            wanted = [self.teacher_project(self.teacher(f.images).pooled) for f in (b, a)]
        return [self.predict(self.project(f.pooled)) for f in (a, b)], wanted

    def loss(self, output, target):
        return sum(1 - F.cosine_similarity(got, wanted) for got, wanted in zip(*output))


# ---------------------------------------------------------------------------------------------------- weightings


class GramianModule(nn.Module):
    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, losses):
        return (self.rule(losses.gram, losses.primary).detach() * losses.values).sum()


def pcgrad(gram: Tensor, primary: Tensor) -> Tensor:
    """PCGrad in the order of the tasks, on the Gramian alone."""
    c, eye = torch.eye(len(gram)), torch.eye(len(gram))
    for j in range(len(gram)):
        cut = (c @ gram[:, j]).clamp_max(0) / gram[j, j].clamp_min(1e-12)
        c = c - torch.outer(cut * (1 - eye[j]), eye[j])
    return c.sum(0)


@frozen
class PCGrad(LossWeighting):
    at: str = "parameters"

    def build(self, names):
        return GramianModule(pcgrad)


# ---------------------------------------------------------------------------------------------------- experiments, batches

TASKS = {
    "fer": Classification(reads="emotion", classes=tuple("abcdefgh"), dropout=0.0),
    "gender": Classification(reads="gender", classes=("f", "m"), dropout=0.0),
    "pose": Pose(),
    "parsing": Parsing(),
}
PRETEXTS: dict[str, PretextTask] = {
    "puzzle_pooled": Puzzling(grid=3),
    "puzzle_spatial": Puzzling(grid=2, head="spatial"),
    "siamese": Puzzling(grid=2, scales=((1.01, 1.14), (1.0, 1.0), (0.57, 0.99))),
    "turning": Puzzling(grid=2, rotate=True),
    "jigen": Puzzling(grid=2, shuffled=0.3),
    "rotation": Rotation(),
    "location": RelativeLocation(),
    "inpainting": Inpainting(),
    "patches": RelativePosition(),
    "barlow": Barlow(),
    "byol": Byol(),
    "fixmatch": Consistency(),
}
EQUAL, UNCERTAINTY, PCGRAD = Equal(), Uncertainty(), PCGrad()


def experiment(
    tasks: tuple[str, ...] = ("fer", "gender", "pose", "parsing"),
    pretexts: tuple[str, ...] = (),
    *,
    weights: dict[str, float] | None = None,
    entries: dict[str, dict[str, Any]] | None = None,
    encoder: Encoder | None = None,
    augment: Augmentation | None = None,
    weighting: LossWeighting = EQUAL,
    size: int = 32,
    train: dict[str, Any] | None = None,
    weight_decay: float = 0.05,
    **views: Any,
) -> Experiment:
    """An experiment of toys. entries: core keys of a pretext by label; views: fields of `Views`."""
    weights, entries = weights or {}, entries or {}
    no_data: dict[str, Any] = {}
    return Experiment(
        encoder=encoder or Toy(),
        tasks={k: TaskEntry(TASKS[k], weights.get(k, 1.0)) for k in tasks},
        pretexts={
            k: PretextEntry(PRETEXTS[k], weights.get(k, 1.0), **entries.get(k, {}))
            for k in pretexts
        },
        data=no_data,
        weighting=weighting,
        augment=augment or Jitter(),
        augmentations={"weak": Jitter(turn_rad=0.1), "strong": Jitter(), "validation": Plain()},
        input=Input(size=size),
        views=Views(**views),
        optimizer=Optimizer(weight_decay=weight_decay),
        schedule=Schedule(name="constant", warmup=0),
        train=Train(steps=100, **(train or {})),
    )


def rotations(n: int, generator: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator))
    q = q * torch.sign(torch.diagonal(r, dim1=1, dim2=2))[:, None]
    return torch.where(
        (torch.linalg.det(q) < 0)[:, None, None], q * torch.tensor([1.0, 1.0, -1.0]), q
    )


def batch(
    n: int = 6,
    size: int = 40,
    *,
    tasks: tuple[str, ...] = ("fer", "gender", "pose", "parsing"),
    absent: tuple[str, ...] = (),
    unlabeled: int = 1,
    seed: int = 0,
) -> Batch:
    """Random images; each labeled sample carries at least the first task; the last `unlabeled` samples carry nothing."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, size, size), generator=g, dtype=torch.uint8)
    targets = {
        "fer": torch.randint(0, 8, (n,), generator=g),
        "gender": torch.randint(0, 2, (n,), generator=g),
        "pose": rotations(n, g),
        "parsing": (images[:, :1] // 86).long(),
    }
    present = {k: torch.rand(n, generator=g) < 0.7 for k in tasks}
    for k in tasks:
        present[k][0] = True
        present[k][n - unlabeled :] = False
        if k in absent:
            present[k][:] = False
    first = next((k for k in tasks if k not in absent), None)
    if first:
        present[first][: n - unlabeled] = True
    targets = {
        k: torch.where(present[k].view(-1, *[1] * (targets[k].ndim - 1)), targets[k], 0)
        for k in tasks
    }
    made = Batch(images, targets, present, StepCounts({}, 0, 0), n - unlabeled if first else 0)
    return counted([made])[0]


def counted(micro_batches: list[Batch]) -> list[Batch]:
    """The same micro-batches, each told what the whole step holds."""
    labels = micro_batches[0].present
    counts = StepCounts(
        {k: sum(int(b.present[k].sum()) for b in micro_batches) for k in labels},
        sum(len(b.images) for b in micro_batches),
        sum(len(b.images) - b.labeled_samples for b in micro_batches),
    )
    return [evolve(b, counts=counts) for b in micro_batches]


def train_state(
    exp: Experiment, optimizer: str = "sgd", lr: float = 0.05, **train: Any
) -> TrainState:
    """The training state of an experiment on one CPU process."""
    exp = evolve(
        exp,
        optimizer=evolve(exp.optimizer, name=optimizer, lr=lr),
        train=evolve(exp.train, **train),
    )
    return build_train_state(
        exp, Fabric(accelerator="cpu", devices=1, precision=exp.train.precision), 100, 10
    )


def prepared_batches(eng: TrainState, micro_batches: list[Batch]) -> list[PreparedBatch]:
    """Micro-batches of one step, prepared as the loop prepares them."""
    return [
        prepare(
            eng.experiment,
            b,
            eng.keyed_rng(i),
            micro_batches=len(micro_batches),
            progress=eng.progress,
        )
        for i, b in enumerate(counted(micro_batches))
    ]


def key(seed: int = 0) -> KeyedRng:
    return KeyedRng((seed, 0, 0))
