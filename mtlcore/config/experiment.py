"""One run, completely described: what the TOML says, as objects. `config` turns the one into the other.

A table of weight 0 is as if it were not there: `config` drops it, so nothing below ever meets one. The docstrings say what each key
means, a key a paragraph ("key: ..."): docs/configuration.md is made of them.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, gt, le, lt, optional

from ..contracts import (
    Augmentation,
    Callback,
    Dataset,
    Encoder,
    LossWeighting,
    PretextTask,
    SupervisedTask,
)
from ..errors import MtlError, nearest

share = and_(ge(0.0), le(1.0))


@frozen
class TaskEntry:
    """One [task.<label>] table: the keys that the core itself knows, and the component that its other keys describe.

    component: the task. The key `name` says which (default: the label); its fields are further keys of the table.
    weight: what its loss is multiplied by, whatever task weight the weighting gives it besides. 0 is allowed too: as if the table were
        not there.
    """

    component: SupervisedTask
    weight: float = field(default=1.0, validator=gt(0.0))


@frozen
class PretextEntry:
    """One [pretext.<label>] table.

    component: the pretext task. The key `name` says which (default: the label); its fields are further keys of the table.
    weight: what its loss is multiplied by, whatever task weight the weighting gives it besides. 0 is allowed too: as if the table were
        not there.
    supervised: may supervised heads read its views? `views.supervised` says whether they do.
    samples: which samples it sees: all, or those without a label.
    control: an experiment's control arm. "views_only": the same views and forwards, its loss off. "random_target": its answers
        permuted across the batch.
    """

    component: PretextTask
    weight: float = field(default=1.0, validator=gt(0.0))
    supervised: bool = True
    samples: Literal["all", "unlabeled"] = "all"
    control: Literal["none", "views_only", "random_target"] = "none"


@frozen
class DataEntry:
    """One [data.<label>] table.

    component: the dataset. The key `name` says which (default: the label); its fields (`root`) are further keys of the table.
    labels: keep this share of the training labels (stratified, seeded; nested: 5 % lies in 10 %).
    unlabeled: samples without labels are dropped, or kept for the pretexts.
    limit: at most so many samples of each split (default: all).
    split: the annotation or attribute that says which split a sample is of (default: the dataset's own splits).
    group: the annotation or attribute whose equal samples never part in splits, a person (default: the dataset's own groups).
    weight: how often its samples are drawn, beside other datasets.
    max_bad: malformed or unreadable samples that are skipped before the run stops.
    exclude_duplicates: by decoded pixels. "train" leaves out samples of train that also stand in another split, or that have a copy
        with another label; "test" leaves out samples of other splits that also stand in train. In both, copies never part where the
        run cuts a test or validation split itself. Each image is decoded once more.
    """

    component: Dataset
    labels: float = field(default=1.0, validator=share)
    unlabeled: Literal["drop", "keep"] = "drop"
    limit: int | None = field(default=None, validator=optional(gt(0)))
    split: str | None = None
    group: str | None = None
    weight: float = field(default=1.0, validator=gt(0.0))
    max_bad: int = field(default=100, validator=ge(0))
    exclude_duplicates: Literal["none", "train", "test"] = "none"


@frozen
class Input:
    """[input]: what the encoder reads, and how many samples a step has.

    size: side of what the encoder reads, pixels.
    batch_size: LABELED samples of a whole optimizer step, over all ranks and micro-batches.
    unlabeled_batch: samples without labels beside them (default: as many, where a dataset keeps them).
    validation: share of the training groups, cut before `labels`, seen by nobody in training.
    cache_size: side at which images are kept in memory, pixels (default: 1.5 x size).
    mix: how datasets share a batch: by their number of samples, or equally.
    """

    size: int = field(default=64, validator=gt(0))
    batch_size: int = field(default=64, validator=gt(0))
    unlabeled_batch: int | None = field(default=None, validator=optional(gt(0)))
    validation: float = field(default=0.1, validator=share)
    cache_size: int | None = field(default=None, validator=optional(gt(0)))
    mix: Literal["proportional", "balanced"] = "proportional"


@frozen
class Views:
    """[views]: what is encoded, and who reads it.

    supervised: which views the supervised heads read: the clean one, the pretexts' (the paper's choice), or both.
    clean: how many augmented clean views there are (2: the baseline of equal compute).
    reduce: how the losses of several views of a sample become one: their mean, or their geometric mean.
    forward: images of one size in one joint forward, or one forward a view.
    statistics: what BatchNorm's running statistics see: every view, or the clean labeled samples alone.
    """

    supervised: Literal["clean", "pretext", "both"] = "clean"
    clean: int = field(default=1, validator=gt(0))
    reduce: Literal["mean", "geometric"] = "mean"
    forward: Literal["joint", "split"] = "joint"
    statistics: Literal["all", "clean"] = "all"


def _positive_range(_: Any, attribute: Attribute[Any], value: tuple[float, ...]) -> None:
    """rising, each more than 0 and less than 1"""
    if any(b <= a for a, b in pairwise((0.0, *value, 1.0))):
        raise ValueError(
            f"'{attribute.name}' must be rising shares of the run, between 0 and 1: {value}"
        )


@frozen
class Optimizer:
    """[optimizer]: how weights follow their gradients.

    name: "adamw", or "sgd" with `momentum`.
    lr: the learning rate after the warm-up.
    weight_decay: of weights; biases, norms and other vectors are not decayed.
    momentum: of "sgd".
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = field(default=1e-3, validator=gt(0))
    weight_decay: float = field(default=0.05, validator=ge(0))
    momentum: float = field(default=0.9, validator=and_(ge(0.0), le(1.0)))


@frozen
class Schedule:
    """[schedule]: the learning rate over the run.

    name: what follows the warm-up. "cosine" falls to 0. "step" multiplies by `gamma` at each of `milestones`. "constant" stays.
    warmup: steps in which the learning rate rises linearly; at most half of the run.
    milestones: shares of the run, rising, at which "step" multiplies the learning rate.
    gamma: the multiplier of "step".
    """

    name: Literal["cosine", "step", "constant"] = "cosine"
    warmup: int = field(default=200, validator=ge(0))
    milestones: tuple[float, ...] = field(default=(0.5, 0.75), validator=_positive_range)
    gamma: float = field(default=0.1, validator=gt(0))


@frozen
class Train:
    """[train]: how long, and on which machine. Set `steps` or `epochs`; without the table, 1000 steps.

    steps: optimizer steps of the whole run.
    epochs: passes over the labeled samples, instead of `steps`; parts of one too.
    clip: largest norm of the gradient of a step.
    accumulate: micro-batches a step; each holds that part of `input.batch_size`.
    precision: of the forwards; losses, weights and optimizer stay in fp32.
    ema: momentum of the averaged weights that are evaluated when on (0: off).
    eval_every: steps between two evaluations on validation (0: only at the end).
    save_every: steps between two checkpoints to go on from.
    log_every: steps between two lines of metrics.jsonl.
    best: the figure `<task>/<metric>` on validation that names the best checkpoint (default: the first task's first metric; without
        tasks, the validation loss).
    max_skipped: so many steps in a row whose gradient is not finite end the run; each of them is skipped.
    init_from: a run whose encoder this one starts from.
    accelerator: where to train; "auto" takes a CUDA device where there is one.
    devices: processes, each with a device of its own and its part of the batch.
    tensorboard: write TensorBoard's files beside metrics.jsonl?
    """

    steps: int | None = field(default=None, validator=optional(gt(0)))
    epochs: float | None = field(default=None, validator=optional(gt(0)))
    clip: float = field(default=5.0, validator=gt(0))
    accumulate: int = field(default=1, validator=gt(0))
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    ema: float = field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
    eval_every: int = field(default=500, validator=ge(0))
    save_every: int = field(default=500, validator=gt(0))
    log_every: int = field(default=20, validator=gt(0))
    best: str | None = None
    max_skipped: int = field(default=20, validator=gt(0))
    init_from: Path | None = None
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = field(default=1, validator=gt(0))
    tensorboard: bool = True

    def __attrs_post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise MtlError(
                f"[train] sets both steps = {self.steps} and epochs = {self.epochs}: set exactly one of them"
            )
        if self.steps is None and self.epochs is None:
            raise MtlError(
                "[train] sets neither steps nor epochs: set exactly one of train.steps and train.epochs"
            )


@frozen
class Experiment:
    """The whole run.

    encoder: the shared network (default: `resnet_small`).
    tasks: what is learned from labels, each under a label of yours.
    pretexts: what is learned from the images alone, each under a label of yours.
    data: the datasets, each under a label of yours.
    weighting: how the losses become one (default: `equal`, their sum).
    augment: the augmentation by which the clean view is made of a raw image (default: `strong`).
    augmentations: further augmentations that pretexts may ask for by name. Every augmentation that needs no key is there without a table, under its
        own name; a table gives one with other keys, or under another name. `validation` is the one that evaluation uses.
    input: what the encoder reads, and how many samples a step has.
    views: what is encoded, and who reads it.
    optimizer: how weights follow their gradients.
    schedule: the learning rate over the run.
    train: how long, and on which machine.
    seed: of everything that is drawn: splits, shares of labels, initial weights, batches, augmentations, questions.
    plugins: one-file plugins, relative to the configuration's folder; `#sha256=...` behind a path demands that very text. What a
        file gives takes the place of an installed component of that kind and name.
    callbacks: what watches the run from outside, each under a label of yours; their figures are `<label>/<name>`.
    """

    encoder: Encoder
    tasks: dict[str, TaskEntry]
    pretexts: dict[str, PretextEntry]
    data: dict[str, DataEntry]
    weighting: LossWeighting
    augment: Augmentation
    augmentations: dict[str, Augmentation]
    input: Input = field(factory=Input)
    views: Views = field(factory=Views)
    optimizer: Optimizer = field(factory=Optimizer)
    schedule: Schedule = field(factory=Schedule)
    train: Train = field(factory=lambda: Train(steps=1000))
    seed: int = 0
    plugins: tuple[str, ...] = ()
    callbacks: dict[str, Callback] = field(factory=dict)

    @property
    def entries(self) -> dict[str, TaskEntry | PretextEntry]:
        return {**self.tasks, **self.pretexts}

    def augmentation(self, name: str | None) -> Augmentation:
        """The run's own augmentation, or another one by name. Raises MtlError on an unknown name."""
        if name is None:
            return self.augment
        if name not in self.augmentations:
            raise MtlError(
                f"there is no augmentation {name!r}; {nearest(name, self.augmentations)}"
            )
        return self.augmentations[name]
