"""What the readers of head pose sets share: rows of a key, an angle and a face box -> annotations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._crops import Crop
from ._files import floats

PoseRow = tuple[str, np.ndarray, np.ndarray]
"""key, pose_deg (3,) as yaw, pitch, roll in degrees, box_px (4,) as left, top, right, bottom."""


def pose_annotations(rows: Sequence[PoseRow], crop: Crop) -> dict[str, np.ndarray]:
    """-> "pose_deg" (N, 3), and "box_px" (N, 4) unless whole images are read: float64, also without rows."""
    found = {"pose_deg": floats([pose for _, pose, _ in rows], 3)}
    return found if crop == "none" else found | {"box_px": floats([box for _, _, box in rows], 4)}
