"""Helpers that write tiny datasets in their real layouts into a temporary folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def image(path: Path, gray: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    """Write a gray image of this size (w, h), in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF"}.get(path.suffix.lower(), "JPEG")
    Image.new("RGB", size, (gray, gray, gray)).save(path, kind)
    return path


def ramp(path: Path, size: int = 100) -> Path:
    """Write a square image with the position of each pixel as its color: red = x, green = y."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:size, :size]
    Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8)).save(path, "PNG")
    return path


def pose_mat(path: Path, yaw: float, pitch: float, roll: float, **arrays: np.ndarray) -> Path:
    """Write a .mat file with `Pose_Para` (1, 7) in radians. The angles here are in degrees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    para = np.array([[*np.radians([pitch, yaw, roll]), 1.0, 2.0, 3.0, 0.001]], dtype=np.float32)
    savemat(path, {"Pose_Para": para, **arrays})
    return path


def marks(left: float, top: float, right: float, bottom: float, n: int = 68) -> np.ndarray:
    """Return (2, n) landmarks with this bounding box."""
    points = np.stack([np.linspace(left, right, n), np.linspace(top, bottom, n)])
    return points.astype(np.float32)
