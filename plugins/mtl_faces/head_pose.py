"""Head pose: the rotation of a head, as six numbers, judged by the angle to the true one.

Hempel et al., "6D Rotation Representation for Unconstrained Head Pose Estimation" (ICIP 2022), with the representation of Zhou
et al. (CVPR 2019). What angles mean here, and how they follow the pixels, stands in `rotations`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import and_, ge, lt
from torch import Tensor, nn

from mtlcore import (
    Annotation,
    BuildContext,
    Features,
    Geometry,
    Head,
    Rng,
    SupervisedTask,
    hookimpl,
)

from .draw import axes
from .rotations import chordal_mean, from_6d, geodesic_rad, mirror, moved, to_6d, to_matrix


@frozen
class HeadPose(SupervisedTask):
    """Reads "pose_deg" (N, 3): yaw, pitch, roll in degrees, NaN where missing. Answers with rotation matrices (B, 3, 3).

    dropout: before the linear layer, in [0, 1).
    """

    name = "headpose"
    reads = "pose_deg"
    dropout: float = field(default=0.0, validator=and_(ge(0.0), lt(1.0)))

    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """(N, 3) degrees -> rotations (N, 3, 3) float32, zeros where an angle is missing; present (N,) bool."""
        pose_deg = torch.from_numpy(annotation.astype("float64")).reshape(-1, 3)
        present = pose_deg.isfinite().all(1)
        return (to_matrix(pose_deg.nan_to_num(0, 0, 0)) * present[:, None, None]).float(), present

    def examples(self, n: int, rng: Rng) -> Annotation:
        """(n, 3) drawn yaw, pitch and roll in degrees, for the conformance kit: within 70, 50 and 40 of 0."""
        widest = np.array([70.0, 50.0, 40.0])
        drawn: np.ndarray = (2 * rng.rand(n, 3) - 1).double().numpy() * widest
        return drawn

    def build(self, context: BuildContext) -> Head:
        return HeadPoseHead(context.info.dim, self.dropout)

    def move(self, target: Tensor, geometry: Geometry) -> Tensor:
        """The heads as the moved images show them: turned with them, and mirrored."""
        return moved(target, geometry)

    def decode(self, output: Tensor) -> Tensor:
        """(B, 6) -> rotations (B, 3, 3) fp32, head -> view axes."""
        return from_6d(output)

    def as_answer(self, target: Tensor) -> Tensor:
        """A target is an answer."""
        return target

    def average(self, decoded: Tensor, mirrored: Tensor) -> Tensor:
        """The rotation nearest to the answer and to that about the mirror image, mirrored back."""
        return chordal_mean(decoded, mirror(mirrored))

    def metrics(self) -> dict[str, Any]:
        """Degrees: mae of the three axes and of each, and the mean angle between the rotations."""
        from .pose_metrics import pose_metrics

        return pose_metrics()

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """(3, H, W) in [0, 1], a rotation (3, 3) -> the image with the head's three axes."""
        return axes(image, decoded)


class HeadPoseHead(Head):
    """Dropout and ONE linear layer: (B, D) -> (B, 6), the first two columns of the rotation before they are made orthonormal."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.answer = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, 6))

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,): the angle to the true rotation, radians in [0, pi]."""
        return geodesic_rad(from_6d(output), target)

    def ideal(self, target: Tensor) -> Tensor:
        """The two columns themselves."""
        return to_6d(target)


@hookimpl
def mtl_components() -> list[type]:
    return [HeadPose]
