"""Landmarks: K points of an image, such as joints, corners or the points of a face.

"heatmaps" predicts the mean place of a heat map (soft-argmax): Sun et al., "Integral Human Pose
Regression", ECCV 2018, arXiv:1711.08229.

Shapes: B samples, K points, (H, W) pixels. Points are (x, y) in pixels of the view; NaN is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, le
from torch import Tensor, nn

from ...contracts import AlignedTask, BuildContext, Features, Head
from ...geometry import Geometry, orthogonal
from ...rng import Rng
from .decoder import STRIDE, WIDTH, decoder_of, require_own_decoder, width_of
from .draw_maps import with_points
from .losses import mean_over_valid

if TYPE_CHECKING:
    from torchmetrics import Metric

FAR_OUTSIDE = 1.0  # of the image's width or height: no crop cuts off that much


@frozen
class Landmarks(AlignedTask):
    """K points of each image.

    points: K, at least 2.
    reads: the points of the data (default: the task's label).
    flip_pairs: pairs of points that change places in a mirrored image, such as the left and the
    right eye, [[36, 45], [39, 42]]. Numbers start at 0. Points in no pair stay what they are.
    method: "coordinates", one linear layer on the pooled features. "heatmaps", the mean place of
    a heat map that the decoder draws; it can only find points inside the image.
    norm: by what the error of a sample is divided. "box": the square root of width x height of the
    box around its true points. "diagonal": the diagonal of that box. "pair": the distance of
    the two points of `norm_pair`, such as the outer corners of both eyes.
    norm_pair: two numbers of points, for norm = "pair".
    failure: a sample whose error is above it is a failure; also the upper end of the AUC.
    decoder, width, stride: of heat maps. `decoder` is the label of a task above this one whose
    decoder it shares (default: its own, with `width` channels, without maps finer than 1 / stride
    of the image).
    """

    points: int = field(validator=and_(ge(1), le(10000)))
    reads: str = ""
    flip_pairs: tuple[tuple[int, ...], ...] = ()
    method: Literal["coordinates", "heatmaps"] = "coordinates"
    norm: Literal["box", "diagonal", "pair"] = "box"
    norm_pair: tuple[int, ...] = ()
    failure: float = field(default=0.1, validator=and_(gt(0.0), le(10.0)))
    decoder: str = ""
    width: int = field(default=WIDTH, validator=and_(ge(1), le(2048)))
    stride: int = field(default=STRIDE, validator=and_(ge(1), le(64)))

    def __attrs_post_init__(self) -> None:
        require_own_decoder(self.decoder, self.width, self.stride)
        of_decoder = (self.decoder, self.width, self.stride)
        if self.method == "coordinates" and of_decoder != ("", WIDTH, STRIDE):
            raise ValueError(
                'decoder, width and stride are of heat maps, but method = "coordinates" draws '
                'none: set method = "heatmaps" or remove them'
            )
        _check_pairs(self.flip_pairs, self.points)
        if self.points == 1:
            raise ValueError(
                "points = 1: errors are divided by a size of the points, and one point has none: "
                "expected at least 2"
            )
        if (self.norm == "pair") != bool(self.norm_pair):
            raise ValueError('norm = "pair" needs norm_pair, and only it: two numbers of points')
        if self.norm_pair:
            _check_pair("norm_pair", self.norm_pair, self.points)

    def fault(self, label: np.ndarray, size: tuple[int, int]) -> str | None:
        if label.ndim != 2 or label.shape[1] != 2:
            return f"a map {label.shape}; landmarks reads points (K, 2)"
        if len(label) != self.points:
            return f"{len(label)} points; the task has points = {self.points}"
        return _outside(label, size)

    def examples(self, n: int, size: tuple[int, int], rng: Rng) -> Tensor:
        """Draw n x K points inside the image for the conformance kit."""
        return rng.rand(n, self.points, 2) * torch.tensor([size[1], size[0]])

    def move(self, target: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Move the points; in a mirrored image, pairs change places.

        A sample without any known point has the share 0.
        """
        moved = geometry.points(target)
        _, mirrors = orthogonal(geometry.matrix)
        moved = torch.where(mirrors[:, None, None], self._swapped(moved), moved)
        return moved, (~moved.isnan().any(2)).any(1).float()

    def build(self, context: BuildContext) -> Head:
        if self.method == "heatmaps":
            return HeatmapHead(context, self)
        return CoordinatesHead(context, self)

    def as_answer(self, target: Tensor) -> Tensor:
        """Return the points (B, K, 2) themselves."""
        return target

    def mirror_back(self, decoded: Tensor, size: tuple[int, int]) -> Tensor:
        """Mirror the points, and let pairs change places."""
        return self._swapped(super().mirror_back(decoded, size))

    def metrics(self) -> dict[str, Metric]:
        """Return nme (the mean error / norm), failure_rate and auc (in [0, 1], up to `failure`)."""
        from .landmark_metrics import landmark_metrics

        return landmark_metrics(self.norm, self.norm_pair, self.failure)

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """Draw the points (K, 2) on an image (3, H, W)."""
        return with_points(image, decoded)

    def _swapped(self, points: Tensor) -> Tensor:
        order = list(range(self.points))
        for one, other in self.flip_pairs:
            order[one], order[other] = other, one
        # A list as an index: no tensor is copied from the host.
        return torch.stack([points[:, number] for number in order], 1)


class PointsHead(Head):
    """A head with the loss of points, L1 as a share of the image's width and height."""

    def __init__(self, context: BuildContext) -> None:
        super().__init__()
        height, width = context.info.image_size
        # Not in checkpoints: the configuration holds the image size.
        self.register_buffer("size", torch.tensor([width, height]).float(), persistent=False)

    size: Tensor

    def counts(self, target: Tensor) -> Tensor:
        """Return which points have a loss, (B, K) bool."""
        return ~target.isnan().any(2)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return (B,): the mean over the sample's known points; 0 without any."""
        valid = self.counts(target)
        known = torch.where(valid[..., None], target, 0)
        errors = ((output - known) / self.size).abs().mean(2)
        return mean_over_valid(errors, valid)

    def ideal(self, target: Tensor) -> Tensor:
        """Return the points themselves."""
        return target


class CoordinatesHead(PointsHead):
    """ONE linear layer on the pooled features: (B, D) -> (B, K, 2) pixels of the view."""

    def __init__(self, context: BuildContext, task: Landmarks) -> None:
        super().__init__(context)
        self.answer = nn.Linear(context.info.dim, 2 * task.points)
        self.points = task.points

    def forward(self, features: Features) -> Tensor:
        # In fp32: in bf16 the sum would round to 1 / 256 of the image.
        unit = self.answer(features.pooled).float().unflatten(1, (self.points, 2))
        return (unit + 0.5) * pixels_of(features)  # an untrained head answers the center


class HeatmapHead(PointsHead):
    """The decoder, ONE 1 x 1 convolution to K heat maps, and the mean place of each."""

    def __init__(self, context: BuildContext, task: Landmarks) -> None:
        super().__init__(context)
        self.decoder = decoder_of(context, task.width, task.stride, task.decoder)
        self.answer = nn.Conv2d(width_of(self.decoder), task.points, 1, bias=False)

    def forward(self, features: Features) -> Tensor:
        heat = self.answer(self.decoder(features)).float()
        return soft_argmax(heat) * pixels_of(features)

    def counts(self, target: Tensor) -> Tensor:
        """Return which points have a loss: known ones inside the image."""
        inside = (target >= 0) & (target <= self.size)  # False for NaN
        return inside.all(2)


def soft_argmax(heat: Tensor) -> Tensor:
    """Return the mean places of heat maps (B, K, h, w), logits: (B, K, 2) x and y in [0, 1]."""
    h, w = heat.shape[-2:]
    likely = heat.flatten(2).softmax(2).unflatten(2, (h, w))
    x = (torch.arange(w, device=heat.device) + 0.5) / w
    y = (torch.arange(h, device=heat.device) + 0.5) / h
    return torch.stack([(likely.sum(2) * x).sum(2), (likely.sum(3) * y).sum(2)], 2)


def pixels_of(features: Features) -> Tensor:
    """Return (2,): width and height of the images, in pixels."""
    assert features.images is not None
    height, width = features.images.shape[-2:]
    ones = features.pooled.new_ones(2, dtype=torch.float32)
    return torch.cat([ones[:1] * width, ones[1:] * height])


def _check_pairs(pairs: Sequence[Sequence[int]], points: int) -> None:
    """Raise ValueError unless each pair has two points, and each point is in at most one pair."""
    for pair in pairs:
        _check_pair("flip_pairs", pair, points)
    every = [number for pair in pairs for number in pair]
    repeated = [number for number in every if every.count(number) > 1]
    if repeated:
        raise ValueError(f"flip_pairs has the point {repeated[0]} in two pairs")


def _check_pair(key: str, pair: Sequence[int], points: int) -> None:
    if len(pair) != 2:
        raise ValueError(f"{key} has {list(pair)}; expected pairs of two numbers, such as [36, 45]")
    wrong = [number for number in pair if not 0 <= number < points]
    if wrong or pair[0] == pair[1]:
        raise ValueError(
            f"{key} has {list(pair)}; expected two different numbers from 0 to {points - 1}"
        )


def _outside(points: np.ndarray, size: tuple[int, int]) -> str | None:
    """Return what is wrong with points far outside of an image of `size` (h, w)."""
    height, width = size
    unit = points[np.isfinite(points).all(1)] / [width, height]
    far = ((unit < -FAR_OUTSIDE) | (unit > 1 + FAR_OUTSIDE)).any(1)
    outside = ((unit < 0) | (unit > 1)).any(1)
    if not far.any() and 2 * outside.sum() <= len(unit):
        return None
    where = points[np.isfinite(points).all(1)][outside][0].tolist()
    return (
        f"{int(outside.sum())} of {len(unit)} points are outside of the image, such as "
        f"{[round(number, 1) for number in where]}; expected x and y in pixels of an image of "
        f"{width} x {height}, or NaN for an unknown point"
    )
