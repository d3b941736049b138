"""The harness of a pretext task: a toy encoder, augmented batches of drawn images made by the real machinery, heads to share.

Shapes: B samples, views (B, 3, S, S) of side S = `Drawn.size`, cut out of raw images whose side is a quarter larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import define, evolve, frozen
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from ...augment.levels import NoAugment, Strong, Validation, Weak
from ...config.experiment import (
    Experiment,
    Input,
    Optimizer,
    PretextEntry,
    Schedule,
    TaskEntry,
    Train,
)
from ...contracts import (
    Augmentation,
    AugmentedBatch,
    Batch,
    BuildContext,
    Encoder,
    Features,
    Head,
    PreparedBatch,
    PretextTask,
    StepCounts,
    SupervisedTask,
    Target,
    View,
)
from ...model.hybrid import HybridModel
from ...model.inference import SharedEncoder
from ...model.views import prepare
from ...networks import losses_in_fp32
from ...rng import KeyedRng, Rng
from ...weighting import Equal
from ..generators import seeded
from ..kit import require
from ..reload import reload
from ..subject import Drawn, Subject, patterns

LABEL = "asked"  # of the pretext in the harness's experiments
CLASSES = 4  # of a head that is shared
SHARPNESS = 20.0  # its weights are so much larger than new ones: of some images it is sure, so thresholds let them pass


# ---------------------------------------------------------------------------------------------------- toys


@frozen
class BenchEncoder(Encoder):
    """Three strided convolutions with BatchNorm; a few hundred weights."""

    width: int = 4

    def build(self, image_size: int) -> nn.Module:
        return _BenchNet(self.width)


class _BenchNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = pairwise((3, width, 2 * width, 4 * width))
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.LeakyReLU(0.1))
            for i, o in sizes
        )

    def forward(self, x: Tensor) -> Features:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features(tuple(maps), x.mean((2, 3)), x)


@frozen
class HarnessTask(SupervisedTask):
    """Which of four classes? Its head is there to be shared."""

    reads = "category"

    def target(self, annotation: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(annotation), torch.ones(len(annotation), dtype=torch.bool)

    def build(self, context: BuildContext) -> Head:
        return _BenchHead(context.info.dim)


class _BenchHead(Head):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.answer = nn.Linear(dim, CLASSES)
        with torch.no_grad():
            self.answer.weight.mul_(SHARPNESS)

    def forward(self, features: Features) -> Tensor:
        answer: Tensor = self.answer(features.pooled)
        return answer

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")


class _Lender(Mapping[str, Head]):
    """Supervised heads: "category" from the start, any other label as soon as it is asked for. asked: which were."""

    def __init__(self, encoder: SharedEncoder) -> None:
        self.encoder, self.asked = encoder, set[str]()
        self.heads: dict[str, Head] = {}

    def __getitem__(self, label: str) -> Head:
        self.asked.add(label)
        if label not in self.heads:
            self.heads[label] = HarnessTask().build(
                BuildContext(self.encoder.info, self.encoder, {})
            )
        return self.heads[label]

    def __contains__(self, label: object) -> bool:
        return isinstance(label, str)

    def __iter__(self) -> Iterator[str]:
        return iter({"category": None, **self.heads})

    def __len__(self) -> int:
        return len(set(self))


@frozen
class ChannelsLast(Augmentation):
    """The views of another augmentation, with their memory in the order that convolutions on a GPU like."""

    inner: Augmentation

    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        view = self.inner.view(images, size, rng)
        return evolve(view, images=view.images.contiguous(memory_format=torch.channels_last))


@frozen(eq=False)
class _Listening(PretextTask):
    """Hands its augmented to the harness."""

    heard: list[AugmentedBatch]

    def views(self, augmented: AugmentedBatch, rng: Rng) -> tuple[list[View], Target]:
        self.heard.append(augmented)
        return [augmented.clean], None

    def build(self, context: BuildContext) -> Head:
        raise NotImplementedError


# ---------------------------------------------------------------------------------------------------- the harness


@frozen(eq=False)
class Asked:
    """One question of the pretext: what it looked at, its views, what must be answered, and whether it drew from its generator."""

    augmented: AugmentedBatch
    views: tuple[View, ...]
    target: Target
    drew: bool


@define(eq=False, slots=False)
class PretextSubject(Subject):
    """A pretext on the harness. `model`: kept by size, in eval mode, for checks that change nothing. `fresh`: for the others."""

    imports = ("torchmetrics.classification", "torch._dynamo", "lightning_fabric", "kornia.filters")

    @cached_property
    def _models(self) -> dict[int, HybridModel]:
        return {}

    @cached_property
    def shared_labels(self) -> tuple[str, ...]:
        """Labels of the supervised heads that it asks its context for."""
        return shared_heads_of(self.component)

    @cached_property
    def built(self) -> Any:
        """Its head, on a context of toys."""
        with seeded(0):
            return self.component.build(harness_context())

    def experiment(
        self, size: int, augmentation: Augmentation | None = None, **entry: Any
    ) -> Experiment:
        """A run of this pretext, and of the tasks whose heads it shares. entry: keys of its table."""
        tasks = {label: TaskEntry(HarnessTask()) for label in self.shared_labels}
        return harness_experiment(
            size, {LABEL: PretextEntry(self.component, **entry)}, tasks, augmentation
        )

    def fresh(self, size: int = 32, seed: int = 0) -> HybridModel:
        """A new model, in train mode; its weights are a function of the seed."""
        with seeded(seed):
            return HybridModel(self.experiment(size))

    def in_a_new_process(self) -> PretextSubject:
        """The same pretext, as a process finds it that has built nothing yet: its module is run afresh."""
        other = PretextSubject(self.name, reload(self.cls), self.fields, self.catalog)
        other.shared_labels = self.shared_labels  # to find it out would build a head
        return other

    def model(self, size: int) -> HybridModel:
        """The model for this size, in eval mode, not to be changed."""
        if size not in self._models:
            self._models[size] = self.fresh(size).eval()
        return self._models[size]

    def head(self, size: int = 32) -> Any:
        """The pretext's head in that model."""
        return self.model(size).heads[LABEL]

    def augmented(
        self,
        images: Tensor,
        size: int,
        keyed_rng: KeyedRng,
        augmentation: Augmentation | None = None,
    ) -> AugmentedBatch:
        """What a run would show to a pretext. images: uint8 (B, 3, H0, W0). augmentation: in the place of all that are known by name."""
        heard: list[AugmentedBatch] = []
        prepare(
            harness_experiment(
                size, {"listening": PretextEntry(_Listening(heard))}, {}, augmentation
            ),
            samples(images),
            keyed_rng,
        )
        return heard[0]

    def ask(
        self,
        drawn: Drawn,
        *,
        images: Tensor | None = None,
        augmentation: Augmentation | None = None,
        seed: int | None = None,
    ) -> Asked:
        """The views and the answers about these images (default: drawn ones). seed: of the pretext's own draws alone."""
        images = raw(drawn) if images is None else images
        augmented = self.augmented(images, drawn.size, drawn.keyed_rng(), augmentation)
        rng = KeyedRng((drawn.seed if seed is None else seed,), images.device)(LABEL)
        before = rng.generator.get_state()
        views, target = self.component.views(augmented, rng)
        return Asked(
            augmented, tuple(views), target, not torch.equal(before, rng.generator.get_state())
        )

    def forward_heads(self, model: HybridModel, asked: Asked) -> Any:
        """The head's output, in the mode that the model is in."""
        return model.heads[LABEL](*(model.encoder(v.images) for v in asked.views))

    def compute_losses(self, model: HybridModel, output: Any, target: Target) -> Tensor:
        """The head's loss as a step takes it: in fp32, autocast off."""
        head: Any = model.heads[LABEL]
        output = tree_map(
            lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, output
        )
        with losses_in_fp32("cpu"):
            loss: Tensor = head.loss(output, target)
        return loss

    def loss(self, model: HybridModel, asked: Asked) -> Tensor:
        """(B,), or () where the head is coupled."""
        return self.compute_losses(model, self.forward_heads(model, asked), asked.target)

    def prepared(self, drawn: Drawn, **entry: Any) -> PreparedBatch:
        """What a step of a run would be given."""
        experiment = self.experiment(drawn.size, **entry)
        return prepare(experiment, samples(raw(drawn), self.shared_labels), drawn.keyed_rng())


def harness_context(size: int = 32) -> BuildContext:
    """A toy encoder, and heads to share: "category", and any other label that is asked for."""
    encoder = SharedEncoder(BenchEncoder(), size)
    return BuildContext(encoder.info, encoder, _Lender(encoder))


def shared_heads_of(component: PretextTask) -> tuple[str, ...]:
    """Labels of the supervised heads that a pretext asks its context for."""
    with seeded(0):
        context = harness_context()
        component.build(context)
    return tuple(sorted(context.heads.asked)) if isinstance(context.heads, _Lender) else ()


def harness_experiment(
    size: int,
    pretexts: dict[str, PretextEntry],
    tasks: dict[str, TaskEntry],
    augmentation: Augmentation | None = None,
) -> Experiment:
    """A run on the toy encoder. augmentation: in the place of all named ones (default: those that ship, weak for the clean view)."""
    shipped = {"none": NoAugment(), "weak": Weak(), "strong": Strong(), "validation": Validation()}
    return Experiment(
        encoder=BenchEncoder(),
        tasks=tasks,
        pretexts=pretexts,
        data={},
        weighting=Equal(),
        augment=augmentation or shipped["weak"],
        augmentations=dict.fromkeys(shipped, augmentation) if augmentation else shipped,
        input=Input(size=size),
        optimizer=Optimizer(name="sgd", lr=0.1),
        schedule=Schedule(name="constant", warmup=0),
        train=Train(steps=2),
    )


def samples(images: Tensor, tasks: tuple[str, ...] = ()) -> Batch:
    """A batch of these raw images, each labeled for each of the tasks."""
    n = len(images)
    targets = {label: torch.arange(n, device=images.device) % CLASSES for label in tasks}
    present = {label: torch.ones(n, dtype=torch.bool, device=images.device) for label in tasks}
    labeled = n if tasks else 0
    return Batch(
        images, targets, present, StepCounts(dict.fromkeys(tasks, n), n, n - labeled), labeled
    )


def raw(drawn: Drawn) -> Tensor:
    """(B, 3, R, R) uint8: the drawn example's images, a quarter larger than its views."""
    return patterns(drawn.samples, drawn.size * 5 // 4, drawn.seed)


# ---------------------------------------------------------------------------------------------------- pytrees


def same(a: Any, b: Any) -> bool:
    """Bit-equal, leaf by leaf?"""
    (left, form), (right, other) = tree_flatten(a), tree_flatten(b)
    return form == other and all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(left, right)
    )


def images_of(asked: Asked) -> tuple[Tensor, ...]:
    return tuple(v.images for v in asked.views)


def cut(tree: Any, part: slice) -> Any:
    """These samples of every tensor that has any."""
    return tree_map(lambda x: x[part] if isinstance(x, Tensor) and x.ndim else x, tree)


def tensors(tree: Any) -> list[Tensor]:
    """Its tensors; none of a target that is None."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def floats(tree: Any) -> list[Tensor]:
    return [x for x in tensors(tree) if x.is_floating_point()]


def require_finite(tree: Any, what: str) -> None:
    for leaf in floats(tree):
        bad = int((~leaf.isfinite()).sum())
        require(not bad, f"{what}: {bad} of {leaf.numel()} numbers are not finite")
