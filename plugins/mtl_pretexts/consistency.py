"""Consistency: a task's head must predict the same on a strong view as a teacher on a weak view.

Two methods in one component, for images without labels (`samples = "unlabeled"`):

- FixMatch, Sohn et al. 2020, arXiv:2001.07685, equation 4. Set teacher = "self", label = "hard",
  threshold = 0.95. With p = softmax of the logits on the weak view, without gradient:

      loss = 1[max p >= threshold] CE(strong, argmax p)

- Mean Teacher, Tarvainen and Valpola 2017, arXiv:1703.01780. Set teacher = "ema", label = "soft",
  threshold = 0.0. With p from the momentum copy of encoder and head:

      loss = mean over classes of (softmax(strong) - p)^2

A sample below the threshold has loss 0 and stays in the mean, as in FixMatch.

Differences from the papers:

- Views come from augmentations. FixMatch uses flip and shift against RandAugment and cutout. Mean
  Teacher draws one noise twice: set `weak` and `strong` to the same augmentation.
- The teacher's head runs without dropout, also with teacher = "self".
- The weight has no ramp-up as in Mean Teacher. The momentum rises linearly, not in one step.

Shapes: B images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, in_, le, lt
from torch import Tensor, nn

from mtlcore import (
    EMA,
    AugmentedBatch,
    BuildContext,
    Features,
    Head,
    MtlError,
    PretextTask,
    Rng,
    SharedHead,
    View,
    hookimpl,
)

if TYPE_CHECKING:
    from torchmetrics import Metric

Output = dict[str, Tensor]
"""weak: (B, K) the teacher's logits, without gradient. strong: (B, K) the shared head's logits."""

# Frame colors of the preview, in the order of the indices in `draw`.
FRAME = {
    "unsure": (0.5, 0.5, 0.5),
    "agrees": (0.1, 0.7, 0.2),
    "differs": (0.9, 0.1, 0.1),
}

MOMENTUM, FINAL = 0.99, 0.999  # of the copy, unless the pretext sets them


@frozen
class Consistency(PretextTask):
    """Train a classification head on a strong view with the label that a weak view gives.

    task: label of the classification task; may be omitted with exactly one supervised task.
    teacher: predicts on the weak view. "self": the network. "ema": its momentum copy (encoder and
    head, one more forward).
    threshold: least probability of the likeliest class for a sample to count, in [0, 1].
    label: "hard", the likeliest class by cross-entropy, or "soft", all probabilities by squared
    error.
    weak, strong: names of augmentations.
    momentum, final: of the copy, at the start and at the end of the run.
    """

    cites = (
        "Sohn et al. 2020 (FixMatch), arXiv:2001.07685; "
        "Tarvainen and Valpola 2017 (Mean Teacher), arXiv:1703.01780"
    )

    task: str = ""
    teacher: Literal["self", "ema"] = field(default="self", validator=in_(("self", "ema")))
    threshold: float = field(default=0.95, validator=and_(ge(0.0), le(1.0)))
    label: Literal["hard", "soft"] = field(default="hard", validator=in_(("hard", "soft")))
    weak: str = "weak"
    strong: str = "strong"
    momentum: float = field(default=MOMENTUM, validator=and_(ge(0.0), lt(1.0)))
    final: float = field(default=FINAL, validator=and_(ge(0.0), le(1.0)))

    def __attrs_post_init__(self) -> None:
        if self.teacher == "self" and (self.momentum, self.final) != (MOMENTUM, FINAL):
            raise ValueError(
                'momentum and final are of teacher = "ema", and teacher = "self" has no copy: set '
                'teacher = "ema" or remove them'
            )

    @property
    def augmentations(self) -> tuple[str | None, ...]:  # type: ignore[override]
        return (self.weak, self.strong)

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], None]:
        """Return the weak and the strong view: two draws if both are the same augmentation."""
        weak = batch.augment(1, self.weak)
        strong = batch.augment(1 + (self.weak == self.strong), self.strong)
        return [weak, strong], None

    def build(self, context: BuildContext) -> Head:
        label = self.task or _only_task(list(context.heads))
        classifier = context.heads[label]
        _require_classifier(classifier, context, label)
        return ConsistencyHead(context, classifier, self)

    def metrics(self) -> dict[str, Metric]:
        """Shares of images, higher is better.

        agreement: both views have the same likeliest class.
        sure: the weak view's probability reaches the threshold. Left out if the threshold is 0.
        """
        from torchmetrics.aggregation import MeanMetric

        task = self

        class Agreement(MeanMetric):
            higher_is_better = True

            def update(self, output: Output, target: None) -> None:
                super().update(agrees(output).float())

        class Sure(MeanMetric):
            higher_is_better = True

            def update(self, output: Output, target: None) -> None:
                super().update(task.sure(output).float())

        found: dict[str, Metric] = {"agreement": Agreement()}
        if self.threshold > 0:
            found["sure"] = Sure()
        return found

    def sure(self, output: Output) -> Tensor:
        """(B,) bool: does the teacher's probability reach the threshold?"""
        return output["weak"].softmax(1).amax(1) >= self.threshold

    def draw(self, images: Tensor, target: None, output: Output) -> Tensor:
        """Draw the weak view in a frame.

        Green: the predictions agree. Red: they differ. Gray: the teacher is below the threshold.
        """
        colors = torch.tensor(list(FRAME.values()), device=images.device)
        if_sure = torch.where(agrees(output), 1, 2)
        frame = torch.where(self.sure(output), if_sure, 0)
        edge = max(1, min(images.shape[-2:]) // 16)
        drawn = colors[frame][:, :, None, None].expand_as(images).clone()
        drawn[..., edge:-edge, edge:-edge] = images[..., edge:-edge, edge:-edge]
        return drawn


class ConsistencyHead(Head):
    """A teacher and the shared head of a classification task; it has no trained weights of its own.

    With teacher = "self" the teacher's head is a copy with momentum 0. It equals the shared head at
    each step, but runs without dropout.
    """

    def __init__(self, context: BuildContext, classifier: Head, task: Consistency) -> None:
        super().__init__()
        self.task = task
        self.judge = SharedHead(classifier)
        momentum = (task.momentum, task.final) if task.teacher == "ema" else (0.0, 0.0)
        self.teacher_head = EMA(classifier, *momentum)
        self.teacher: nn.Module | None = None
        if task.teacher == "ema":
            self.teacher = EMA(context.encoder, *momentum)

    def forward(self, weak: Features, strong: Features) -> Output:
        with torch.no_grad():
            # With teacher = "self" the features of the weak view are at hand already.
            features = self.teacher(weak.images) if self.teacher else weak
            teacher_logits = self.teacher_head(features)
        return {"weak": teacher_logits, "strong": self.judge(strong)}

    def loss(self, output: Output, target: None) -> Tensor:
        weak, strong = output["weak"], output["strong"]
        if self.task.label == "hard":
            loss = F.cross_entropy(strong, weak.argmax(1), reduction="none")
        else:
            loss = (strong.softmax(1) - weak.softmax(1)).square().mean(1)
        return torch.where(self.task.sure(output), loss, 0)


def agrees(output: Output) -> Tensor:
    """(B,) bool: is the likeliest class the same on both views?"""
    return output["weak"].argmax(1) == output["strong"].argmax(1)


# ---------------------------------------------------------------------------- the shared classifier


def _only_task(labels: list[str]) -> str:
    """Return the label of the one supervised task. Raise MtlError if there are none or several."""
    if len(labels) != 1:
        known = f"there are {', '.join(sorted(labels))}"
        if not labels:
            known = "there is no supervised task"
        raise MtlError(
            f'consistency: task = "" needs exactly one supervised task; {known}: '
            'set task = "<label of a classification task>"'
        )
    return labels[0]


def _require_classifier(head: Head, context: BuildContext, label: str) -> None:
    """Raise MtlError unless the head outputs logits (B, K) of one class among K."""
    output = _dry_output(head, context)
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    is_logits = len(shape) == 2 and shape[1] >= 2
    if is_logits and isinstance(output, Tensor) and _loss_uses_softmax(head, output):
        return
    got = shape or type(output).__name__
    raise MtlError(
        f"consistency: the head of task {label!r} does not classify (its output: {got}): "
        "expected logits (B, K) with a cross-entropy loss, as of a `classification` task"
    )


@torch.no_grad()
def _dry_output(head: Head, context: BuildContext) -> object:
    """The head's output for features of zeros, without dropout."""
    info = context.info
    maps = tuple(torch.zeros(1, c, *size) for c, size in zip(info.channels, info.map_sizes))
    blank = torch.zeros(1, 3, *info.image_size)
    features = Features(maps, torch.zeros(1, info.dim), maps[-1], blank)
    training = head.training
    output: object = head.eval()(features)
    head.train(training)
    return output


@torch.no_grad()
def _loss_uses_softmax(head: Head, output: Tensor) -> bool:
    """Does a constant added to all logits leave the loss unchanged?

    It does with a softmax. It does not with regression or with several yes-no labels.
    """
    first_class = torch.zeros(1, dtype=torch.long)
    try:
        losses = [head.loss(output + shift, first_class) for shift in (0.0, 3.0)]
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError):
        return False  # the head's targets are not class numbers
    first, shifted = losses
    return first.shape == (1,) and torch.allclose(first, shifted, atol=1e-4)


@hookimpl
def mtl_components() -> list[type]:
    return [Consistency]
