"""`.mat` files of 300W-LP and AFLW2000: the pose and the landmarks."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

LIMIT_DEG = 360.0  # beyond a full turn it is no angle: a broken file


def read_mat(path: Path, points: str) -> tuple[np.ndarray, np.ndarray]:
    """-> pose_deg (3,) as yaw, pitch, roll in degrees, and the landmarks named `points`: (2, P) pixels.

    `Pose_Para` holds pitch, yaw, roll in RADIANS, then a translation and a scale. Raises ValueError, with a reason that
    is the same for all files with that fault, where something is missing or broken.
    """
    found = _load(path, ("Pose_Para", points))
    pose = _array(found, "Pose_Para")
    marks = _array(found, points)
    if pose.size < 3:
        raise ValueError("Pose_Para with less than three numbers")
    pitch, yaw, roll = np.degrees(pose.ravel()[:3])
    pose_deg = np.array([yaw, pitch, roll])
    if not np.isfinite(pose_deg).all() or np.abs(pose_deg).max() > LIMIT_DEG:
        raise ValueError("Pose_Para that holds no angles")
    if marks.ndim != 2 or marks.shape[0] < 2 or marks.shape[1] < 2 or not np.isfinite(marks[:2]).all():
        raise ValueError(f"{points} that holds no landmarks")
    return pose_deg, marks[:2]


def _load(path: Path, names: tuple[str, ...]) -> dict[str, object]:
    from scipy.io import loadmat  # 0.4 s

    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: dict[str, object] = loadmat(file, variable_names=names)
    except FileNotFoundError as error:
        raise ValueError("a picture without a .mat file") from error
    except Exception as error:  # scipy's reader raises nearly anything on broken bytes
        raise ValueError("an unreadable .mat file") from error
    return found


def _array(found: dict[str, object], name: str) -> np.ndarray:
    value = found.get(name)
    if value is None:
        raise ValueError(f"a .mat file without {name}")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise ValueError(f"{name} that holds no numbers")
    return value.astype(np.float64)
