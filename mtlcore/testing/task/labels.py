"""Checks of what a task makes of annotations, and of the head that it builds."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ...contracts import Head
from ..generators import seeded
from ..kit import Group, Skip, require
from ..pretext.harness import same
from ..toml import there_and_back
from .harness import TaskSubject, missing, reads_names

LABELS_CHECKS = Group()


@LABELS_CHECKS.check(
    "labels",
    why="a batch holds (B, ...) targets and says which samples carry them; int64 for classes, float32 for numbers.",
    mend="return (targets (N, ...), present (N,) bool); give the kit annotations to read by `examples(n, rng)`.",
    needs="builds_from_its_name",
    core=True,
)
def gives_targets_and_presence(subject: TaskSubject) -> None:
    """N annotations become N targets, float32, int64 or bool, and (N,) bool that says which are labels."""
    annotation = subject.annotation()
    target, present = subject.component.fit(annotation).target(annotation)
    require(
        isinstance(target, Tensor) and isinstance(present, Tensor),
        "targets or presence are no tensors",
    )
    require(
        len(target) == len(annotation),
        f"{len(annotation)} annotations, {tuple(target.shape)} targets",
    )
    require(target.dtype in (torch.float32, torch.int64, torch.bool), f"targets are {target.dtype}")
    require(present.shape == (len(annotation),), f"presence is {tuple(present.shape)}")
    require(present.dtype == torch.bool, f"presence is {present.dtype}")
    require(bool(present.any()), "no drawn annotation is a label")


@LABELS_CHECKS.check(
    "labels",
    why="the fitted task goes into the run's configuration, and evaluation fits nothing: both must mean the same.",
    mend="fill only the fields that are empty; return the task as it is where all are given.",
    needs="gives_targets_and_presence",
    core=True,
)
def fit_is_done_once(subject: TaskSubject) -> None:
    """A fitted task, fitted again on other samples, is the same; it is of the same class."""
    require(type(subject.task) is subject.cls, f"fit gives {type(subject.task).__name__}")
    again = subject.task.fit(subject.annotation(seed=1)[:20])
    require(again == subject.task, f"{subject.task!r} becomes {again!r}")


@LABELS_CHECKS.check(
    "labels",
    why="`mtl eval` reads the fitted task from the resolved configuration.",
    mend="put plain Python numbers, names and tuples into the fields: float(x), not np.float32.",
    needs="gives_targets_and_presence",
    core=True,
)
def fitted_task_survives_its_toml(subject: TaskSubject) -> None:
    """Written into a configuration and read again, the fitted task is the same."""
    again = there_and_back(subject.task)
    require(again == subject.task, f"{subject.task!r} comes back as {again!r}")


@LABELS_CHECKS.check(
    "labels",
    why="annotations are shared by all tasks that read them, and by splits and reports.",
    mend="work on a copy of the array.",
    needs="gives_targets_and_presence",
)
def leaves_annotations_alone(subject: TaskSubject) -> None:
    """Neither `fit` nor `target` edits the annotations."""
    annotation = subject.annotation()
    kept = annotation.copy()
    subject.component.fit(annotation).target(annotation)
    require(annotation.tobytes() == kept.tobytes(), "they are edited in place")


@LABELS_CHECKS.check(
    "labels",
    why="a missing label that counts as one teaches noise.",
    mend='let "" and NaN be absent: present = annotation != "", or np.isfinite(annotation).all(...).',
    needs="gives_targets_and_presence",
    core=True,
)
def missing_annotations_are_absent(subject: TaskSubject) -> None:
    """Samples whose annotation is "" or NaN are not present; all others are as they were."""
    annotation = subject.annotation(12)
    before, was = subject.task.target(annotation)
    annotation[::3] = missing(annotation[::3])
    target, present = subject.task.target(annotation)
    require(
        not bool(present[::3].any()),
        f"{int(present[::3].sum())} of 4 missing annotations count as labels",
    )
    kept = torch.arange(12) % 3 != 0
    require(
        torch.equal(present[kept], was[kept]), "a missing sample changes the presence of others"
    )
    require(
        torch.equal(target[kept], before[kept]), "a missing sample changes the targets of others"
    )


@LABELS_CHECKS.check(
    "labels",
    why="samples without a label go through the loss and are masked after it: NaN times 0 is NaN.",
    mend="write zeros where a sample is not present: np.where(present, value, 0).",
    needs="missing_annotations_are_absent",
    core=True,
)
def absent_samples_hold_zeros(subject: TaskSubject) -> None:
    """The targets of samples that are not present are zeros."""
    annotation = subject.annotation(12)
    annotation[::3] = missing(annotation[::3])
    target, present = subject.task.target(annotation)
    require(
        not bool(target[~present].ne(0).any()),
        f"absent samples hold {target[~present].flatten()[:4].tolist()}",
    )


@LABELS_CHECKS.check(
    "labels",
    why="a data set with more classes than the task knows must not teach them as others.",
    mend='let names that the task does not know be absent, or say why not: lacks = {"one_of": "several names a sample"}.',
    needs="missing_annotations_are_absent",
    capability="one_of",
)
def unknown_names_are_absent(subject: TaskSubject) -> None:
    """A class that is not the task's own is not present."""
    annotation = subject.annotation(6)
    if not reads_names(annotation):
        raise Skip("it reads numbers")
    strange = annotation.astype("U32")
    strange[::2] = [
        "!",
        "a class that nobody has",
        "~",
    ]  # before, among and behind the known ones in order
    present = subject.task.target(strange)[1]
    require(not bool(present[::2].any()), "a name that the task does not know counts as a label")


HEAD_CHECKS = Group()


@HEAD_CHECKS.check(
    "head",
    why="the encoder would be saved and trained twice, as part of the head.",
    mend="read context.info for sizes; keep neither context.encoder nor a part of it.",
    needs="gives_targets_and_presence",
    core=True,
)
def head_keeps_no_encoder(subject: TaskSubject) -> None:
    """The head is an mtlcore.Head, and no part of the encoder is one of its own."""
    head = subject.head()
    require(isinstance(head, Head), f"build gives {type(head).__name__}")
    require(
        set(head.modules()).isdisjoint(subject.encoder.modules()), "it holds a part of the encoder"
    )


@HEAD_CHECKS.check(
    "head",
    why="what is not in the state is lost with the process: the loaded head answers otherwise.",
    mend="register tensors as parameters, or with register_buffer: no bare tensors, no globals.",
    needs="head_keeps_no_encoder",
    core=True,
)
def state_comes_back(subject: TaskSubject) -> None:
    """A head in a new process that loads the state_dict of one that was trained gives the same answers and losses."""
    one, other = subject.head(1), subject.in_a_new_process().head(2)
    features, target = subject.fixed(3), subject.truth(3)
    with seeded(1):  # what a step in train mode leaves behind must be in the state too
        subject.compute_losses(one.train(), one(features), target).sum().backward()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    answers, losses = [], []
    for head in (one.eval(), other.eval()):
        answers.append(head(features))
        losses.append(subject.compute_losses(head, answers[-1], target))
    require(same(*answers), "the answers differ")
    require(same(*losses), "the losses differ")


@HEAD_CHECKS.check(
    "head",
    why="the last batch of an evaluation, and a single image to predict, have one sample.",
    mend="avoid squeeze() without a dimension, and statistics over the samples.",
    needs="head_keeps_no_encoder",
)
def takes_a_single_sample(subject: TaskSubject) -> None:
    """A batch of one image gives an output, a loss and an answer of one sample."""
    head, target = subject.head(), subject.truth(1)
    output = head(subject.fixed(1))
    loss = subject.compute_losses(head, output, target)
    require(head.coupled or loss.shape == (1,), f"the loss is {tuple(loss.shape)}")
    found = subject.task.decode(output).shape
    require(len(found) > 0 and found[0] == 1, f"the answer is {tuple(found)}")
