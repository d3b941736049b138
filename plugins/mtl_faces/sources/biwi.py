"""BIWI Kinect: 24 videos of 20 people who turn their heads, with the pose of a fitted head model.

Fanelli et al., "Random Forests for Real Time 3D Face Analysis", IJCV 2013. Not yet tested on the
real dataset.

Layouts:

- `01 ... 24 / frame_00003_rgb.png` and `frame_00003_pose.txt` (a 3 x 3 rotation, an empty line, the
  head's center in mm), with the `rgb.cal` of each video.
- One of the common .npz copies: "image" (N, S, S, 3) uint8 in BGR and "pose" (N, 3), yaw, pitch,
  roll in degrees.

Signs: the file's rotation Rb uses the camera's axes, x right, y down, z AWAY from it. A frontal
head is the identity and looks along -z. The labels of 300W-LP have z TOWARD the camera. So
R = F Rb F with F = diag(1, 1, -1), read as R = Rx(pitch) Ry(-yaw) Rz(roll). yaw > 0 faces the
image's left and pitch > 0 looks up in both, and the three angles are those of Hopenet's reader.

Two things could not be checked without the images: that a frontal head is the identity to within a
few degrees, and the direction of the small shift from the depth camera to the color camera in
rgb.cal. The shift only moves the crop.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
from attrs import field, frozen
from attrs.validators import and_, gt, le

from mtlcore import Dataset, Index, MtlError, Sample, Skipped, hookimpl, open_file

from ._cache import cached_index
from ._crops import read_face
from ._files import entries, strings, text_lines
from ._pose import PoseRow, pose_annotations

FRAME = re.compile(r"(frame_[0-9]+)_rgb\.png", re.IGNORECASE)
VIDEO = re.compile(r"[0-9]{2}")
TRAIN_VIDEOS = 16  # FSA-Net's protocol: 16 videos for training, 8 for test
FARTHEST = 1e6  # mm or pixels; a number beyond it is broken, as is NaN
# Focal lengths and center in pixels, for a video without rgb.cal.
KINECT = (517.679, 517.679, 320.0, 240.5)


@frozen(eq=False)
class _NpzIndex(Index):
    """pixels: (N, S, S, 3) uint8, BGR."""

    pixels: np.ndarray = field(kw_only=True)


@frozen
class Biwi(Dataset):
    """Read BIWI: annotation "pose_deg" (N, 3), yaw, pitch, roll in degrees.

    All samples are in the split "test", as for a model that is trained on 300W-LP.
    `split = "fold"` uses the videos 1 to 16 for training and the others for test. Validation is cut
    by video, but some people have two videos.

    root: the folder of the videos 01 ... 24, or an .npz file.
    crop: "square" around the head's center, or "none".
    face_mm: size of the square.
    """

    root: Path
    crop: Literal["square", "none"] = "square"
    face_mm: float = field(default=280.0, validator=and_(gt(0.0), le(10_000.0)))

    def index(self) -> Index:
        if self.root.is_file():
            return _npz_index(self.root)
        if not self.root.is_dir():
            raise MtlError(
                f"biwi: root = {self.root} does not exist; expected the folder of 01 ... 24, "
                "or an .npz file"
            )
        found = entries("biwi", self.root)
        videos = [entry.name for entry in found if VIDEO.fullmatch(entry.name) and entry.is_dir()]
        if not videos:
            raise MtlError(f"biwi: {self.root} holds none of the folders 01 ... 24")
        folders = [self.root / video for video in videos]
        return cached_index(self, folders, lambda: self._index(videos))

    def decode(self, index: Index, i: int) -> Sample:
        if isinstance(index, _NpzIndex):
            return Sample(np.ascontiguousarray(index.pixels[i][..., ::-1]))
        return Sample(read_face(self.crop, self.root, index, i))

    def _index(self, videos: list[str]) -> Index:
        rows: list[PoseRow] = []
        skipped = Skipped()
        for video in videos:
            camera = _Camera.read(self.root / video / "rgb.cal", skipped)
            for entry in entries("biwi", self.root / video):
                frame = FRAME.fullmatch(entry.name)
                if frame is None:
                    continue  # depth frames, the poses themselves, calibrations
                key = f"{video}/{entry.name}"
                try:
                    rotation, center_mm = read_pose(self.root / video / f"{frame[1]}_pose.txt")
                    rows.append((key, angles_deg(rotation), camera.box(center_mm, self.face_mm)))
                except ValueError as error:
                    skipped.add(str(error), key)
        keys = [key for key, _, _ in rows]
        of_video = [key.split("/")[0] for key in keys]
        fold = strings("train" if int(video) <= TRAIN_VIDEOS else "test" for video in of_video)
        return Index(
            strings(keys),
            pose_annotations(rows, self.crop),
            split=np.full(len(rows), "test"),
            group=strings(of_video),
            attributes={"fold": fold},
            skipped=skipped,
        )


# ------------------------------------------------------------------------------------------- pose


def _numbers(path: Path) -> np.ndarray:
    """All numbers of a text file. Raises ValueError or MtlError if there is anything else."""
    cells = " ".join(text_lines("biwi", path)).split()
    return np.array([float(cell) for cell in cells])


def read_pose(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read Rb (3, 3) and the head's center (3,) in mm, in the camera's axes.

    Raises ValueError if the file is broken.
    """
    try:
        values = _numbers(path)
    except (MtlError, ValueError) as error:
        raise ValueError("no readable pose file") from error
    if len(values) != 12 or not (np.abs(values) < FARTHEST).all():
        raise ValueError("a pose file that does not hold twelve numbers")
    rotation = values[:9].reshape(3, 3)
    center_mm = values[9:]
    deviation = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if deviation > 0.05 or np.linalg.det(rotation) < 0:
        raise ValueError("a pose file without a rotation")
    if center_mm[2] <= 0:
        raise ValueError("a head behind the camera")
    return rotation, center_mm


def angles_deg(rotation: np.ndarray) -> np.ndarray:
    """Rb (3, 3) -> yaw, pitch, roll in degrees, with F Rb F = Rx(pitch) Ry(-yaw) Rz(roll)."""
    flip = np.diag([1.0, 1.0, -1.0])
    r = flip @ rotation @ flip
    yaw = -np.arcsin(np.clip(r[0, 2], -1.0, 1.0))
    pitch = np.arctan2(-r[1, 2], r[2, 2])
    roll = np.arctan2(-r[0, 1], r[0, 0])
    return np.degrees([yaw, pitch, roll])


@frozen(eq=False)
class _Camera:
    """The color camera.

    focal, center: (2,) pixels.
    turn, shift: (3, 3) and (3,) mm, from the depth camera.
    """

    focal: np.ndarray
    center: np.ndarray
    turn: np.ndarray
    shift: np.ndarray

    @classmethod
    def read(cls, path: Path, skipped: Skipped) -> _Camera:
        """Read rgb.cal: intrinsics (3, 3), four distortions, rotation (3, 3), translation, size."""
        nominal = cls(
            focal=np.array(KINECT[:2]),
            center=np.array(KINECT[2:]),
            turn=np.eye(3),
            shift=np.zeros(3),
        )
        if not path.is_file():
            return nominal
        try:
            v = _numbers(path)
        except (MtlError, ValueError):
            v = np.empty(0)
        if len(v) < 25 or not (np.abs(v) < FARTHEST).all():
            skipped.note("videos with an unreadable rgb.cal: used with the Kinect's nominal values")
            return nominal
        return cls(
            focal=v[[0, 4]],
            center=v[[2, 5]],
            turn=v[13:22].reshape(3, 3),
            shift=v[22:25],
        )

    def box(self, center_mm: np.ndarray, size_mm: float) -> np.ndarray:
        """(4,): the square of this size around the head's center, in pixels."""
        x, y, z = self.turn @ center_mm + self.shift
        if z <= 0:
            raise ValueError("a head behind the camera")
        center = self.focal * np.array([x, y]) / z + self.center
        half = self.focal.mean() * size_mm / z / 2
        return np.concatenate([center - half, center + half])


# -------------------------------------------------------------------------------------------- npz


def _npz_index(path: Path) -> _NpzIndex:
    try:
        with open_file(path) as file, np.load(file, allow_pickle=False) as found:
            pixels, pose = found["image"], found["pose"]
    except Exception as error:  # numpy's reader raises nearly anything on broken bytes
        raise MtlError(
            f"biwi: {path} is not an .npz file with the arrays image and pose: {error}"
        ) from error
    are_images = pixels.ndim == 4 and pixels.shape[3] == 3 and pixels.dtype == np.uint8
    if not are_images or pose.dtype.kind not in "fiu":
        raise MtlError(
            f"biwi: {path}: expected image (N, S, S, 3) uint8 and pose (N, 3) numbers; "
            f"got {pixels.shape} {pixels.dtype} and {pose.shape} {pose.dtype}"
        )
    if pose.shape != (len(pixels), 3):
        raise MtlError(
            f"biwi: {path}: pose must be ({len(pixels)}, 3), one row per image; got {pose.shape}"
        )
    good = np.isfinite(pose).all(1)
    keys = np.array([f"row {number:05d}" for number in range(len(pose))], dtype=str)
    skipped = Skipped()
    for key in keys[~good]:
        skipped.add("a pose that holds no numbers", str(key))
    return _NpzIndex(
        keys[good],
        {"pose_deg": pose[good].astype(np.float64)},
        np.full(int(good.sum()), "test"),
        skipped=skipped,
        pixels=pixels[good],
    )


@hookimpl
def mtl_components() -> list[type]:
    return [Biwi]
