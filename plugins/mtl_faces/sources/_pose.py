"""Helpers of the head pose readers: annotations from rows of key, angles and face box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._crops import Crop
from ._files import floats

PoseRow = tuple[str, np.ndarray, np.ndarray]
"""key; pose_deg (3,), yaw, pitch, roll in degrees; box_px (4,), left, top, right, bottom."""


def pose_annotations(rows: Sequence[PoseRow], crop: Crop) -> dict[str, np.ndarray]:
    """Return "pose_deg" (N, 3), and "box_px" (N, 4) unless crop is "none"; float64."""
    annotations = {"pose_deg": floats([pose_deg for _, pose_deg, _ in rows], 3)}
    if crop != "none":
        annotations["box_px"] = floats([box for _, _, box in rows], 4)
    return annotations
