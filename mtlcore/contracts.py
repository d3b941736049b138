"""The nouns of mtlcore: what flows through a step, and what a plugin implements.

Shape legend: B samples, K tasks present, D width of the pooled features, (H, W) pixels, (h, w) cells of a map.
Images are RGB in [0, 1], float (B, 3, H, W), everywhere; only the core's encoder wrapper normalizes them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from attrs import evolve, field, frozen
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .geometry import Geometry, Move
from .rng import Rng

Target = Any  # a tensor, or a tuple / list / dict of tensors, each (B, ...)
Annotation = np.ndarray
"""One label kind of N samples. Categories: (N,) strings, "" where missing. Numbers: (N,) or (N, ...) float, NaN where missing.
Categories travel by NAME, so the label orders of two data sets can never be mixed up."""


# ------------------------------------------------------------------------------------------------ what flows


@frozen
class StepCounts:
    """Samples of ONE optimizer step, over all ranks and micro-batches: host ints, known to the sampler before the first forward.

    labeled: task label -> samples that carry it. samples: all. unlabeled_samples: those that carry no label at all.
    """

    labeled: dict[str, int]
    samples: int
    unlabeled_samples: int


@frozen(eq=False)
class Batch:
    """One micro-batch, as the loader gives it. A sample may carry labels for some tasks, for all, or for none.

    images: (B, 3, H0, W0) uint8. targets: task label -> (B, ...); samples without that label hold ZEROS. present: task label -> (B,)
    bool, who carries it. counts: of the whole step. labeled_samples: so many samples, the first ones, carry a label; the others none.
    """

    images: Tensor
    targets: dict[str, Tensor]
    present: dict[str, Tensor]
    counts: StepCounts
    labeled_samples: int


@frozen(eq=False)
class View:
    """Images that an encoder may read, and how their pixels got where they are.

    images: (B, 3, H, W) float in [0, 1].
    geometry: None means "no whole image of the sample" (a patch), and no supervised head reads such a view. Every other view may
    be read, the labels moved as the geometry says.
    mix: mixup or cutmix: the partner of each sample (B,) int64, and the sample's own share (B,) in [0, 1].
    augmentation: whose `finish` these images get; set by the batch, kept by all that is derived. None: the run's own augmentation.
    """

    images: Tensor
    geometry: Geometry | None = None
    mix: tuple[Tensor, Tensor] | None = None
    augmentation: str | None = None

    def repaint(self, images: Tensor) -> View:
        """Other colors in the same places: masks, noise, gray. Every label stays as it is."""
        return evolve(self, images=images)

    def rearrange(self, move: Move, matrix: Tensor | None = None) -> View:
        """Other places. `move` (B, C, H, W) -> (B, C, H', W') acts on the images now and on dense labels (masks) later.

        matrix: (B, 3, 3) old -> new where the image moved as a whole, so that rigid labels (pose) follow. Without one they stay
        as they were: right for shuffled parts, wrong for an image that turned. Supervised heads may read the view either way.
        """
        geometry = self.geometry and self.geometry.moved(move, matrix)
        return evolve(self, images=move(self.images), geometry=geometry)

    def resize(self, size: tuple[int, int]) -> View:
        """The whole image, bilinearly scaled to `size` (h, w)."""
        height, width = self.images.shape[-2:]
        step = Geometry.resize((height, width), size, self.images)
        return evolve(
            self, images=step.warp(self.images, "bilinear"), geometry=self.geometry and self.geometry.then(step)
        )


class AugmentedBatch(Protocol):
    """A batch of samples that a pretext may look at, as often as it likes."""

    @property
    def clean(self) -> View:
        """The batch augmented once: shared by all heads. Never edit its images in place."""
        ...

    @property
    def progress(self) -> float:
        """How much of the run is done, in [0, 1)."""
        ...

    def augment(self, number: int = 1, augmentation: str | None = None) -> View:
        """The number-th independent augmentation: drawn when first asked for, then shared by all who ask.

        augmentation: another one than the run's, by name (FixMatch's weak view in a strong run).
        """
        ...


class Features(NamedTuple):
    """What the encoder says of one view.

    maps: each (B, C_i, h_i, w_i), fine first, coarse last. pooled: (B, D). shared: the tensor through which every head's gradient
    passes: maps[-1], or a ViT's tokens (B, T, D). images: (B, 3, H, W) in [0, 1], as read; the core sets it, an encoder leaves it
    None. (A NamedTuple, since torch.compile, FSDP and DDP look into it, and not into attrs.)
    """

    maps: tuple[Tensor, ...]
    pooled: Tensor
    shared: Tensor
    images: Tensor | None = None


@frozen
class EncoderInfo:
    """What the core measured of an encoder with one dry forward; no plugin declares it.

    dim: D, the width of `Features.pooled`. channels: C of each map, fine first. map_sizes: (h, w) of each map, cells. image_size:
    side of the square images that were read, pixels (`input.size`).
    """

    dim: int
    channels: tuple[int, ...]
    map_sizes: tuple[tuple[int, int], ...]
    image_size: int


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


# ------------------------------------------------------------------------------------------------ what a plugin implements


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


class CallbackContext(Protocol):
    """What a callback sees of a run, and what it may do to it. Alive during the call alone: don't keep it.

    Figures are named as in the log, without "validation/": "fer/accuracy", "puzzling/loss", "loss" (without tasks), and
    "<callback's label>/<name>".
    """

    @property
    def step(self) -> int:
        """Optimizer steps done; `steps` are all that there will be."""
        ...

    @property
    def steps(self) -> int: ...

    @property
    def epoch(self) -> int:
        """Whole passes over the labeled training samples that are done."""
        ...

    @property
    def experiment(self) -> Any:
        """The resolved experiment, frozen: `.tasks[label].component`, `.pretexts`, `.train`, `.seed`, as in the configuration."""
        ...

    @property
    def folder(self) -> Path:
        """Where the run lies. Not there yet in `check`."""
        ...

    @property
    def validation(self) -> Mapping[str, float]:
        """The latest figures: those of the last evaluation, and what callbacks added since the one before it."""
        ...

    @property
    def better(self) -> Mapping[str, bool]:
        """Each figure that has a better and a worse -> is more of it better?"""
        ...

    @property
    def main(self) -> str:
        """The figure that names the best checkpoint (`train.best`)."""
        ...

    @property
    def state(self) -> dict[str, Any]:
        """The callback's own memory: numbers, strings, tensors, and lists, tuples, dicts of them. It lies in every checkpoint."""
        ...

    @property
    def network(self) -> nn.Module:
        """What is kept when training is over, averaged where the run averages: `.encoder` (images in [0, 1] -> Features), `.heads`.

        For looking at. A changed weight or buffer is an error.
        """
        ...

    def indices(self, split: str) -> np.ndarray:
        """(N,) int64: the samples of "train" or "validation"; empty where there is no such split."""
        ...

    def features(self, indices: np.ndarray) -> Tensor:
        """(N, D) float32 on the run's device: pooled features of `network`, evaluated, of the "validation" view."""
        ...

    def targets(self, task: str, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """(N, ...) targets of a task's label, zeros where absent; and (N,) bool: present. On the CPU."""
        ...

    def annotation(self, name: str, indices: np.ndarray) -> Annotation:
        """What the datasets say of these samples; missing where the label was cut from train. Raises MtlError on an unknown name."""
        ...

    def add(self, figures: Mapping[str, float]) -> None:
        """Report figures of this step as "validation/<label>/<name>": log, TensorBoard, final figures."""
        ...

    def stop(self, reason: str) -> None:
        """End the run at this step, on every rank: evaluated, saved, and marked in run.json as stopped early, by whom and why."""
        ...

    def note(self, text: str) -> None:
        """Tell whoever watches the terminal."""
        ...


class Callback(Component):
    """Watches a run from outside: logs elsewhere, adds figures, stops early. Every method is optional, and called between steps.

    On the main process alone, except `check`. Nothing a callback does may change what the run computes: random generators, modes
    and gradients are put back after each call, a changed weight is an error. MtlError ends the run; any other exception is told,
    counted in run.json, and the run goes on: a log that can't be reached must not cost days of training.
    A handle that lives between calls (a connection) may stand in a field with `init=False`, which is no configuration.
    """

    kind = "callback"

    def figures(self, experiment: Any) -> Mapping[str, bool]:
        """The names that it adds -> is more of it better? Those may be `train.best`. experiment: as `CallbackContext.experiment`."""
        return {}

    def check(self, run: CallbackContext) -> None:
        """Before anything is written, on every process: raise MtlError where this run can't serve it."""

    def on_train_start(self, run: CallbackContext) -> None:
        """Before the first step, also of a resumed run: then `run.step` is not 0."""

    def on_log(self, run: CallbackContext, row: Mapping[str, Any]) -> None:
        """A line was written to metrics.jsonl: losses and learning rate every `log_every` steps, or figures "validation/...".

        After a resume the lines behind the checkpoint come once more.
        """

    def on_epoch_end(self, run: CallbackContext) -> None:
        """A pass over the labeled training samples is done; before the evaluation, where one falls on this step."""

    def on_validation_end(self, run: CallbackContext) -> None:
        """The run was measured: `run.validation` holds the figures, those of callbacks that stand before this one too."""

    def on_checkpoint(self, run: CallbackContext, checkpoint: Path) -> None:
        """This folder ("last-<step>" or "best-<step>") was written, `state` included: what changes here is not in it."""

    def on_train_end(self, run: CallbackContext) -> None:
        """The run is over: all its steps, or stopped early. Not called when it is interrupted: it goes on with --resume."""


KINDS: dict[str, type[Component]] = {
    c.kind: c for c in (Encoder, SupervisedTask, PretextTask, LossWeighting, Dataset, Augmentation, Callback)
}
