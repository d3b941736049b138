"""A run, completely described: the contents of its TOML file, as objects.

`load` and `dump` convert between both. A table of weight 0 is dropped when the file is read, so no
other module has to handle it. docs/configuration.md is generated from the docstrings of these
classes: each key has one paragraph, "key: ...", with indented continuation lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

from attrs import Attribute, Factory, field, frozen
from attrs.converters import optional as converts_optional
from attrs.validators import and_, ge, gt, le, lt, optional

from ..contracts import (
    Augmentation,
    Callback,
    Dataset,
    Encoder,
    LossWeighting,
    Optimizer,
    PretextTask,
    SupervisedTask,
)
from ..errors import MtlError, nearest
from ..image_size import ImageSize, image_size
from ..registry.components import is_default
from ..registry.lookup import default_augmentations, default_component
from ..registry.plugin_file import pinned
from .values import (
    Settings,
    components_as_read,
    entries_as_read,
    instance_as_read,
    suggests_names,
    value_as_read,
)

MOST_STEPS = MOST_SAMPLES = 10**9
MOST_IN_A_BATCH = 10**6

Freeze = Literal["none", "stem", "all"] | int
"""Parts of the encoder that are not trained. A number: the stem, and so many stages."""

share = and_(ge(0.0), le(1.0))
factor = and_(gt(0.0), le(1e6))
learning_rate = and_(gt(0.0), le(1000.0))
decay = and_(ge(0.0), le(1000.0))
step_count = and_(gt(0), le(MOST_STEPS))
batch = and_(gt(0), le(MOST_IN_A_BATCH))


@suggests_names
@frozen
class TaskEntry(Settings):
    """One [task.<label>] table: the component, and the keys that the core adds.

    component: the task, named by the key `name` (default: the label). The fields of the component
        are further keys of the table.
    weight: factor of its loss, in addition to the task weight of the weighting. 0 removes the
        table.
    """

    section: ClassVar[str] = "task.<label>"
    component: SupervisedTask
    weight: float = field(default=1.0, validator=factor)


@suggests_names
@frozen
class PretextEntry(Settings):
    """One [pretext.<label>] table.

    component: the pretext task, named by the key `name` (default: the label). The fields of the
        component are further keys of the table.
    weight: factor of its loss, in addition to the task weight of the weighting. 0 removes the
        table.
    supervised: true if supervised heads can read its views. `views.supervised` decides whether they
        do.
    samples: the samples that it reads: all, or those without a label.
    control: turns the pretext into a control of an experiment. "views_only": the same views and
        forwards, without its loss. "random_target": its targets are permuted across the batch.
    """

    section: ClassVar[str] = "pretext.<label>"
    component: PretextTask
    weight: float = field(default=1.0, validator=factor)
    supervised: bool = True
    samples: Literal["all", "unlabeled"] = "all"
    control: Literal["none", "views_only", "random_target"] = "none"


@suggests_names
@frozen
class DataEntry(Settings):
    """One [data.<label>] table.

    component: the dataset, named by the key `name` (default: the label). The fields of the
        component (`root`) are further keys of the table.
    labels: share of the training labels to keep. The choice is stratified, seeded and nested: the
        labels of 5 % are among those of 10 %.
    unlabeled: "drop" removes samples without labels, "keep" keeps them for the pretexts (default:
        "keep" for a dataset that has no labels at all, "drop" for every other).
    limit: maximum number of samples of each split (default: all).
    split: annotation or attribute with the split of each sample (default: the official splits).
    group: annotation or attribute that groups samples. Samples of one group (such as a person) stay
        in one split, unless official splits divide them (default: the dataset's own groups). A
        sample without a group is a group of its own.
    weight: how often its samples are drawn, relative to other datasets.
    max_bad: number of malformed or unreadable samples to skip. More of them stop the run.
    exclude_duplicates: find copies by their decoded pixels, which decodes each image once more.
        "train" removes training samples that are also in another split, or that have a copy with
        another label. "test" removes samples of other splits that are also in train. With both
        values, copies stay together when the run creates a test or validation split itself.
    license: license of the data in your words or as an SPDX name, such as "CC-BY-NC-4.0". Packages
        and exported models repeat it. It changes no number.
    """

    section: ClassVar[str] = "data.<label>"
    component: Dataset
    labels: float = field(default=1.0, validator=share)
    unlabeled: Literal["drop", "keep"] | None = None
    limit: int | None = field(default=None, validator=optional(and_(ge(1), le(MOST_SAMPLES))))
    split: str | None = None
    group: str | None = None
    weight: float = field(default=1.0, validator=factor)
    max_bad: int = field(default=100, validator=and_(ge(0), le(MOST_SAMPLES)))
    exclude_duplicates: Literal["none", "train", "test"] = "none"
    license: str = ""


@suggests_names
@frozen
class Input(Settings):
    """[input]: size of the images, and number of samples in a step.

    size: height and width of the encoder's input, in pixels: `64`, or `[48, 64]` for a height of 48
        and a width of 64.
    batch_size: LABELED samples of one optimizer step, over all ranks and micro-batches.
    unlabeled_batch: samples without labels in addition (default: the same number, if a dataset
        keeps such samples).
    validation: share of the training groups that becomes the validation split. It is separated
        before `labels` is applied, and never trained on.
    cache_size: height and width of images in the image cache, in pixels, in the form of `size` and
        with its aspect ratio (default: 1.5 x size, or less if the images are smaller).
    mix: how datasets share a batch: in proportion to their samples, or equally.
    sampling: how often each labeled sample of a dataset is drawn. "shuffle": once in each epoch.
        "balanced": each class of a task equally often. "weighted": in proportion to a number in
        the data. Samples without labels are always shuffled.
    sampling_by: for "balanced", the label of the task (default: the only one with one class for
        each image). For "weighted", the annotation that holds the weight of each sample.
    eval_batch_size: batch size of evaluation. Metrics of tasks do not depend on it. Metrics of
        pretexts do, since each batch has its own random draws.
    prefetch: steps whose images are read in the background, while an earlier step computes (0:
        none). It changes no result. Images in memory are not read ahead on the CPU, which would
        gain nothing.
    """

    section: ClassVar[str] = "input"
    size: ImageSize = field(default=64, converter=image_size)  # type: ignore[assignment]
    batch_size: int = field(default=64, validator=batch)
    unlabeled_batch: int | None = field(default=None, validator=optional(batch))
    validation: float = field(default=0.1, validator=share)
    cache_size: ImageSize | None = field(default=None, converter=converts_optional(image_size))
    mix: Literal["proportional", "balanced"] = "proportional"
    sampling: Literal["shuffle", "balanced", "weighted"] = "shuffle"
    sampling_by: str | None = None
    eval_batch_size: int = field(default=256, validator=batch)
    prefetch: int = field(default=2, validator=and_(ge(0), le(64)))


@suggests_names
@frozen
class Views(Settings):
    """[views]: which views are encoded, and which heads read them.

    supervised: views that the supervised heads read: the clean ones, those of the pretexts (as in
        the paper), or both.
    clean: number of augmented clean views (2: a baseline of equal compute).
    reduce: how the losses of several views of a sample are combined: arithmetic or geometric mean.
    forward: "joint" encodes all images of one size in one forward, "split" uses one forward for
        each view.
    statistics: samples that update BatchNorm's running statistics: those of every view, or the
        labeled samples of the clean views alone.
    """

    section: ClassVar[str] = "views"
    supervised: Literal["clean", "pretext", "both"] = "clean"
    clean: int = field(default=1, validator=and_(ge(1), le(64)))
    reduce: Literal["mean", "geometric"] = "mean"
    forward: Literal["joint", "split"] = "joint"
    statistics: Literal["all", "clean"] = "all"


def _rising_shares(_: object, attribute: Attribute[Any], value: tuple[float, ...]) -> None:
    """rising, each more than 0 and less than 1"""
    # The first line above is the range that the documentation shows.
    if any(later <= earlier for earlier, later in pairwise((0.0, *value, 1.0))):
        raise ValueError(
            f"'{attribute.name}' = {value}: expected rising shares of the run, "
            "each more than 0 and less than 1"
        )


@suggests_names
@frozen
class GroupOverride(Settings):
    """One [[optimizer.groups]] table: other values for some parameters. Set at least one of them.

    match: names of parameters, with `*` for any text: "encoder.layer4.*", "heads.emotion.*".
        Names of the encoder are those of its own library.
    lr: learning rate after the warm-up of these parameters. `layer_decay` does not change it.
    weight_decay: their weight decay, also of vectors.
    """

    section: ClassVar[str] = "optimizer.groups"
    match: str = field()
    lr: float | None = field(default=None, validator=optional(learning_rate))
    weight_decay: float | None = field(default=None, validator=optional(decay))

    def __attrs_post_init__(self) -> None:
        if self.lr is None and self.weight_decay is None:
            raise MtlError(f"match = {self.match!r} changes nothing: set lr or weight_decay")


@suggests_names
@frozen
class ParameterGroups(Settings):
    """The keys of [optimizer] that the core reads: other learning rates for some parameters.

    encoder_lr: learning rate of the encoder after the warm-up (default: `lr`, that of the heads).
    layer_decay: factor from layer to layer of the encoder. The last layer has the learning rate of
        the encoder times this factor, the layer before it times its square, and so on.
    groups: other values for parameters with matching names, as a list of tables
        [[optimizer.groups]]. If several match, the last one counts.
    """

    section: ClassVar[str] = "optimizer"
    encoder_lr: float | None = field(default=None, validator=optional(learning_rate))
    layer_decay: float = field(default=1.0, validator=and_(gt(0.0), le(1.0)))
    groups: tuple[GroupOverride, ...] = ()


@suggests_names
@frozen
class Schedule(Settings):
    """[schedule]: the learning rate during the run.

    name: course after the warm-up: "cosine" falls to 0, "step" multiplies by `gamma` at each of
        `milestones`, "constant" does not change.
    warmup: steps of linear increase at the start, at most half of the run.
    milestones: shares of the run, rising, at which "step" multiplies the learning rate.
    gamma: factor of "step".
    """

    section: ClassVar[str] = "schedule"
    name: Literal["cosine", "step", "constant"] = "cosine"
    warmup: int = field(default=200, validator=and_(ge(0), le(MOST_STEPS)))
    milestones: tuple[float, ...] = field(default=(0.5, 0.75), validator=_rising_shares)
    gamma: float = field(default=0.1, validator=and_(gt(0.0), le(1000.0)))


@suggests_names
@frozen
class Train(Settings):
    """[train]: length of the run, evaluation and hardware. Set exactly one of `steps` and `epochs`.

    steps: optimizer steps of the whole run.
    epochs: passes over the labeled samples, instead of `steps`. Fractions are allowed.
    clip: maximum norm of the gradient of a step.
    micro_batches: number of micro-batches in a step, over all devices (default: one per device).
        `input.batch_size` is split equally among them. The number of devices must divide this
        number: each device accumulates the gradients of its share. The run saves the number at its
        start, so it can resume on another number of devices.
    precision: precision of the forwards. Losses, weights and optimizer states stay in fp32.
    ema: momentum of the EMA weights, which replace the weights in evaluation (0: no EMA).
    eval_every: steps between two evaluations on the validation split (0: only at the end).
    save_every: steps between two checkpoints for resuming.
    log_every: steps between two lines of metrics.jsonl.
    best: validation metric `<task>/<metric>` that selects the best checkpoint (default: first
        metric of the first task; without tasks, the validation loss).
    max_skipped: number of consecutive steps with non-finite gradients that ends the run. Each such
        step is skipped.
    init_from: folder of a run. Training starts with the weights of its encoder.
    accelerator: hardware; "auto" uses a CUDA device if there is one, and else the CPU. "mps" is the
        GPU of a Mac.
    devices: number of processes, each with its own device and its part of the batch.
    compile: true runs the encoder by torch.compile in training, which needs a C++ compiler on a
        CPU. The run starts later, and its results differ by rounding. "try": train without it
        where the encoder can't be compiled.
    """

    section: ClassVar[str] = "train"
    steps: int | None = field(default=None, validator=optional(step_count))
    epochs: float | None = field(default=None, validator=optional(factor))
    clip: float = field(default=5.0, validator=and_(gt(0.0), le(1e9)))
    micro_batches: int | None = field(default=None, validator=optional(batch))
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    ema: float = field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
    eval_every: int = field(default=500, validator=and_(ge(0), le(MOST_STEPS)))
    save_every: int = field(default=500, validator=step_count)
    log_every: int = field(default=20, validator=step_count)
    best: str | None = None
    max_skipped: int = field(default=20, validator=step_count)
    init_from: Path | None = None
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = field(default=1, validator=and_(ge(1), le(4096)))
    compile: bool | Literal["try"] = False

    def __attrs_post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise MtlError(
                f"[train] sets both steps = {self.steps} and epochs = {self.epochs}: "
                "set exactly one of train.steps and train.epochs"
            )
        if self.steps is None and self.epochs is None:
            raise MtlError(
                "[train] sets neither steps nor epochs: "
                "set exactly one of train.steps and train.epochs"
            )


def _tasks(given: Mapping[str, TaskEntry | SupervisedTask]) -> dict[str, TaskEntry]:
    return entries_as_read(given, TaskEntry, SupervisedTask, "task")


def _pretexts(given: Mapping[str, PretextEntry | PretextTask]) -> dict[str, PretextEntry]:
    return entries_as_read(given, PretextEntry, PretextTask, "pretext")


def _data(given: Mapping[str, DataEntry | Dataset]) -> dict[str, DataEntry]:
    return entries_as_read(given, DataEntry, Dataset, "data")


def _augmentations(given: Mapping[str, Augmentation]) -> dict[str, Augmentation]:
    return components_as_read(given, Augmentation, "augment")


def _callbacks(given: Mapping[str, Callback]) -> dict[str, Callback]:
    return components_as_read(given, Callback, "callback")


def _plugins(given: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    if isinstance(given, str | os.PathLike):
        raise MtlError(f"plugins = {os.fspath(given)!r}: expected a list of paths")
    return tuple(pinned(os.fspath(path)) for path in given)


def _freeze(given: object) -> Freeze:
    if isinstance(given, int) and not isinstance(given, bool) and given < 1:
        raise MtlError(f"encoder.freeze = {given}: expected a number of stages of at least 1")
    read: Freeze = value_as_read(given, Freeze, "encoder.freeze")  # type: ignore[arg-type]
    return read


def _encoder(made: Experiment) -> Encoder:
    component: Encoder = default_component("encoder", "resnet_small", made.plugins)
    return component


def _weighting(made: Experiment) -> LossWeighting:
    component: LossWeighting = default_component("weighting", "equal", made.plugins)
    return component


def _optimizer(made: Experiment) -> Optimizer:
    component: Optimizer = default_component("optimizer", "adamw", made.plugins)
    return component


def _augment(made: Experiment) -> Augmentation:
    component: Augmentation = default_component("augmentation", "strong", made.plugins)
    return component


def _without_defaults(augmentations: Mapping[str, Augmentation]) -> dict[str, Augmentation]:
    """Return the augmentations that need a table: the others are available without one."""
    return {
        label: augmentation
        for label, augmentation in augmentations.items()
        if not is_default(label, augmentation)
    }


@suggests_names
@frozen(kw_only=True)
class Experiment:
    """A whole run: the contents of its TOML file, as objects.

    In Python, pass a component alone if the other keys of its entry have their defaults. Arguments
    that are left out have the defaults of a TOML file. Raises MtlError if an argument has a wrong
    type.

    encoder: the shared network (default: `resnet_small`).
    tasks: the tasks to learn from labels, each under a label that you choose.
    pretexts: the tasks to learn from images alone, each under a label that you choose.
    data: the datasets, each under a label that you choose.
    weighting: how the losses are combined (default: `equal`, their sum).
    augment: the augmentation that makes the clean view of a raw image (default: `strong`).
    augmentations: further augmentations, which pretexts request by name. An augmentation without
        required keys is available under its own name without a table. A table sets its keys, or
        adds one under another name. Evaluation uses `validation`.
    input: size of the images, and number of samples in a step.
    views: which views are encoded, and which heads read them.
    freeze: parts of the encoder that are not trained, and stay in eval mode: "none", "all", "stem",
        or the stem and this number of stages.
    optimizer: how gradients update the weights (default: `adamw`).
    parameter_groups: other learning rates for some parameters.
    schedule: the learning rate during the run.
    train: length of the run, evaluation and hardware.
    seed: seed of all random draws: splits, shares of labels, initial weights, batches,
        augmentations, and inputs of pretexts.
    plugins: one-file plugins, relative to the folder of the configuration. `#sha256=...` after a
        path requires a file with this hash. Components of a file replace installed ones of the same
        kind and name.
    callbacks: callbacks of the run, each under a label that you choose. Their metrics are named
        `<label>/<name>`.
    """

    # The first field, since a plugin file may replace the default component of a field below.
    plugins: tuple[str, ...] = field(default=(), converter=_plugins)
    encoder: Encoder = field(default=Factory(_encoder, takes_self=True))
    tasks: dict[str, TaskEntry] = field(factory=dict, converter=_tasks)
    pretexts: dict[str, PretextEntry] = field(factory=dict, converter=_pretexts)
    data: dict[str, DataEntry] = field(factory=dict, converter=_data)
    weighting: LossWeighting = field(default=Factory(_weighting, takes_self=True))
    augment: Augmentation = field(default=Factory(_augment, takes_self=True))
    augmentations: dict[str, Augmentation] = field(
        factory=dict, converter=_augmentations, eq=_without_defaults
    )
    input: Input = field(factory=Input)
    views: Views = field(factory=Views)
    freeze: Freeze = field(default="none", converter=_freeze)
    optimizer: Optimizer = field(default=Factory(_optimizer, takes_self=True))
    parameter_groups: ParameterGroups = field(factory=ParameterGroups)
    schedule: Schedule = field(factory=Schedule)
    train: Train = field(factory=lambda: Train(steps=1000))
    seed: int = 0
    callbacks: dict[str, Callback] = field(factory=dict, converter=_callbacks)

    def __attrs_post_init__(self) -> None:
        for name, kind in _SINGLE.items():
            read = instance_as_read(getattr(self, name), kind, name)
            object.__setattr__(self, name, read)
        object.__setattr__(self, "seed", value_as_read(self.seed, int, "seed"))

    @property
    def entries(self) -> dict[str, TaskEntry | PretextEntry]:
        """Label -> entry of all tasks, then of all pretexts."""
        return {**self.tasks, **self.pretexts}

    def augmentation(self, name: str | None) -> Augmentation:
        """Return an augmentation by name (None: the run's own).

        Raises MtlError if the name is unknown.
        """
        if name is None or name in self.augmentations:
            return augmentation_by_name(name, self.augment, self.augmentations)
        known = default_augmentations(self.plugins) | self.augmentations
        return augmentation_by_name(name, self.augment, known)

    def to_toml(self) -> str:
        """Return the text of a TOML file that describes the same run, with every default.

        Raises MtlError with one line for each problem, such as a class that is not registered.
        """
        from .resolve import resolve
        from .write import dump

        return dump(resolve(self))


def augmentation_by_name(
    name: str | None, own: Augmentation, named: Mapping[str, Augmentation]
) -> Augmentation:
    """Return an augmentation by name (None: the run's own). Raises MtlError if it is unknown."""
    if name is None:
        return own
    if name not in named:
        raise MtlError(f"unknown augmentation {name!r}; {nearest(name, named)}")
    return named[name]


_SINGLE: dict[str, type] = {
    "encoder": Encoder,
    "weighting": LossWeighting,
    "augment": Augmentation,
    "input": Input,
    "views": Views,
    "optimizer": Optimizer,
    "parameter_groups": ParameterGroups,
    "schedule": Schedule,
    "train": Train,
}
"""Fields of `Experiment` with one component or the settings of one table -> their class."""
