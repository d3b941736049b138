"""Consistency: of a strongly changed image, a task's own head must say what is said of a barely changed one.

Two methods in one frame, for images without labels (`samples = "unlabeled"`):

- FixMatch, Sohn et al. 2020, arXiv:2001.07685, equation 4: teacher = "self", label = "hard", threshold = 0.95;
      loss = 1[max p >= threshold] CE(strong, argmax p),   p = softmax of the answer on the weak view, without gradient
- Mean Teacher, Tarvainen and Valpola 2017, arXiv:1703.01780: teacher = "ema", label = "soft", threshold = 0.0;
      loss = mean over classes of (softmax(strong) - p)^2,   p from the momentum copy of encoder and head

Samples that the teacher is not sure of count as 0 and stay in the mean, as in FixMatch. Where we differ: views come from augmentations
(FixMatch: flip and shift against RandAugment and cutout; Mean Teacher: two draws of one noise, so give both the same augmentation);
the teacher's head rests its dropout, also with "self"; the weight is not ramped up as Mean Teacher's is, and the momentum rises
in a straight line instead of one step.

Shapes: B images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

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

Answer = dict[str, Tensor]
FRAME = {"unsure": (0.5, 0.5, 0.5), "agrees": (0.1, 0.7, 0.2), "differs": (0.9, 0.1, 0.1)}


@frozen
class Consistency(PretextTask):
    """The head of a classification task judges a weak and a strong view; the weak one's answer is the strong one's label.

    task: the label of that task; may be left out where there is exactly one supervised task. teacher: who answers the weak view:
    "self", the network as it is, or "ema", its momentum copy (encoder and head: one more forward). threshold: the least
    probability of the likeliest class that counts. label: "hard", the likeliest class by cross-entropy, or "soft", all
    probabilities by squared error. weak, strong: augmentations by name. momentum, final: of the copy, first and last.
    """

    cites = "Sohn et al. 2020 (FixMatch), arXiv:2001.07685; Tarvainen and Valpola 2017 (Mean Teacher), arXiv:1703.01780"

    task: str = ""
    teacher: Literal["self", "ema"] = field(default="self", validator=in_(("self", "ema")))
    threshold: float = field(default=0.95, validator=and_(ge(0.0), le(1.0)))
    label: Literal["hard", "soft"] = field(default="hard", validator=in_(("hard", "soft")))
    weak: str = "weak"
    strong: str = "strong"
    momentum: float = field(default=0.99, validator=and_(ge(0.0), lt(1.0)))
    final: float = field(default=0.999, validator=and_(ge(0.0), le(1.0)))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], None]:
        """-> the weak and the strong view; where both are one augmentation, two draws of it."""
        return [
            batch.augment(1, self.weak),
            batch.augment(1 + (self.weak == self.strong), self.strong),
        ], None

    def build(self, context: BuildContext) -> Head:
        label = self.task or _only(list(context.heads))
        judge = context.heads[label]
        _require_classes(judge, context, label)
        return ConsistencyHead(context, judge, self)

    def metrics(self) -> dict[str, Any]:
        """agreement: share of images whose likeliest class is the same on both views. sure: share that passes the threshold."""
        from torchmetrics.aggregation import MeanMetric

        task = self

        class Agreement(MeanMetric):
            higher_is_better = True

            def update(self, output: Answer, target: None) -> None:
                super().update(agrees(output).float())

        class Sure(MeanMetric):
            higher_is_better = True

            def update(self, output: Answer, target: None) -> None:
                super().update(task.sure(output).float())

        return {"agreement": Agreement(), "sure": Sure()}

    def sure(self, output: Answer) -> Tensor:
        """(B,) bool: whose answer counts."""
        return output["weak"].softmax(1).amax(1) >= self.threshold

    def draw(self, images: Tensor, target: None, output: Answer) -> Tensor:
        """The weak view in a frame: green where the answers agree, red where they differ, gray where the teacher is not sure."""
        colors = torch.tensor(list(FRAME.values()), device=images.device)
        chosen = torch.where(self.sure(output), torch.where(agrees(output), 1, 2), 0)
        drawn, edge = (
            colors[chosen][:, :, None, None].expand_as(images).clone(),
            max(1, images.shape[-1] // 16),
        )
        drawn[..., edge:-edge, edge:-edge] = images[..., edge:-edge, edge:-edge]
        return drawn


class ConsistencyHead(Head):
    """-> {"weak": (B, K) the teacher's logits, without gradient, "strong": (B, K) the shared head's}. Owns no trained weight.

    With "self" the teacher's head is a copy of momentum 0: at each step the head itself, but for its dropout.
    """

    def __init__(self, context: BuildContext, judge: Head, task: Consistency) -> None:
        super().__init__()
        self.task, self.judge = task, SharedHead(judge)
        momentum = {"self": (0.0, 0.0), "ema": (task.momentum, task.final)}[task.teacher]
        self.teacher_head = EMA(judge, *momentum)
        self.teacher: nn.Module | None = (
            EMA(context.encoder, *momentum) if task.teacher == "ema" else None
        )

    def forward(self, weak: Features, strong: Features) -> Answer:
        with torch.no_grad():
            wanted = self.teacher_head(self.teacher(weak.images) if self.teacher else weak)
        return {"weak": wanted, "strong": self.judge(strong)}

    def loss(self, output: Answer, target: None) -> Tensor:
        wanted, said = output["weak"], output["strong"]
        if self.task.label == "hard":
            loss = F.cross_entropy(said, wanted.argmax(1), reduction="none")
        else:
            loss = (said.softmax(1) - wanted.softmax(1)).square().mean(1)
        return torch.where(self.task.sure(output), loss, 0)


def agrees(output: Answer) -> Tensor:
    """(B,) bool: the same likeliest class on both views."""
    return output["weak"].argmax(1) == output["strong"].argmax(1)


# ---------------------------------------------------------------------------------------------------- whose head


def _only(labels: list[str]) -> str:
    """The label of the one supervised task. Raises MtlError where there is none, or a choice."""
    if len(labels) != 1:
        known = (
            f"there are {', '.join(sorted(labels))}" if labels else "there is no supervised task"
        )
        raise MtlError(
            f'consistency: task = "": whose head shall judge? {known}; set task = "<label of a classification task>"'
        )
    return labels[0]


def _require_classes(judge: Head, context: BuildContext, label: str) -> None:
    """Raises MtlError where a head does not choose one of K classes: (B, K) logits whose loss knows a softmax.

    A softmax does not see a number added to all logits; the losses of regression and of yes-or-no labels do.
    """
    output = _answer(judge, context)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if (
        not isinstance(output, Tensor)
        or output.ndim != 2
        or output.shape[1] < 2
        or not _knows_softmax(judge, output)
    ):
        raise MtlError(
            f"consistency: the head of task {label!r} does not choose one of several classes (its answer: {shape}): "
            "expected logits (B, K) judged by a cross-entropy, as those of a `classification` task"
        )


@torch.no_grad()
def _answer(judge: Head, context: BuildContext) -> Any:
    """The head's answer about empty features, its dropout at rest."""
    info, training = context.info, judge.training
    maps = tuple(torch.zeros(1, c, *size) for c, size in zip(info.channels, info.map_sizes))
    blank = torch.zeros(1, 3, info.image_size, info.image_size)
    output = judge.eval()(Features(maps, torch.zeros(1, info.dim), maps[-1], blank))
    judge.train(training)
    return output


@torch.no_grad()
def _knows_softmax(judge: Head, output: Tensor) -> bool:
    first = torch.zeros(1, dtype=torch.long)
    try:
        losses = [judge.loss(output + shift, first) for shift in (0.0, 3.0)]
    except (
        RuntimeError,
        TypeError,
        ValueError,
        IndexError,
        KeyError,
        AttributeError,
    ):  # no class number is its target
        return False
    return losses[0].shape == (1,) and torch.allclose(losses[0], losses[1], atol=1e-4)


@hookimpl
def mtl_components() -> list[type]:
    return [Consistency]
