"""The harness of a pretext task: a toy encoder, augmented batches of drawn images, shared heads.

The core's own code makes the batches, so a check sees what a run would show to the pretext.

Shapes: B samples; views (B, 3, S, S) with S = `Drawn.size`, cut from raw images a quarter larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import define, evolve, frozen
from torch import Tensor, nn

from ...augment.levels import NoAugment, Strong, Validation, Weak
from ...config.experiment import (
    Experiment,
    Input,
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
    Features,
    Head,
    PreparedBatch,
    PretextTask,
    SupervisedTask,
    Target,
    View,
)
from ...errors import MtlError
from ...evaluation.preview import untrained_strips
from ...evaluation.sheet import sheet
from ...image_size import image_size
from ...model.hybrid import HybridModel
from ...model.inference import SharedEncoder
from ...model.plan import ViewPlan, training_plan
from ...model.views import augment, prepare
from ...networks import contiguous, losses_in_fp32, to_fp32
from ...optimizers import SGD
from ...registry.components import component_name
from ...rng import KeyedRng, Rng
from ...weighting import Equal
from ..generators import seeded
from ..reload import reload
from ..subject import SIZES, Drawn, Subject, patterns
from ..toys import ToyEncoder

if TYPE_CHECKING:
    from torchmetrics import Metric

LABEL = "asked"  # of the pretext in the harness's experiments; it keys the random draws
CLASSES = 4  # of a shared head

# The weights of a shared head are larger than new ones. It is then confident about some images,
# and confidence thresholds of pretexts let these pass.
SHARPNESS = 20.0


# ------------------------------------------------------------------------------------------- toys


@frozen
class ToyTask(SupervisedTask):
    """A classification with four classes. Its head exists to be shared."""

    reads = "category"

    def target(self, annotation: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(annotation), torch.ones(len(annotation), dtype=torch.bool)

    def build(self, context: BuildContext) -> Head:
        return _ToyHead(context.info.dim)


class _ToyHead(Head):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.answer = nn.Linear(dim, CLASSES)
        with torch.no_grad():
            self.answer.weight.mul_(SHARPNESS)

    def forward(self, features: Features) -> Tensor:
        logits: Tensor = self.answer(features.pooled)
        return logits

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")


class _SharedHeads(Mapping[str, Head]):
    """Supervised heads by label, built on request; "category" is listed from the start.

    requested: the labels that a pretext requested.
    """

    def __init__(self, encoder: SharedEncoder) -> None:
        self.encoder = encoder
        self.requested: set[str] = set()
        self.heads: dict[str, Head] = {}

    def __getitem__(self, label: str) -> Head:
        self.requested.add(label)
        if label not in self.heads:
            context = BuildContext(self.encoder.info, self.encoder, {})
            self.heads[label] = ToyTask().build(context)
        return self.heads[label]

    def __contains__(self, label: object) -> bool:
        return isinstance(label, str)

    def __iter__(self) -> Iterator[str]:
        return iter({"category": None, **self.heads})

    def __len__(self) -> int:
        return len(set(self))


@frozen
class ChannelsLast(Augmentation):
    """The views of another augmentation in the memory format channels_last."""

    inner: Augmentation

    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        view = self.inner.view(images, size, rng)
        return evolve(view, images=view.images.contiguous(memory_format=torch.channels_last))


# ------------------------------------------------------------------------------------ the harness


@frozen(eq=False)
class PretextBatch:
    """What a pretext returns for one augmented batch.

    drew: True if it drew from its generator.
    """

    augmented: AugmentedBatch
    views: tuple[View, ...]
    target: Target
    drew: bool

    @property
    def images(self) -> tuple[Tensor, ...]:
        return tuple(view.images for view in self.views)

    def with_target(self, target: Target) -> PretextBatch:
        return evolve(self, target=target)


@define(eq=False, slots=False)
class PretextSubject(Subject[PretextTask]):
    """A pretext in the harness."""

    imports = ("torchmetrics.classification", "torch._dynamo", "lightning_fabric", "kornia.filters")

    @cached_property
    def _models(self) -> dict[int, HybridModel]:
        return {}

    @cached_property
    def shared_labels(self) -> tuple[str, ...]:
        """Labels of the supervised heads that it requests from its context."""
        return shared_heads_of(self.component)

    @cached_property
    def _fitting(self) -> tuple[int, ...]:
        """The sizes of images that its head can be built for."""
        if "any_size" not in self.lacks:
            return SIZES
        return fitting_sizes(self.component) or SIZES

    def fit(self, size: int) -> int:
        """This size of images, or the first fitting one if its head can't be built for this one."""
        fits = size in self._fitting or self._fitting == SIZES
        return size if fits else self._fitting[0]

    def context(self) -> BuildContext:
        """A toy encoder, and supervised heads for every label that is requested."""
        return toy_context(self.fit(SIZES[0]))

    @cached_property
    def built(self) -> Any:
        """Its head, built on the toy encoder."""
        with seeded(0):
            return self.component.build(self.context())

    def experiment(
        self, size: int, augmentation: Augmentation | None = None, **entry: Any
    ) -> Experiment:
        """A run of this pretext and the tasks that share heads with it. entry: its table's keys."""
        pretexts = {LABEL: PretextEntry(self.component, **entry)}
        tasks = {label: TaskEntry(ToyTask()) for label in self.shared_labels}
        return toy_experiment(self.fit(size), pretexts, tasks, augmentation)

    def fresh(self, size: int = 32, seed: int = 0) -> HybridModel:
        """A new model in train mode, for checks that change it. The seed determines its weights."""
        with seeded(seed):
            return HybridModel(self.experiment(size))

    def model(self, size: int) -> HybridModel:
        """The cached model of this size in eval mode. Checks must not change it."""
        size = self.fit(size)
        if size not in self._models:
            self._models[size] = self.fresh(size).eval()
        return self._models[size]

    def head(self, size: int = 32) -> Any:
        """The pretext's head in that model."""
        return self.model(size).heads[LABEL]

    def in_a_new_process(self) -> PretextSubject:
        """The same pretext from a reloaded module, as a new process would import it."""
        other = PretextSubject(self.name, reload(self.cls), self.fields, self.catalog)
        other.shared_labels = self.shared_labels  # computing them would build a head
        return other

    def augmented(
        self,
        images: Tensor,
        size: int,
        keyed_rng: KeyedRng,
        augmentation: Augmentation | None = None,
        progress: float = 0.0,
    ) -> AugmentedBatch:
        """The augmented batch that a run would pass to a pretext.

        images: uint8 (B, 3, H0, W0). augmentation: replaces all named augmentations. progress:
        completed share of the run.
        """
        return augment(toy_plan(self.fit(size), augmentation), images, keyed_rng, progress)

    def batch(
        self,
        drawn: Drawn,
        *,
        images: Tensor | None = None,
        augmentation: Augmentation | None = None,
        seed: int | None = None,
        progress: float = 0.0,
    ) -> PretextBatch:
        """The pretext's views and target of these images (default: drawn ones).

        seed: of the pretext's own draws only. progress: completed share of the run.
        """
        if images is None:
            images = raw(drawn)
        keyed_rng = drawn.keyed_rng()
        augmented = self.augmented(images, drawn.size, keyed_rng, augmentation, progress)

        own_seed = drawn.seed if seed is None else seed
        rng = KeyedRng((own_seed,), images.device)(LABEL)
        before = rng.generator.get_state()
        views, target = self.component.views(augmented, rng)
        drew = not torch.equal(before, rng.generator.get_state())
        return PretextBatch(augmented, tuple(views), target, drew)

    def output(self, model: HybridModel, batch: PretextBatch) -> Any:
        """The head's output, in the model's current mode."""
        return model.heads[LABEL](*features_of(model, batch.views))

    def loss_of(self, model: HybridModel, output: Any, target: Target) -> Tensor:
        """The head's loss as a step computes it: in fp32, without autocast.

        (B,), or () if the head is coupled.
        """
        head: Any = model.heads[LABEL]
        in_fp32 = to_fp32(output)
        with losses_in_fp32("cpu"):
            loss: Tensor = head.loss(in_fp32, target)
        return loss

    def loss(self, model: HybridModel, batch: PretextBatch) -> Tensor:
        return self.loss_of(model, self.output(model, batch), batch.target)

    def prepared(self, drawn: Drawn, **entry: Any) -> PreparedBatch:
        """What a step of a run would receive."""
        plan = training_plan(self.experiment(drawn.size, **entry))
        return prepare(plan, toy_batch(raw(drawn), self.shared_labels), drawn.keyed_rng())


def measured(metric: Metric, updates: Sequence[tuple[Any, Target]]) -> Tensor:
    """The value of a metric after these updates (output, target): a scalar, or a matrix."""
    for output, target in updates:
        metric.update(*contiguous((output, target)))
    return torch.as_tensor(metric.compute()).float()


def features_of(model: HybridModel, views: Sequence[View]) -> list[Features]:
    """The encoder's features of each view, of its visible parts if some are hidden."""
    return [model.encoder(view.images, view.visible) for view in views]


def toy_context(size: int) -> BuildContext:
    """A toy encoder of this image size, and supervised heads for every label that is requested."""
    encoder = SharedEncoder(ToyEncoder(), (size, size))
    return BuildContext(encoder.info, encoder, _SharedHeads(encoder))


def builds_at(component: PretextTask, size: int) -> bool:
    """Whether its head can be built for images of this size: a grid may not divide their maps."""
    try:
        with seeded(0):
            component.build(toy_context(size))
    except MtlError:
        return False
    return True


def fitting_sizes(component: PretextTask) -> tuple[int, ...]:
    """The sizes of the harness that its head can be built for."""
    return tuple(size for size in SIZES if builds_at(component, size))


def shared_heads_of(component: PretextTask) -> tuple[str, ...]:
    """Labels of the supervised heads that a pretext requests from its context."""
    sizes = fitting_sizes(component) if "any_size" in component.lacks else ()
    with seeded(0):
        context = toy_context(sizes[0] if sizes else SIZES[0])
        component.build(context)
    assert isinstance(context.heads, _SharedHeads)
    return tuple(sorted(context.heads.requested))


def toy_experiment(
    size: int | tuple[int, int],
    pretexts: dict[str, PretextEntry],
    tasks: dict[str, TaskEntry],
    augmentation: Augmentation | None = None,
) -> Experiment:
    """A run on the toy encoder, to build and train its model.

    augmentation: replaces all named ones. Default: the built-in ones, "weak" for the clean view.
    """
    plan = toy_plan(size, augmentation)
    return Experiment(
        encoder=ToyEncoder(),
        tasks=tasks,
        pretexts=pretexts,
        data={},
        weighting=Equal(),
        augment=plan.augment,
        augmentations=dict(plan.augmentations),
        input=Input(size=size),
        optimizer=SGD(lr=0.1),
        schedule=Schedule(name="constant", warmup=0),
        train=Train(steps=2),
    )


def toy_plan(size: int | tuple[int, int], augmentation: Augmentation | None = None) -> ViewPlan:
    """The augmentations of the harness.

    augmentation: replaces all named ones. Default: the built-in ones, "weak" for the clean view.
    """
    builtin = {"none": NoAugment(), "weak": Weak(), "strong": Strong(), "validation": Validation()}
    named = dict.fromkeys(builtin, augmentation) if augmentation else builtin
    return ViewPlan(augmentation or builtin["weak"], named, image_size(size))


def toy_batch(images: Tensor, tasks: tuple[str, ...] = ()) -> Batch:
    """A batch of these raw images, with a label of every task on each."""
    if not tasks:
        return Batch.unlabeled(images)
    classes = torch.arange(len(images), device=images.device) % CLASSES
    return Batch.labeled(images, dict.fromkeys(tasks, classes))


@torch.no_grad()
def perturb_weights(model: HybridModel, drawn: Drawn) -> None:
    """Move the weights away from a new model's, and momentum copies from their origins."""
    rng = drawn.rng("stir")
    for p in model.parameters():
        p.add_(0.02 * rng.randn(*p.shape))


def raw(drawn: Drawn) -> Tensor:
    """(B, 3, R, R) uint8: the images of a drawn example, a quarter larger than its views."""
    return patterns(drawn.samples, raw_size(drawn), drawn.seed)


def raw_size(drawn: Drawn) -> int:
    return drawn.size * 5 // 4


def pretext_sheet(
    component: PretextTask,
    images: Tensor | None = None,
    *,
    size: int | tuple[int, int] = 64,
    columns: int = 8,
    seed: int = 0,
) -> np.ndarray:
    """Draw what a pretext makes of some images: views, target, and an untrained prediction.

    images: (N, 3, H, W) uint8 (default: `columns` drawn patterns). size: of the views, in pixels,
    one number or (h, w). seed: of all draws. -> (H, W, 3) uint8, one column per image. Raises
    MtlError if the component is not a pretext task.
    """
    label = component_name(type(component))
    if not isinstance(component, PretextTask):
        raise MtlError(f"a sheet shows pretext tasks, and {label!r} is a {component.kind}")
    height, width = image_size(size)
    if images is None:
        squares = patterns(columns, max(height, width) * 5 // 4, seed)
        images = squares[..., : height * 5 // 4, : width * 5 // 4]
    images = images[:columns]
    tasks = {shared: TaskEntry(ToyTask()) for shared in shared_heads_of(component)}
    experiment = toy_experiment(size, {label: PretextEntry(component)}, tasks)
    return sheet(untrained_strips(evolve(experiment, seed=seed), images), (height, width))
