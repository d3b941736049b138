"""The harness of a task: readable annotations, the fitted task, and a head on a toy encoder.

If the task has `examples(n, rng) -> Annotation`, its annotations come from there. Otherwise the
harness tries names, then numbers of several shapes, until `fit` and `target` accept some.

An `AlignedTask` has no annotations. Its targets come from `examples(n, size, rng)`, or the harness
tries class maps, then maps of floats, until the head has a loss for them.

Shapes: N samples, targets (N, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...contracts import AlignedTask, Annotation, BuildContext, Features, Head, SupervisedTask
from ...contracts.task import are_points
from ...geometry import Geometry, similarity
from ...model.inference import SharedEncoder
from ...networks import losses_in_fp32, to_fp32
from ...rng import KeyedRng, Rng
from ..generators import seeded
from ..reload import reload
from ..requirements import Skip, require
from ..subject import Subject, patterns
from ..toys import ToyEncoder
from ..trees import map_floats

FITTED = 48
"""The number of samples that a task is fitted on."""
SIZE = 32
"""The image size in pixels, unless the targets are images themselves."""
SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (1,),
    (2,),
    (3,),
    (4,),
    (6,),
    (3, 3),
    (5, 2),
    (1, SIZE, SIZE),
)
"""Shapes of numbers that the harness tries."""

Maker = Callable[[int, Rng], Annotation]
AlignedMaker = Callable[[int, tuple[int, int], Rng], Tensor]


class TaskSubject(Subject[SupervisedTask]):
    """A task in the harness. Heads are in eval mode."""

    imports = ("torchmetrics.classification", "torchmetrics.regression")

    @cached_property
    def maker(self) -> Maker:
        """The function that draws annotations which the task can read."""
        own: Maker | None = getattr(self.component, "examples", None)
        if own:
            return own
        return next(filter(self._accepts, _candidates()), _names)

    def in_a_new_process(self) -> TaskSubject:
        """The same fitted task from a reloaded module, as a new process would import it."""
        cls: Any = self.cls
        fitted = {f.alias: getattr(self.task, f.name) for f in attrs.fields(cls) if f.init}
        other = TaskSubject(self.name, reload(self.cls), fitted, self.catalog)
        if not self.is_aligned:
            other.maker = self.maker
        other.task = other.component
        return other

    def annotation(self, n: int = FITTED, seed: int = 0) -> Annotation:
        return self.maker(n, KeyedRng((seed,))("annotation"))

    @cached_property
    def task(self) -> SupervisedTask:
        """The fitted task."""
        if self.is_aligned:
            return self.component
        return self.component.fit(self.annotation())

    @property
    def is_aligned(self) -> bool:
        """Whether its labels are maps or points, which come with each batch."""
        return isinstance(self.component, AlignedTask)

    def require_annotations(self) -> None:
        if self.is_aligned:
            raise Skip("its labels are maps or points: it reads no annotations")

    def require_aligned(self) -> None:
        if not self.is_aligned:
            raise Skip("its labels are no maps or points")

    def maps_or_points(self, n: int, size: tuple[int, int], seed: int = 0) -> Tensor:
        """(n, ...) targets of an aligned task, for images of `size` (h, w)."""
        target = self._aligned_maker(n, size, KeyedRng((seed,))("annotation"))
        fits = len(target) == n and (are_points(target) or target.shape[-2:] == size)
        asked = f"examples({n}, {size}, rng)"
        require(fits, f"{asked} returns {tuple(target.shape)}; expected maps of {size}, or points")
        return target

    @cached_property
    def _aligned_maker(self) -> AlignedMaker:
        own: AlignedMaker | None = getattr(self.component, "examples", None)
        if own:
            return own
        return next(filter(self._has_a_loss, _ALIGNED), _class_maps)

    def _has_a_loss(self, make: AlignedMaker) -> bool:
        target = make(2, (SIZE, SIZE), KeyedRng((0,))("annotation"))
        images = patterns(2, SIZE, 0).float() / 255
        try:
            with seeded(0):
                encoder = SharedEncoder(ToyEncoder(), (SIZE, SIZE)).eval()
                head = self.task.build(BuildContext(encoder.info, encoder, {})).eval()
            return len(self.loss(head, head(encoder(images)), target)) == 2
        except Exception:  # noqa: BLE001 - a candidate may fail in any way
            return False

    def moved(self, target: Tensor, geometry: Geometry) -> Tensor:
        """The moved targets, without their shares."""
        moved = self.task.move(target, geometry)
        return moved if isinstance(moved, Tensor) else moved[0]

    def truth(self, n: int, seed: int = 0) -> Tensor:
        """(n, ...) targets of labeled samples."""
        if self.is_aligned:
            return self.maps_or_points(n, (SIZE, SIZE), seed)
        # Not every annotation need be a label. Four times as many leave enough.
        target, present = self.task.target(self.annotation(4 * n, seed))
        return target[present][:n]

    def fitted_targets(self) -> Tensor:
        """The targets of the samples that the task was fitted on, without absent labels."""
        if self.is_aligned:
            return self.truth(FITTED)
        target, present = self.task.target(self.annotation())
        return target[present]

    @cached_property
    def size(self) -> int:
        """The image size in pixels: that of the targets if they are images."""
        if self.is_aligned:
            return SIZE
        shape = self.truth(1).shape
        return int(shape[-1]) if len(shape) == 4 else SIZE

    @property
    def drawing_size(self) -> int:
        """The size in pixels of the images that predictions are drawn on."""
        return SIZE if self.is_aligned else 64

    @cached_property
    def encoder(self) -> SharedEncoder:
        with seeded(0):
            return SharedEncoder(ToyEncoder(), (self.size, self.size)).eval()

    def features(self, samples: int, seed: int = 0) -> Features:
        """Features of drawn images. Gradients reach the encoder."""
        images = patterns(samples, self.size, seed).float() / 255
        features: Features = self.encoder(images)
        return features

    def detached_features(self, samples: int, seed: int = 0) -> Features:
        """The same without gradients."""
        with torch.no_grad():
            return self.features(samples, seed)

    def head(self, seed: int = 0) -> Head:
        """A new head. The seed determines its weights."""
        context = BuildContext(self.encoder.info, self.encoder, {})
        with seeded(seed):
            head = self.task.build(context)
        return head.eval()

    def loss(self, head: Head, output: Any, target: Tensor, share: Tensor | None = None) -> Tensor:
        """The loss as a step computes it: in fp32, without autocast.

        share: (B,) the weights of the samples, for coupled heads. Default: 1.
        """
        in_fp32 = to_fp32(output)
        with losses_in_fp32("cpu"):
            return bare_loss(head, in_fp32, target, share)

    def scores(
        self, decoded: Tensor, target: Tensor, sizes: tuple[int, ...] = ()
    ) -> dict[str, Tensor]:
        """metric -> its value for these samples.

        sizes: of the batches that update the metric (default: one batch).
        """
        metrics = self.task.metrics()
        batch_sizes = list(sizes) or [len(target)]
        updates = zip(decoded.split(batch_sizes), target.split(batch_sizes), strict=True)
        for prediction, truth in updates:
            for metric in metrics.values():
                metric.update(prediction.contiguous(), truth.contiguous())
        return {name: torch.as_tensor(metric.compute()).float() for name, metric in metrics.items()}

    def movement(self, samples: int, turn_deg: float = 0.0, mirrored: bool = False) -> Geometry:
        """The image mirrored, then turned about its center."""
        angle_rad = torch.full((samples,), math.radians(turn_deg))
        return self.movements(angle_rad, torch.full((samples,), mirrored))

    def movements(self, angle_rad: Tensor, flip: Tensor) -> Geometry:
        """The same for an angle (B,) and a mirror (B,) of each sample."""
        size = (self.size, self.size)
        matrix = similarity(angle_rad, torch.ones_like(angle_rad), flip, size, size)
        return Geometry.affine(matrix, size)

    def _accepts(self, make: Maker) -> bool:
        annotation = make(FITTED, KeyedRng((0,))("annotation"))
        try:
            target, present = self.component.fit(annotation).target(annotation)
        except Exception:  # noqa: BLE001 - a candidate may fail in any way
            return False
        return isinstance(target, Tensor) and isinstance(present, Tensor) and bool(present.any())


def bare_loss(head: Head, output: Any, target: Tensor, share: Tensor | None = None) -> Tensor:
    """The head's loss; a coupled head gets these shares, or equal ones of 1."""
    if not head.coupled:
        return head.loss(output, target)
    coupled: Any = head
    weights = torch.ones(len(target)) if share is None else share
    loss: Tensor = coupled.loss(output, target, weights)
    return loss


def ideal_output(head: Any, target: Tensor) -> Any:
    """The head's perfect output for these targets; skips if the head does not define one."""
    if not hasattr(head, "ideal"):
        raise Skip("the head has no `ideal(target) -> output`")
    return head.ideal(target)


def known(prediction: Any) -> Any:
    """A prediction made of the truth: 0 where that is unknown (NaN), as networks predict no NaN."""
    return map_floats(torch.nan_to_num, prediction)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value or 1.

    Values may be NaN (unknown points). Raises AssertionError if others are NaN in `found`.
    """
    same_unknown = not bool((found.isnan() ^ wanted.isnan()).any())
    require(same_unknown, "NaN stands where the truth has a value, or the other way round")
    largest = wanted.float().nan_to_num().abs().max().clamp_min(1)
    return float((found.float() - wanted.float()).nan_to_num().abs().max() / largest)


def reads_names(annotation: Annotation) -> bool:
    return annotation.dtype.kind == "U"


def missing(annotation: Annotation) -> Annotation:
    """The same number of missing annotations: "" or NaN."""
    value = "" if reads_names(annotation) else np.nan
    return np.full_like(annotation, value)


def absent(target: Tensor) -> Tensor:
    """As many targets for samples without a label: zeros, or NaN for points."""
    is_points = are_points(target) and target.shape[-1] == 2
    return torch.full_like(target, torch.nan if is_points else 0)


def _class_maps(n: int, size: tuple[int, int], rng: Rng) -> Tensor:
    """Two classes, in blocks of a quarter of the image."""
    blocks = rng.randint(2, n * 16).view(n, 1, 4, 4).float()
    return F.interpolate(blocks, size)[:, 0].long()


def _float_maps(n: int, size: tuple[int, int], rng: Rng, channels: int) -> Tensor:
    """Unit vectors, in blocks of a quarter of the image."""
    blocks = rng.randn(n, channels, 4, 4)
    return F.interpolate(F.normalize(blocks, dim=1), size)


_ALIGNED: tuple[AlignedMaker, ...] = (
    _class_maps,
    partial(_float_maps, channels=1),
    partial(_float_maps, channels=3),
)


def _names(n: int, rng: Rng) -> Annotation:
    return np.array(["one", "two", "three"])[rng.randint(3, n).numpy()]


def _numbers(n: int, rng: Rng, shape: tuple[int, ...]) -> Annotation:
    return (2 * rng.rand(n, *shape) - 1).double().numpy()


def _candidates() -> Iterator[Maker]:
    yield _names
    for shape in SHAPES:
        yield partial(_numbers, shape=shape)
