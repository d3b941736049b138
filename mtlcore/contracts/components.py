"""What a plugin implements: the component kinds, and what their methods receive and return.

Shape legend: B samples, K tasks present, (H, W) pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from attrs import field, frozen
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..geometry import Geometry
from ..rng import Rng
from .samples import Annotation, AugmentedBatch, EncoderInfo, Target, View


class Head(nn.Module):
    """Reads features, answers, and judges its own answers.

    forward(*features) -> output: supervised heads get one Features a call; pretext heads one for each of their views, in order.
    Outputs are tensors, or tuples / lists / dicts of them.
    coupled: True where the samples are judged together; the loss is then a scalar.

    Optional members, for the conformance kit and the preview; a head has them or not:
    - `ideal(target) -> output`: a perfect answer, in the form of `forward`'s output.
    - `choices`: how many answers there are to a K-way question (an int; a dict for several questions, by leaf), so that uniform
      logits (all 0) lose log(choices).
    """

    coupled: ClassVar[bool] = False

    def loss(self, output: Any, target: Target) -> Tensor:
        """-> (B,): one value a sample, in fp32, a MEAN over whatever one sample holds (tiles, pixels).

        Outputs arrive in fp32 whatever the run's precision: the core casts their floats.
        Samples without a label hold zeros and must give a finite value; the core masks them.
        A `coupled` pretext head returns a scalar; a `coupled` supervised head is called as loss(output, target, share), with
        the weight (B,) of each sample, and returns a scalar.
        """
        raise NotImplementedError


@frozen(eq=False)
class BuildContext:
    """What a head is built with. It may keep none of these modules as its own part: use `EMA(module)` or `SharedHead(module)`.

    info: the encoder's sizes. encoder: images (B, 3, H, W) in [0, 1] -> Features. heads: the supervised heads by label, built
    first; one that a pretext shares (`SharedHead`) counts as used, and as shared.
    """

    info: EncoderInfo
    encoder: nn.Module
    heads: Mapping[str, Head]


@frozen(eq=False)
class StepLosses:
    """What a weighting is given: global values, the same on every rank. Only tasks present in this step are listed.

    names: K labels. values: (K,) fp32, each the mean over all labeled samples of the step; requires grad. gram: (K, K) inner products
    of the weighted losses' gradients; None at level "losses". primary: (K,) bool, on the device: is it a supervised task? progress:
    how much of the run is done, in [0, 1). epoch: whole passes over the labeled samples that are done. rng: where to draw from.
    """

    names: tuple[str, ...]
    values: Tensor
    gram: Tensor | None
    primary: Tensor
    progress: float
    epoch: int
    rng: Rng


class Component(ABC):
    """A plugin class: a frozen attrs class. Its fields ARE its configuration; its methods build or compute.

    The kind comes from the base class; the name from the class in snake_case (`LocalRotation` -> `local_rotation`), or from a
    `name` of the class's own, which is not inherited.
    family: the part of a name after ":" fills the class's first field (`timm:resnet18`).
    cites: where the idea comes from (authors, year, venue or arXiv number), or "original" where it is the plugin's own.
    lacks: capabilities that the conformance kit expects of this kind and this component does not have, each with its reason:
    {"single_sample": "batch statistics need two samples"}. A class attribute, or a property where it depends on the fields.
    """

    kind: ClassVar[str]
    name: ClassVar[str | None] = None
    family: ClassVar[bool] = False
    cites: ClassVar[str] = ""
    lacks: ClassVar[Mapping[str, str]] = {}


class Encoder(Component):
    """The shared network. mean, std: what normalized RGB means to it; `build` may depend on fields such as `weights`."""

    kind = "encoder"
    mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, float, float]] = (0.25, 0.25, 0.25)

    @abstractmethod
    def build(self, image_size: int) -> nn.Module:
        """-> a module: normalized images (B, 3, H, W) -> Features (its `images` left None)."""


class SupervisedTask(Component):
    """A task with labels.

    reads: the annotation that a dataset must give ("emotion", "pose_deg"): a class attribute, or a field, which the configuration
    fills with the task's label where it is left empty.
    by: attributes of the data, for each value of which the metrics are given too ("gender/accuracy[race=white]"), with the number
    of labeled samples ("gender/n[race=white]"); a class attribute, or a field. Those that the data does not have are passed over.

    Optional member, for the conformance kit:
    - `examples(n, rng) -> Annotation`: n annotations such as a dataset could give.
    """

    kind = "task"
    reads: str
    by: tuple[str, ...] = ()

    def fit(self, annotation: Annotation) -> SupervisedTask:
        """A copy with every field explicit (classes, class weights, mean and std), learned ONCE on the labeled training samples.

        It goes into the resolved configuration, so that evaluation uses the same. Default: itself.
        """
        return self

    @abstractmethod
    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """N annotations -> targets (N, ...) and present (N,) bool. Samples that are not present hold zeros.

        A value that the task does not know (a class that is not its own) is not present.
        """

    @abstractmethod
    def build(self, context: BuildContext) -> Head: ...

    def move(self, target: Tensor, geometry: Geometry) -> Tensor:
        """The label of the moved image, called for each view that is read. Default: a label that does not move."""
        return target

    def decode(self, output: Any) -> Tensor:
        """A head's output -> the answer that metrics and people read. Default: the output."""
        return output

    def as_answer(self, target: Tensor) -> Tensor:
        """Targets (B, ...) as decoded answers, so that `draw` shows the truth in the same way. Default: the targets."""
        return target

    def average(self, decoded: Tensor, mirrored: Tensor) -> Tensor:
        """One answer out of those about an image and about its mirror image. Default: the mean."""
        return (decoded + mirrored) / 2

    def metrics(self) -> dict[str, Any]:
        """name -> fresh torchmetrics.Metric, updated with (decoded, target) of present samples. The first is the task's main one.

        A metric that is a number enters tables and JSON; one that is a matrix (a confusion) is reported beside them. One
        whose `higher_is_better` is a bool can name the best checkpoint; to the best value that it declares (torchmetrics'
        `plot_upper_bound`, or `plot_lower_bound` of one where less is better) the conformance kit holds perfect answers.
        """
        return {}

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """(3, H, W) in [0, 1] and one decoded answer -> the image with the answer drawn on it. Default: the image."""
        return image


class PretextTask(Component):
    """A self-supervised task: makes its own questions and answers from images; gone at inference.

    Optional member, for the conformance kit:
    - `undo(images, target) -> images`: the exact way back from the FIRST view's images, or None where there is none.
    """

    kind = "pretext"

    @abstractmethod
    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Target]:
        """The views the encoder reads, and what the head must answer about them, JOINTLY: a pytree of (B, ...), or None."""

    @abstractmethod
    def build(self, context: BuildContext) -> Head: ...

    def permute(self, target: Target, order: Tensor) -> Target:
        """The answers of other samples, for `control = "random_target"`. Override where a leaf is part of the QUESTION (a mask)."""
        return tree_map(lambda leaf: leaf[order], target)

    def metrics(self) -> dict[str, Any]:
        """name -> fresh torchmetrics.Metric, updated with (output, target) on validation images.

        To the best value that one declares (`plot_upper_bound`, or `plot_lower_bound` where `higher_is_better` is False) the
        conformance kit holds the answers of `Head.ideal`.
        """
        return {}

    def draw(self, images: Tensor, target: Target, output: Any) -> Tensor:
        """View images (B, 3, H, W), what must be answered and the head's output -> images of the answer. Default: the views."""
        return images


class Augmentation(Component):
    """How a raw image becomes a view. Sample i of the result depends on sample i alone (mixing augmentations set `View.mix`)."""

    kind = "augmentation"

    @abstractmethod
    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        """Raw uint8 (B, 3, H0, W0) -> the view of `size` (h, w); before any pretext. One interpolation."""

    def finish(self, images: Tensor, rng: Rng) -> Tensor:
        """Last touch on what the encoder reads, after the pretexts (the paper's cutout). Pixels stay in place."""
        return images


class LossWeighting(Component):
    """How several losses become one.

    at: what it is shown: "losses", or Gramians at "parameters" | "features". every: of a strategy that is shown Gramians, how old
    its task weights may be, in steps: they are measured each `every`-th step and kept between, for each set of tasks. additive: of one
    that is shown losses, whether micro-batches may be weighed one by one: its objective is linear in the losses, and `forward`
    changes no state. Of the others the losses of all micro-batches are computed first: one more forward where there are several.
    protects: does it promise that no step goes against the sum of the tasks' weighted gradients? It holds of a measured step, at
    the parameters: kept task weights are of gradients that have moved on, and at "features" it is the gradient there that is protected.
    Each is a class attribute, or a field of that name.
    """

    kind = "weighting"
    at: Literal["losses", "parameters", "features"] = "losses"
    every: int = 1
    additive: bool = False
    protects: bool = False

    @abstractmethod
    def build(self, names: Sequence[str]) -> nn.Module:
        """-> a module: StepLosses -> objective (). The core takes d objective / d values as task weights; all 1 is the sum of losses.

        A task weight of a strategy that is shown Gramians rules the SHARED parameters; a head that no other loss moves gets the gradient
        of its weighted loss, whatever the task weight. Learned state is keyed by task name. It is called once a step (an `additive`
        one: once a micro-batch), and not at all while task weights are kept.
        """


@frozen(eq=False)
class Skipped:
    """What a dataset left out while it indexed: reason -> names, reported once, counted against `max_bad`.

    notes: what is told once and is no fault of the files: reason -> how many. A benchmark's own rule, samples that stay though
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
    """What a dataset knows of its N samples without decoding an image.

    keys: (N,) strings, unique and stable: a path below the root, a sample number. They name a sample in messages and fingerprints.
    annotations: by name. split: (N,) strings such as "train" and "test", or None where the set has no official split.
    group: (N,) strings: samples of one group never part in splits (a person, a mirrored twin). attributes: (N,) strings by name.
    """

    keys: np.ndarray
    annotations: dict[str, Annotation]
    split: np.ndarray | None = None
    group: np.ndarray | None = None
    attributes: dict[str, np.ndarray] = field(factory=dict)
    skipped: Skipped = field(factory=Skipped)

    def __len__(self) -> int:
        return len(self.keys)


class Dataset(Component):
    """A labeled set of images. Both methods may be called from several threads."""

    kind = "dataset"

    @abstractmethod
    def index(self) -> Index:
        """Every sample with its annotations. Raises MtlError where the root or a needed file is missing."""

    @abstractmethod
    def decode(self, index: Index, i: int) -> np.ndarray:
        """-> (H, W, 3) uint8 RGB. Raises MtlError where the image can't be read."""
