"""Tiny data sets in their real layouts, written into a temporary folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def image(path: Path, gray: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    """A gray image of this size (w, h), whatever the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF"}.get(path.suffix.lower(), "JPEG")
    Image.new("RGB", size, (gray, gray, gray)).save(path, kind)
    return path


def ramp(path: Path, side: int = 100) -> Path:
    """An image that tells where its pixels were: red = x, green = y."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:side, :side]
    Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8)).save(path, "PNG")
    return path


def pose_mat(path: Path, yaw: float, pitch: float, roll: float, **arrays: np.ndarray) -> Path:
    """A .mat file with `Pose_Para` (1, 7) in radians, as MATLAB would write it; angles here in degrees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    para = np.array([[*np.radians([pitch, yaw, roll]), 1.0, 2.0, 3.0, 0.001]], dtype=np.float32)
    savemat(path, {"Pose_Para": para, **arrays})
    return path


def marks(left: float, top: float, right: float, bottom: float, n: int = 68) -> np.ndarray:
    """(2, n) landmarks that just fill this box."""
    points = np.stack([np.linspace(left, right, n), np.linspace(top, bottom, n)])
    return points.astype(np.float32)
