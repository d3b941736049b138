"""Toy components and batches. Networks have a few hundred weights, so a test takes milliseconds.

The toy pretexts cover the difficult cases of the contracts: a shared head, a view that is shared
with the tasks, patches, coupled losses, and EMA teachers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

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
    Layer,
    LossWeighting,
    Optimizer,
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
    PretextEntry,
    Schedule,
    TaskEntry,
    Train,
    Views,
)
from mtlcore.contracts import PreparedBatch
from mtlcore.geometry import similarity
from mtlcore.model.plan import training_plan
from mtlcore.model.views import prepare
from mtlcore.optimizers import SGD, AdamW
from mtlcore.rng import DROPOUT, KeyedRng
from mtlcore.tasks.classification import Classification
from mtlcore.training.build import build_train_state
from mtlcore.training.micro_batches import Forward, forward
from mtlcore.training.state import Names, TrainState
from mtlcore.training.step import Logged, step_on
from mtlcore.weighting import Equal, Uncertainty

# -------------------------------------------------------------------- encoders, augmentations


@frozen
class Toy(Encoder):
    """Three strided convolutions."""

    width: int = 4
    norm: str = "batch"  # "batch" | "none"

    def build(self, size: tuple[int, int]) -> nn.Module:
        return ToyNet(self.width, nn.BatchNorm2d if self.norm == "batch" else nn.Identity)

    def layers(self, net: nn.Module) -> list[Layer]:
        return [Layer(stage, (f"stages.{stage}",)) for stage in range(3)]


class ToyNet(nn.Module):
    """norm: channels -> a normalization layer."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module]) -> None:
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

    lacks: ClassVar = {"random": "it only resizes"}

    def view(self, images, size, rng):
        x = images.float() / 255
        geometry = Geometry.resize(images.shape[-2:], size, images)
        if x.shape[-2:] != size:
            x = geometry.warp(x, "bilinear")
        return View(x, geometry)


@frozen
class Jitter(Augmentation):
    """Rotate, crop, mirror; after the pretexts, cut out a square."""

    turn_rad: float = 0.3

    def view(self, images, size, rng):
        u = rng.rand(3, len(images))
        angle_rad = (2 * u[0] - 1) * self.turn_rad
        scale = 0.7 + 0.3 * u[1]
        flip = u[2] < 0.5
        matrix = similarity(angle_rad, scale, flip, images.shape[-2:], size)
        geometry = Geometry.affine(matrix, size)
        return View(geometry.warp(images.float() / 255, "bilinear"), geometry)

    def finish(self, images, rng):
        h, w = images.shape[-2:]
        y0, x0 = rng.rand(2, len(images), 1, 1, 1) * 0.7
        y = torch.arange(h).view(h, 1) / h
        x = torch.arange(w).view(1, w) / w
        inside = (y >= y0) & (y < y0 + 0.3) & (x >= x0) & (x < x0 + 0.3)
        return images.masked_fill(inside, 0.5)


@frozen
class Mixup(Plain):
    """Zhang et al., 2018."""

    mixes = True

    def view(self, images, size, rng):
        view = super().view(images, size, rng)
        partner = rng.permutations(1, len(images))[0]
        return view.mix(partner, share=rng.rand(len(images)))


# --------------------------------------------------------------------------- supervised tasks


@frozen
class Pose(SupervisedTask):
    """Rotation matrices (B, 3, 3), which follow in-plane rotations and mirroring.

    The output is 6D (Zhou et al., 2019).
    """

    reads = "pose"

    def target(self, annotation):
        return torch.from_numpy(annotation), torch.ones(len(annotation), dtype=torch.bool)

    def build(self, context):
        return PoseHead(context.info.dim)

    def move(self, target, geometry):
        turn, mirrored = orthogonal(geometry.matrix)
        q = torch.eye(3).repeat(len(target), 1, 1)
        q[:, :2, :2] = turn

        # Left and right of the mirrored head change, too.
        mirror = torch.ones(len(target), 1, 3)
        mirror[:, 0, 0] = torch.where(mirrored, -1.0, 1.0)
        return (q @ target) * mirror


class PoseHead(Head):
    def __init__(self, dim):
        super().__init__()
        self.answer = nn.Linear(dim, 6)

    def forward(self, features):
        return self.answer(features.pooled)

    def loss(self, output, target):
        """The angle between both rotations, in radians."""
        x = F.normalize(output[:, :3], dim=1)
        y = F.normalize(output[:, 3:] - (x * output[:, 3:]).sum(1, keepdim=True) * x, dim=1)
        r = torch.stack([x, y, torch.linalg.cross(x, y)], 2) @ target.mT
        vee = torch.stack(
            [r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], 1
        )
        sin = (vee.square().sum(1) + 1e-12).sqrt()  # times 2, as the cosine
        cos = r.diagonal(dim1=1, dim2=2).sum(1) - 1
        return torch.atan2(sin, cos)


@frozen
class Parsing(SupervisedTask):
    """A dense task: a class for each pixel. Targets are (B, 1, H0, W0), of the raw image."""

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
        logits = self.answer(features.maps[-1])
        return F.interpolate(logits, features.images.shape[-2:], mode="bilinear")

    def loss(self, output, target):
        return F.cross_entropy(output, target[:, 0], reduction="none").mean((1, 2))


# ----------------------------------------------------------------------------------- pretexts


@frozen
class Rotation(PretextTask):
    """Predict by which multiple of 90 degrees an image is rotated (Gidaris et al., 2018)."""

    def views(self, batch, rng):
        n = float(batch.clean.images.shape[-1])
        turns = rng.randint(4, len(batch.clean.images))
        affine = [  # the upper two rows of each matrix
            [1, 0, 0, 0, 1, 0],
            [0, 1, 0, -1, 0, n],
            [-1, 0, n, 0, -1, n],
            [0, -1, n, 1, 0, 0],
        ]
        quarter = torch.tensor([[*rows, 0, 0, 1] for rows in affine]).view(4, 3, 3)
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
    """Rotate each of the maps (B, C, N, N) by turns (B,) times 90 degrees."""
    return torch.stack([maps.rot90(k, (-2, -1)) for k in range(4)])[turns, torch.arange(len(maps))]


@frozen
class RelativeLocation(PretextTask):
    """Predict the offset between two cells of the coarse map. It uses the CLEAN forward."""

    pairs: int = 5

    def views(self, batch, rng):
        places = rng.rand(len(batch.clean.images), self.pairs, 2, 2)
        return [batch.clean], {"places": places, "offset_of": places}

    def permute(self, target, order):
        return target | {"offset_of": target["offset_of"][order]}

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
        cells = (target["places"] * size).long()
        offset_cells = (target["offset_of"] * size).long()
        samples = torch.arange(len(output)).view(-1, 1, 1)
        ends = output[samples, :, cells[..., 1], cells[..., 0]]
        pairs = rearrange(ends, "b p ends c -> b p (ends c)")
        offset = (offset_cells[:, :, 1] - offset_cells[:, :, 0]) / size
        return F.l1_loss(self.answer(pairs), offset, reduction="none").mean((1, 2))


@frozen
class Consistency(PretextTask):
    """FixMatch (Sohn et al., 2020): a supervised head labels a weak view for a strong one."""

    task: str = "fer"
    threshold: float = 0.13

    def views(self, batch, rng):
        return [batch.augment(1, "weak"), batch.augment(2, "strong")], None

    def build(self, context):
        return ConsistencyHead(context.heads[self.task], self.threshold)


class ConsistencyHead(Head):
    def __init__(self, head, threshold):
        super().__init__()
        self.shared = SharedHead(head)
        self.threshold = threshold

    def forward(self, weak, strong):
        with torch.no_grad():
            pseudo_logits = self.shared(weak)
        return pseudo_logits, self.shared(strong)

    def loss(self, output, target):
        pseudo_logits, logits = output
        confidence, label = pseudo_logits.softmax(1).max(1)
        losses = F.cross_entropy(logits, label, reduction="none")
        return torch.where(confidence >= self.threshold, losses, 0)


@frozen
class Inpainting(PretextTask):
    """Restore three of nine cells."""

    def views(self, batch, rng):
        images = batch.clean.images
        cells = rng.permutations(len(images), 9) < 3
        grid = rearrange(cells, "b (i j) -> b 1 i j", i=3)
        mask = F.interpolate(grid.float(), images.shape[-2:]).bool()
        masked = batch.clean.repaint(images.masked_fill(mask, 0.5))
        return [masked], {"images": images, "mask": mask}

    def permute(self, target, order):
        return target | {"images": target["images"][order]}

    def build(self, context):
        return InpaintingHead(context.info.channels[-1], EMA(context.encoder, 0.9))


class InpaintingHead(Head):
    """teacher: compares the restored images with the originals, by its features."""

    def __init__(self, channels, teacher):
        super().__init__()
        self.decoder = nn.Conv2d(channels, 3, 1)
        self.teacher = teacher

    def forward(self, features):
        decoded = self.decoder(features.maps[-1])
        return F.interpolate(decoded, features.images.shape[-2:], mode="bilinear").sigmoid()

    def loss(self, output, target):
        restored = torch.where(target["mask"], output, target["images"])
        pixels = (restored - target["images"]).abs().mean((1, 2, 3))
        with torch.no_grad():
            expected = self.teacher(target["images"]).maps[-1]
        return pixels + (self.teacher(restored).maps[-1] - expected).square().mean((1, 2, 3))


@frozen
class RelativePosition(PretextTask):
    """Predict where a patch was. A patch has no geometry, so supervised heads can't read it."""

    def views(self, batch, rng):
        images = batch.clean.images
        size = images.shape[-1] // 3
        cropped = images[..., : 3 * size, : 3 * size]
        cells = rearrange(cropped, "b c (i h) (j w) -> b (i j) c h w", i=3, j=3)
        where = rng.randint(8, len(images))
        neighbor = where + (where >= 4)  # cell 4 is the center
        return [View(cells[:, 4]), View(cells[torch.arange(len(images)), neighbor])], where

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
    """Barlow Twins (Zbontar et al., 2021). Coupled: the loss uses batch statistics."""

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
        on_diagonal = (c.diagonal() - 1).square().sum()
        off_diagonal = (c - torch.diag(c.diagonal())).square().sum()
        return on_diagonal + 0.005 * off_diagonal


@frozen
class Byol(PretextTask):
    """Grill et al., 2020, with an EMA teacher."""

    def views(self, batch, rng):
        return [batch.clean, batch.augment(1)], None

    def build(self, context):
        return ByolHead(context)


class ByolHead(Head):
    def __init__(self, context):
        super().__init__()
        self.project = nn.Linear(context.info.dim, 8)
        self.predict = nn.Linear(8, 8)
        self.teacher = EMA(context.encoder, 0.9, final=1.0, batch_stats=True)
        self.teacher_project = EMA(self.project, 0.9, final=1.0)

    def forward(self, a, b):
        with torch.no_grad():
            expected = [self.teacher_project(self.teacher(f.images).pooled) for f in (b, a)]
        predicted = [self.predict(self.project(f.pooled)) for f in (a, b)]
        return predicted, expected

    def loss(self, output, target):
        pairs = zip(*output)
        return sum(1 - F.cosine_similarity(predicted, expected) for predicted, expected in pairs)


# --------------------------------------------------------------------------------- weightings


class GramianModule(nn.Module):
    """rule: (gram, primary) -> task weights (K,)."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, losses):
        task_weights = self.rule(losses.gram, losses.primary).detach()
        return (task_weights * losses.values).sum()


def pcgrad(gram: Tensor, primary: Tensor) -> Tensor:
    """PCGrad (Yu et al., 2020) in the order of the tasks, computed from the Gramian alone."""
    coefficients = torch.eye(len(gram))
    eye = torch.eye(len(gram))
    for j in range(len(gram)):
        conflict = (coefficients @ gram[:, j]).clamp_max(0) / gram[j, j].clamp_min(1e-12)
        coefficients = coefficients - torch.outer(conflict * (1 - eye[j]), eye[j])
    return coefficients.sum(0)


@frozen
class PCGrad(LossWeighting):
    at: str = "parameters"

    def build(self, names):
        return GramianModule(pcgrad)


# ----------------------------------------------------------------------- experiments, batches

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
EQUAL = Equal()
UNCERTAINTY = Uncertainty()
PCGRAD = PCGrad()


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
    """Return an experiment of toys.

    weights: loss weights by label.
    entries: further keys of [pretext.<label>], by label.
    train: keys of [train].
    views: keys of [views].
    """
    weights = weights or {}
    entries = entries or {}
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
        optimizer=AdamW(weight_decay=weight_decay),
        schedule=Schedule(name="constant", warmup=0),
        train=Train(steps=100, **(train or {})),
    )


def rotations(n: int, generator: torch.Generator) -> Tensor:
    """Return random rotation matrices (n, 3, 3)."""
    q, r = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator))
    q = q * torch.sign(torch.diagonal(r, dim1=1, dim2=2))[:, None]
    mirrors = (torch.linalg.det(q) < 0)[:, None, None]
    return torch.where(mirrors, q * torch.tensor([1.0, 1.0, -1.0]), q)


def batch(
    n: int = 6,
    size: int = 40,
    *,
    tasks: tuple[str, ...] = ("fer", "gender", "pose", "parsing"),
    absent: tuple[str, ...] = (),
    unlabeled: int = 1,
    seed: int = 0,
) -> Batch:
    """Return a batch of random images.

    absent: tasks without any label.
    unlabeled: number of samples without labels, at the end of the batch. Every other sample has a
    label of the first task that is not absent.
    """
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
    masked = {}
    for k in tasks:
        has_label = present[k].view(-1, *[1] * (targets[k].ndim - 1))
        masked[k] = torch.where(has_label, targets[k], 0)
    labeled_samples = n - unlabeled if first else 0
    made = Batch(images, masked, present, StepCounts({}, 0, 0), labeled_samples)
    return counted([made])[0]


def counted(micro_batches: list[Batch]) -> list[Batch]:
    """Return these micro-batches with the counts of their whole step."""
    labeled = {}
    for label in micro_batches[0].present:
        labeled[label] = sum(int(b.present[label].sum()) for b in micro_batches)
    counts = StepCounts(
        labeled=labeled,
        samples=sum(len(b.images) for b in micro_batches),
        unlabeled_samples=sum(len(b.images) - b.labeled_samples for b in micro_batches),
    )
    return [evolve(b, counts=counts) for b in micro_batches]


def train_state(
    exp: Experiment, optimizer: str | Optimizer = "sgd", lr: float = 0.05, **train: Any
) -> TrainState:
    """Return the training state of an experiment, on one CPU process.

    optimizer: "adamw" or "sgd" with this `lr`, or a component. train: keys of [train].
    """
    if isinstance(optimizer, str):
        cls = {"adamw": AdamW, "sgd": SGD}[optimizer]
        optimizer = cls(lr=lr, weight_decay=exp.optimizer.weight_decay)
    exp = evolve(
        exp,
        optimizer=optimizer,
        train=evolve(exp.train, **train),
    )
    fabric = Fabric(accelerator="cpu", devices=1, precision=exp.train.precision)
    return build_train_state(exp, fabric, 100, 10)


def prepared_batches(state: TrainState, micro_batches: list[Batch]) -> list[PreparedBatch]:
    """Prepare the micro-batches of one step, as `train_step` does."""
    plan = training_plan(state.experiment, len(micro_batches))
    return [
        prepare(plan, micro_batch, state.keyed_rng(i), state.progress)
        for i, micro_batch in enumerate(counted(micro_batches))
    ]


@frozen(eq=False)
class Prepared:
    """Micro-batches that a test has prepared, and may have changed."""

    state: TrainState
    batches: list[PreparedBatch]

    @property
    def names(self) -> Names:
        return tuple(self.batches[0].head_inputs)

    def __len__(self) -> int:
        return len(self.batches)

    def forward(self, number: int) -> Forward:
        seed = self.state.keyed_rng(number).seed(DROPOUT)
        return forward(self.state, self.batches[number], seed)


def prepared_step(state: TrainState, batches: list[PreparedBatch]) -> Logged:
    """Take one optimizer step on prepared micro-batches. `train_step` prepares its own."""
    return step_on(state, Prepared(state, batches))


def key(seed: int = 0) -> KeyedRng:
    """Return the generators of the first micro-batch of a run."""
    return KeyedRng((seed, 0, 0))
