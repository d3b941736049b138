"""Checks of a task's labels and of the head that it builds."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ...contracts import Annotation, BuildContext, Head
from ..generators import require_same_from_one_seed, seeded
from ..kit import Group
from ..requirements import Skip, require, require_shape
from ..toml import toml_round_trip
from ..trees import equal
from .harness import TaskSubject, missing, reads_names

TARGETS = "returns_targets_and_presence"
ABSENT = "missing_annotations_are_absent"
HEAD = "head_holds_no_encoder"

LABELS_CHECKS = Group()
HEAD_CHECKS = Group()


@LABELS_CHECKS.check(
    "labels",
    why="a batch holds targets (B, ...), int64 or float32, and which samples have one.",
    mend="Return (targets (N, ...), present (N,) bool). `examples(n, rng)` can provide annotations "
    "for the kit.",
    needs="builds_from_its_name",
    core=True,
)
def returns_targets_and_presence(subject: TaskSubject) -> None:
    """N annotations give N targets (float32, int64 or bool) and (N,) bool: which are labels."""
    subject.require_annotations()
    annotation = subject.annotation()
    n = len(annotation)
    target, present = subject.component.fit(annotation).target(annotation)
    are_tensors = isinstance(target, Tensor) and isinstance(present, Tensor)
    require(are_tensors, "targets or presence are not tensors")
    require(len(target) == n, f"{n} annotations give targets {tuple(target.shape)}")
    require(target.dtype in (torch.float32, torch.int64, torch.bool), f"targets are {target.dtype}")
    require_shape(present, (n,), "presence")
    require(present.dtype == torch.bool, f"presence is {present.dtype}")
    require(bool(present.any()), "no drawn annotation is a label")


@LABELS_CHECKS.check(
    "labels",
    why="a run saves the fitted task, and evaluation uses it as it is.",
    mend="Fill only empty fields. Return the task unchanged if all fields are set.",
    needs=TARGETS,
    core=True,
)
def fitting_twice_changes_nothing(subject: TaskSubject) -> None:
    """A fitted task has the same class, and fitting it to other samples does not change it."""
    subject.require_annotations()
    require(type(subject.task) is subject.cls, f"fit returns {type(subject.task).__name__}")
    again = subject.task.fit(subject.annotation(seed=1)[:20])
    require(again == subject.task, f"{subject.task!r} becomes {again!r}")


@LABELS_CHECKS.check(
    "labels",
    why="`mtl eval` reads the fitted task from the resolved configuration.",
    mend="Store plain Python numbers, names and tuples in the fields: float(x), not np.float32.",
    needs=TARGETS,
    core=True,
)
def fitted_task_survives_a_toml_round_trip(subject: TaskSubject) -> None:
    """Written to a configuration and read again, the fitted task is equal."""
    again = toml_round_trip(subject.task)
    require(again == subject.task, f"{subject.task!r} becomes {again!r}")


@LABELS_CHECKS.check(
    "labels",
    why="other tasks, splits and reports read the same annotations.",
    mend="Work on a copy of the array.",
    needs=TARGETS,
)
def leaves_annotations_unchanged(subject: TaskSubject) -> None:
    """Neither `fit` nor `target` edits the annotations."""
    subject.require_annotations()
    annotation = subject.annotation()
    before = annotation.tobytes()
    subject.component.fit(annotation).target(annotation)
    require(annotation.tobytes() == before, "they are edited in place")


@LABELS_CHECKS.check(
    "labels",
    why="a missing label that counts as one teaches noise.",
    mend='Mark "" and NaN as absent: present = annotation != "", or '
    "np.isfinite(annotation).all(...).",
    needs=TARGETS,
    core=True,
)
def missing_annotations_are_absent(subject: TaskSubject) -> None:
    """Samples with the annotation "" or NaN are absent; the others do not change."""
    subject.require_annotations()
    annotation = subject.annotation(12)
    target_before, present_before = subject.task.target(annotation)
    annotation = _with_missing(annotation)
    target, present = subject.task.target(annotation)

    absent = present[::3]
    require(not bool(absent.any()), f"{int(absent.sum())} of 4 missing annotations are labels")
    others = torch.arange(12) % 3 != 0
    same_presence = torch.equal(present[others], present_before[others])
    require(same_presence, "a missing sample changes the presence of others")
    same_targets = torch.equal(target[others], target_before[others])
    require(same_targets, "a missing sample changes the targets of others")


@LABELS_CHECKS.check(
    "labels",
    why="the loss also processes absent samples, which are masked afterwards. NaN times 0 is NaN.",
    mend="Write zeros for absent samples: np.where(present, value, 0).",
    needs=ABSENT,
    core=True,
)
def absent_samples_hold_zeros(subject: TaskSubject) -> None:
    """The targets of absent samples are zeros."""
    subject.require_annotations()
    target, present = subject.task.target(_with_missing(subject.annotation(12)))
    absent = target[~present]
    found = absent.flatten()[:4].tolist()
    require(not bool(absent.ne(0).any()), f"absent samples hold {found}")


@LABELS_CHECKS.check(
    "labels",
    why="classes that the task does not know must not count as known ones.",
    mend='Mark unknown names as absent, or declare it: lacks = {"one_of": "several names a '
    'sample"}.',
    needs=ABSENT,
    capability="one_of",
)
def unknown_names_are_absent(subject: TaskSubject) -> None:
    """A sample with an unknown class is absent."""
    subject.require_annotations()
    annotation = subject.annotation(6)
    if not reads_names(annotation):
        raise Skip("it reads numbers")
    changed = annotation.astype("U32")
    # In sorted order, these come before, among and after the known names.
    changed[::2] = ["!", "a class that does not exist", "~"]
    present = subject.task.target(changed)[1]
    require(not bool(present[::2].any()), "an unknown name counts as a label")


@HEAD_CHECKS.check(
    "head",
    why="the encoder's weights would be saved and trained twice.",
    mend="Read sizes from context.info. Store neither context.encoder nor a part of it.",
    needs=TARGETS,
    core=True,
)
def head_holds_no_encoder(subject: TaskSubject) -> None:
    """The head is an mtlcore.Head without any part of the encoder."""
    head = subject.head()
    require(isinstance(head, Head), f"build returns {type(head).__name__}")
    shared = set(head.modules()) & set(subject.encoder.modules())
    require(not shared, "it holds a part of the encoder")


@HEAD_CHECKS.check(
    "head",
    why="runs with one seed would start from different weights, or all seeds from the same ones.",
    mend="Initialize with torch.nn and torch.nn.init only: no manual_seed, no other generator, no "
    "cache of weights.",
    needs=HEAD,
)
def builds_the_same_from_one_seed(subject: TaskSubject) -> None:
    """One seed gives equal heads and an equal state of the generator; another seed does not."""
    context = BuildContext(subject.encoder.info, subject.encoder, {})
    require_same_from_one_seed(lambda: subject.task.build(context))


@HEAD_CHECKS.check(
    "head",
    why="a loaded head would give other outputs, since values outside the state are lost.",
    mend="Register tensors as parameters, or with register_buffer: no bare tensors, no globals.",
    needs=HEAD,
    core=True,
)
def state_round_trip_keeps_the_outputs(subject: TaskSubject) -> None:
    """A head in a new process that loads a trained head's state has equal outputs and losses."""
    trained, loaded = subject.head(1), subject.in_a_new_process().head(2)
    features, target = subject.detached_features(3), subject.truth(3)

    # The state must also hold what a step in train mode changes.
    with seeded(1):
        subject.loss(trained.train(), trained(features), target).sum().backward()
    loaded.load_state_dict(copy.deepcopy(trained.state_dict()))

    outputs = [head.eval()(features) for head in (trained, loaded)]
    require(equal(*outputs), "the outputs differ")
    losses = [subject.loss(h, x, target) for h, x in zip((trained, loaded), outputs)]
    require(equal(*losses), "the losses differ")


@HEAD_CHECKS.check(
    "head",
    why="the last batch of an evaluation, and a prediction, may have one sample.",
    mend="Avoid squeeze() without a dimension, and statistics over the samples.",
    needs=HEAD,
)
def accepts_a_single_sample(subject: TaskSubject) -> None:
    """A batch of one image gives an output, a loss and a decoded value of one sample."""
    head, target = subject.head(), subject.truth(1)
    output = head(subject.detached_features(1))
    loss = subject.loss(head, output, target)
    if not head.coupled:
        require_shape(loss, (1,), "the loss")
    shape = tuple(subject.task.decode(output).shape)
    require(shape[:1] == (1,), f"the decoded value has the shape {shape}; expected (1, ...)")


def _with_missing(annotation: Annotation) -> Annotation:
    """The same annotations with every third one missing."""
    changed = annotation.copy()
    changed[::3] = missing(changed[::3])
    return changed
