"""The nouns of mtlcore: what flows through a step, and what a plugin implements.

Shape legend: B samples, K tasks present, D width of the pooled features, (H, W) pixels, (h, w) cells of a map.
Images are RGB in [0, 1], float (B, 3, H, W), everywhere; only the core's encoder wrapper normalises them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from attrs import evolve, field, frozen
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .geometry import Geometry, Move
from .rng import Rng

Target = Any  # a tensor, or a tuple / list / dict of tensors, each (B, ...)
Annotation = np.ndarray
"""One label kind of N rows. Categories: (N,) strings, "" where missing. Numbers: (N,) or (N, ...) float, NaN where missing.
Categories travel by NAME, so the label orders of two data sets can never be mixed up."""


# ------------------------------------------------------------------------------------------------ what flows


@frozen
class StepCounts:
    """Rows of ONE optimiser step, over all ranks and micro-batches: host ints, known to the sampler before the first forward."""

    labelled: dict[str, int]  # task label -> rows that carry it
    rows: int
    unlabelled_rows: int  # rows that carry no label at all


@frozen(eq=False)
class Batch:
    """One micro-batch, as the loader gives it. A row may carry labels for some tasks, for all, or for none."""

    images: Tensor  # (B, 3, H0, W0) uint8
    targets: dict[str, Tensor]  # task label -> (B, ...); rows without that label hold ZEROS
    present: dict[str, Tensor]  # task label -> (B,) bool
    counts: StepCounts
    labelled_rows: int  # the first rows of the batch carry a label; the others none


@frozen(eq=False)
class View:
    """Images that an encoder may read, and how their pixels got where they are.

    images: (B, 3, H, W) float in [0, 1].
    geometry: None means "no whole picture of the sample" (a patch); supervised heads never read such a view.
    mix: mixup or cutmix: the partner of each row (B,) int64, and the row's own share (B,) in [0, 1].
    recipe: whose `finish` these images get; set by the scene, kept by all that is derived. None: the run's own recipe.
    """

    images: Tensor
    geometry: Geometry | None = None
    mix: tuple[Tensor, Tensor] | None = None
    recipe: str | None = None

    def repaint(self, images: Tensor) -> View:
        """Other colours in the same places: masks, noise, grey."""
        return evolve(self, images=images)

    def rearrange(self, move: Move, matrix: Tensor | None = None) -> View:
        """Other places. `move` (B, C, H, W) -> (B, C, H', W') acts on the images now and on dense labels later.

        matrix: (B, 3, 3) old -> new where the picture moved as a whole, so that rigid labels follow.
        """
        geometry = self.geometry and self.geometry.moved(move, matrix)
        return evolve(self, images=move(self.images), geometry=geometry)

    def resize(self, size: tuple[int, int]) -> View:
        """The whole picture, bilinearly scaled to `size` (h, w)."""
        height, width = self.images.shape[-2:]
        step = Geometry.resize((height, width), size, self.images)
        return evolve(
            self, images=step.warp(self.images, "bilinear"), geometry=self.geometry and self.geometry.then(step)
        )


class Scene(Protocol):
    """A batch of samples that a pretext may look at, as often as it likes."""

    @property
    def clean(self) -> View:
        """The batch augmented once: shared by all heads. Never edit its images in place."""
        ...

    @property
    def progress(self) -> float:
        """How much of the run is done, in [0, 1)."""
        ...

    def augment(self, number: int = 1, recipe: str | None = None) -> View:
        """The number-th independent augmentation: drawn when first asked for, then shared by all who ask.

        recipe: another one than the run's, by name (FixMatch's weak view in a strong run).
        """
        ...


class Features(NamedTuple):
    """What the encoder says of one view. A NamedTuple, since torch.compile, FSDP and DDP look into it (not into attrs)."""

    maps: tuple[Tensor, ...]  # (B, C_i, h_i, w_i), fine first, coarse last
    pooled: Tensor  # (B, D)
    shared: Tensor  # every head's gradient passes here: maps[-1], or a ViT's tokens
    images: Tensor | None = None  # (B, 3, H, W) in [0, 1], as read; set by the core's encoder wrapper


@frozen
class EncoderInfo:
    """What the core measured of an encoder with one dry forward; no plugin declares it."""

    dim: int  # D
    channels: tuple[int, ...]  # of each map
    map_sizes: tuple[tuple[int, int], ...]
    image_size: int


class Head(nn.Module):
    """Reads features, answers, and judges its own answers.

    forward(*features) -> output: supervised heads get one Features a call; pretext heads one for each of their views, in order.
    Outputs are tensors, or tuples / lists / dicts of them.
    """

    coupled: ClassVar[bool] = False  # True: samples are judged together, the loss is a scalar

    def loss(self, output: Any, target: Target) -> Tensor:
        """-> (B,): one value a sample, in fp32, a MEAN over whatever one sample holds (tiles, pixels).

        Rows without a label hold zeros and must give a finite value; the core masks them.
        A `coupled` pretext head returns a scalar; a `coupled` supervised head is called as loss(output, target, share), with
        the weight (B,) of each row, and returns a scalar.
        """
        raise NotImplementedError

    # Optional, for the conformance kit: `ideal(target) -> output`, a perfect answer; `choices`, how many answers there are to a
    # K-way question, so that uniform logits (all 0) lose log(choices).


@frozen(eq=False)
class Host:
    """What a head is built with. It may keep none of these modules as its own part: use `EMA(module)` or `Borrowed(module)`."""

    info: EncoderInfo
    encoder: nn.Module  # images in [0, 1] -> Features
    heads: Mapping[
        str, Head
    ]  # supervised heads by label, built first; one that a pretext takes counts as used, and as shared


@frozen(eq=False)
class StepLosses:
    """What a weighting is given: global values, the same on every rank. Only tasks present in this step are listed."""

    names: tuple[str, ...]
    values: Tensor  # (K,) fp32: mean over all labelled rows of the step; requires grad
    gram: Tensor | None  # (K, K) inner products of the weighted losses' gradients; None at level "losses"
    primary: Tensor  # (K,) bool, on the device: is it a supervised task?
    progress: float  # in [0, 1)
    epoch: int
    rng: Rng


# ------------------------------------------------------------------------------------------------ what a plugin implements


class Component(ABC):
    """A plugin class: a frozen attrs class. Its fields ARE its configuration; its methods build or compute.

    The kind comes from the base class; the name from the class in snake_case (`LocalRotation` -> `local_rotation`), or from `name`.
    family: the part of a name after ":" fills the class's first field (`timm:resnet18`).
    cites: where the idea comes from (authors, year, venue or arXiv number), or "original" where it is the plugin's own.
    lacks: capabilities that the conformance kit expects of this kind and this component does not have, each with its reason:
    {"single_row": "batch statistics need two rows"}. A class attribute, or a property where it depends on the fields.
    """

    kind: ClassVar[str]
    name: ClassVar[str | None] = None
    family: ClassVar[bool] = False
    cites: ClassVar[str] = ""
    lacks: ClassVar[Mapping[str, str]] = {}


class Encoder(Component):
    """The shared network. mean, std: what normalised RGB means to it; `build` may depend on fields such as `weights`."""

    kind = "encoder"
    mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, float, float]] = (0.25, 0.25, 0.25)

    @abstractmethod
    def build(self, image_size: int) -> nn.Module:
        """-> a module: normalised images (B, 3, H, W) -> Features (its `images` left None)."""


class SupervisedTask(Component):
    """A task with labels.

    reads: the annotation that a source must give ("emotion", "pose_deg"): a class attribute, or a field, which the configuration
    fills with the task's label where it is left empty.
    by: attributes of the data, for each value of which the metrics are given too ("gender/accuracy[race=white]"), with the number
    of labelled rows ("gender/n[race=white]"); a class attribute, or a field. Those that the data does not have are passed over.
    """

    kind = "task"
    reads: str
    by: tuple[str, ...] = ()

    def fit(self, annotation: Annotation) -> SupervisedTask:
        """A copy with every field explicit (classes, class weights, mean and std), learned ONCE on the labelled training rows.

        It goes into the resolved configuration, so that evaluation uses the same. Default: itself.
        """
        return self

    @abstractmethod
    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """N annotations -> targets (N, ...) and present (N,) bool. Rows that are not present hold zeros.

        A value that the task does not know (a class that is not its own) is not present.
        """

    @abstractmethod
    def build(self, host: Host) -> Head: ...

    def move(self, target: Tensor, geometry: Geometry) -> Tensor:
        """The label of the moved picture, called for each view that is read. Default: a label that does not move."""
        return target

    def decode(self, output: Any) -> Tensor:
        """A head's output -> the answer that metrics and people read. Default: the output."""
        return output

    def as_answer(self, target: Tensor) -> Tensor:
        """Targets (B, ...) as decoded answers, so that `draw` shows the truth in the same way. Default: the targets."""
        return target

    def average(self, decoded: Tensor, mirrored: Tensor) -> Tensor:
        """One answer out of those about a picture and about its mirror image. Default: the mean."""
        return (decoded + mirrored) / 2

    def metrics(self) -> dict[str, Any]:
        """name -> fresh torchmetrics.Metric, updated with (decoded, target) of present rows. The first is the task's main one.

        A metric that is a number enters tables and JSON; one that is a matrix (a confusion) is reported beside them.
        """
        return {}

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """(3, H, W) in [0, 1] and one decoded answer -> the picture with the answer drawn on it. Default: the picture."""
        return image


class PretextTask(Component):
    """A self-supervised task: makes its own questions and answers from images; gone at inference."""

    kind = "pretext"

    @abstractmethod
    def views(self, scene: Scene, rng: Rng) -> tuple[Sequence[View], Target]:
        """The views the encoder reads, and what the head must answer about them, JOINTLY: a pytree of (B, ...), or None."""

    @abstractmethod
    def build(self, host: Host) -> Head: ...

    def permute(self, target: Target, order: Tensor) -> Target:
        """The answers of other rows, for `control = "random_target"`. Override where a leaf is part of the QUESTION (a mask)."""
        return tree_map(lambda leaf: leaf[order], target)

    def metrics(self) -> dict[str, Any]:
        """name -> fresh torchmetrics.Metric, updated with (output, target) on validation images."""
        return {}

    def draw(self, images: Tensor, target: Target, output: Any) -> Tensor:
        """View images (B, 3, H, W), what must be answered and the head's output -> pictures of the answer. Default: the views."""
        return images

    # Optional: `undo(view, target) -> images`, the exact way back. The conformance kit uses it.


class AugmentRecipe(Component):
    """How a raw picture becomes a view. Sample i of the result depends on sample i alone (mixing recipes set `View.mix`)."""

    kind = "augment"

    @abstractmethod
    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        """Raw uint8 (B, 3, H0, W0) -> the view of `size` (h, w); before any pretext. One interpolation."""

    def finish(self, images: Tensor, rng: Rng) -> Tensor:
        """Last touch on what the encoder reads, after the pretexts (the paper's cutout). Pixels stay in place."""
        return images


class LossWeighting(Component):
    """How several losses become one.

    at: what it is shown: "losses", or Gramians at "parameters" | "features"; a class attribute, or a field of that name.
    """

    kind = "weighting"
    at: ClassVar[str] = "losses"

    @abstractmethod
    def build(self, names: Sequence[str]) -> nn.Module:
        """-> a module: StepLosses -> objective (). The core takes d objective / d values as factors; all 1 is the plain sum.

        Learned state is keyed by task name.
        """


@frozen(eq=False)
class Skipped:
    """What a source left out while it indexed: reason -> names, reported once, counted against `max_bad`.

    notes: what is told once and is no fault of the files: reason -> how many. A benchmark's own rule, rows that stay though
    something of theirs is lacking. They count neither against `max_bad` nor in `len`.
    """

    names: dict[str, list[str]] = field(factory=dict)
    notes: dict[str, int] = field(factory=dict)

    def add(self, reason: str, name: str) -> None:
        self.names.setdefault(reason, []).append(name)

    def note(self, reason: str, number: int = 1) -> None:
        if number:
            self.notes[reason] = self.notes.get(reason, 0) + number

    def __len__(self) -> int:
        return sum(len(names) for names in self.names.values())


@frozen(eq=False)
class Index:
    """What a source knows of its N rows without decoding a picture.

    keys: (N,) strings, unique and stable: a path below the root, a row number. They name a row in messages and fingerprints.
    annotations: by name. split: (N,) strings such as "train" and "test", or None where the set has no official split.
    group: (N,) strings: rows of one group never part in splits (a person, a mirrored twin). attributes: (N,) strings by name.
    """

    keys: np.ndarray
    annotations: dict[str, Annotation]
    split: np.ndarray | None = None
    group: np.ndarray | None = None
    attributes: dict[str, np.ndarray] = field(factory=dict)
    skipped: Skipped = field(factory=Skipped)

    def __len__(self) -> int:
        return len(self.keys)


class DataSource(Component):
    """A labelled set of pictures. Both methods may be called from several threads."""

    kind = "source"

    @abstractmethod
    def index(self) -> Index:
        """Every row with its annotations. Raises MtlError where the root or a needed file is missing."""

    @abstractmethod
    def decode(self, index: Index, row: int) -> np.ndarray:
        """-> (H, W, 3) uint8 RGB. Raises MtlError where the picture can't be read."""


KINDS: dict[str, type[Component]] = {
    c.kind: c for c in (Encoder, SupervisedTask, PretextTask, LossWeighting, DataSource, AugmentRecipe)
}
