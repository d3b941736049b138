"""Head pose: the rotation of a head as six numbers, with the angle to the target as the loss.

Hempel et al., "6D Rotation Representation for Unconstrained Head Pose Estimation" (ICIP 2022), with
the representation of Zhou et al. (CVPR 2019). `rotations` defines the angles, and how they follow
the pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import and_, ge, lt
from torch import Tensor, nn

from mtlcore import (
    Annotation,
    AnswerFormat,
    BuildContext,
    Features,
    Geometry,
    Head,
    MtlError,
    Rng,
    SupervisedTask,
    hookimpl,
)

from .draw import axes
from .rotations import (
    chordal_mean,
    from_6d,
    geodesic_rad,
    mirror,
    moved,
    to_6d,
    to_matrix,
    to_pose_deg,
)

if TYPE_CHECKING:
    from torchmetrics import Metric


@frozen
class HeadPose(SupervisedTask):
    """Predict rotation matrices (B, 3, 3) from "pose_deg".

    The annotation is (N, 3), yaw, pitch and roll in degrees, NaN where missing.

    dropout: before the linear layer, in [0, 1).
    """

    name = "headpose"
    reads = "pose_deg"
    dropout: float = field(default=0.0, validator=and_(ge(0.0), lt(1.0)))

    def target(self, annotation: Annotation) -> tuple[Tensor, Tensor]:
        """Convert (N, 3) degrees to rotations (N, 3, 3) float32 and present (N,) bool.

        Samples with a missing angle get zeros. Raises MtlError for another annotation.
        """
        if annotation.dtype.kind not in "fiu" or annotation.shape[1:] != (3,):
            raise MtlError(
                f"the annotation {self.reads!r} is {annotation.dtype} {annotation.shape}; head "
                "pose needs three numbers, yaw, pitch and roll in degrees (of a csv: "
                'columns = { pose_deg = ["yaw", "pitch", "roll"] })'
            )
        pose_deg = torch.from_numpy(annotation.astype("float64"))
        present = pose_deg.isfinite().all(1)
        rotation = to_matrix(pose_deg.nan_to_num(0, 0, 0)) * present[:, None, None]
        return rotation.float(), present

    def examples(self, n: int, rng: Rng) -> Annotation:
        """Draw (n, 3) yaw, pitch and roll for the conformance kit, within 70, 50 and 40 degrees."""
        widest_deg = np.array([70.0, 50.0, 40.0])
        share = 2 * rng.rand(n, 3) - 1
        drawn: np.ndarray = share.double().numpy() * widest_deg
        return drawn

    def build(self, context: BuildContext) -> Head:
        return HeadPoseHead(context.info.dim, self.dropout)

    def move(self, target: Tensor, geometry: Geometry) -> Tensor | tuple[Tensor, Tensor]:
        """Rotate and mirror the target with the image. A bent face has no pose: its share is 0."""
        followed = moved(target, geometry)
        if geometry.bend is None:
            return followed
        return followed, 1 - geometry.bend.samples.float()

    def decode(self, output: Tensor) -> Tensor:
        """(B, 6) -> rotations (B, 3, 3) fp32, head -> view axes."""
        return from_6d(output)

    def as_answer(self, target: Tensor) -> Tensor:
        """Return the target, which has the form of a decoded output."""
        return target

    def as_annotation(self, decoded: Tensor) -> Annotation:
        """Return yaw, pitch and roll in degrees, (B, 3)."""
        return to_pose_deg(decoded).numpy(force=True)

    def answer_format(self) -> AnswerFormat:
        return AnswerFormat("values", ("yaw", "pitch", "roll"), "degrees")

    def answer_numbers(self, decoded: Tensor) -> Tensor:
        """(B, 3, 3) -> (B, 3): yaw, pitch and roll in degrees."""
        return to_pose_deg(decoded)

    def average(self, decoded: Tensor, mirrored: Tensor) -> Tensor:
        """Average with the prediction for the mirror image, which is mirrored back first."""
        return chordal_mean(decoded, mirror(mirrored))

    def metrics(self) -> dict[str, Metric]:
        """Errors in degrees: mae of all axes and of each, and the mean angle of the rotations."""
        from .pose_metrics import pose_metrics

        return pose_metrics()

    def draw(self, image: Tensor, decoded: Tensor) -> Tensor:
        """Draw the three axes of the head (3, 3) on the image (3, H, W) in [0, 1]."""
        return axes(image, decoded)


class HeadPoseHead(Head):
    """Dropout and one linear layer: (B, D) -> (B, 6).

    The six numbers are the first two columns of the rotation, before orthonormalization.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.answer = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, 6))

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,): the angle to the target rotation, radians in [0, pi]."""
        return geodesic_rad(from_6d(output), target)

    def ideal(self, target: Tensor) -> Tensor:
        """Return the first two columns of the target."""
        return to_6d(target)


@hookimpl
def mtl_components() -> list[type]:
    return [HeadPose]
