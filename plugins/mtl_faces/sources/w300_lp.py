"""`300w_lp`: faces that are rotated to many poses, with Euler angles.

300W-LP; Zhu et al., "Face Alignment Across Large Poses: A 3D Solution", CVPR 2016; and copies with
its file layout, `x.jpg` beside `x.mat`. Two layouts:

- Its own folders: AFW, AFW_Flip, HELEN, HELEN_Flip, IBUG, IBUG_Flip, LFPW, LFPW_Flip. There is no
  official split. All poses of a photograph, also mirrored ones, are one group, so that a random
  split does not leak. Not yet tested on the real dataset.
- `train | val`, with names `<part>_<person>_<frame>.jpg`. A person is a group. Folders with other
  usual names of these splits are read, too, such as `Train` and `validation`.

Angles are those of the files: R = Rx(pitch) Ry(-yaw) Rz(roll), x right, y down; yaw > 0 faces the
image's left.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
from attrs import field, frozen
from attrs.validators import and_, ge, le

from mtlcore import Dataset, Index, MtlError, Sample, Skipped, hookimpl

from ._cache import cached_index
from ._crops import MARGIN, Crop, read_face, square_box, widened_box
from ._files import (
    entries,
    is_image,
    note_unread_folders,
    require_folder,
    split_folders,
    strings,
)
from ._landmarks import face_with_points, with_points
from ._mat import read_mat
from ._pose import PoseRow, pose_annotations

PARTS = ("AFW", "HELEN", "IBUG", "LFPW")
SEVERAL_FACES = ("AFW", "HELEN", "IBUG")  # their names number the faces of a photograph
FOLDERS = tuple(f"{part}{end}" for part in PARTS for end in ("", "_Flip"))
SPLITS = ("train", "val", "test")
# Hopenet draws it from 0.2 ... 0.4 for each training image. Images are cropped once here, so this
# is the center of that range.
K = 0.3


@frozen
class W300Lp(Dataset):
    """Read 300W-LP: annotation "pose_deg" (N, 3), yaw, pitch, roll in degrees.

    root: the folder that holds AFW, AFW_Flip, ..., or train and val.
    crop: "square" around the landmarks. "hopenet", the training box of Hopenet and 6DRepNet.
    "none", for images that are faces already.
    margin: of the square on each side, as a share of the landmarks' longer extent.
    landmarks: True to read the 68 points `pt2d` as the points "landmarks", too.
    """

    name: ClassVar[str] = "300w_lp"
    root: Path
    crop: Crop = "square"
    margin: float = field(default=MARGIN, validator=and_(ge(0.0), le(10.0)))
    landmarks: bool = False

    def index(self) -> Index:
        require_folder(self.name, self.root, f"the folders {', '.join(FOLDERS)}, or train and val")
        splits = split_folders(self.name, self.root, {name: name for name in SPLITS})
        parts = [name for name in FOLDERS if (self.root / name).is_dir()]
        if parts and not any(name in splits for name in SPLITS):
            splits = {}
        folders = list(splits) or parts
        if not folders:
            raise MtlError(
                f"300w_lp: {self.root} holds none of the folders {' | '.join((*SPLITS, *FOLDERS))}"
            )
        watched = [self.root / folder for folder in folders]
        index = cached_index(self, watched, lambda: self._index(folders, splits))
        # Not in the cache, which does not watch the root.
        note_unread_folders(self.name, self.root, folders, index.skipped)
        return with_points(index) if self.landmarks else index

    def _index(self, folders: list[str], splits: dict[str, str]) -> Index:
        """splits: name of the folder -> split; empty if the folders are parts."""
        rows: list[PoseRow] = []
        skipped = Skipped()
        for folder in folders:
            rows += self._rows(folder, skipped)
        keys = [key for key, _, _ in rows]
        if splits:
            split = strings(splits[key.split("/")[0]] for key in keys)
            group = strings(map(_person, keys))
        else:
            split = None
            group = strings(map(_photograph, keys))
        annotations = pose_annotations(rows, self.crop)
        return Index(strings(keys), annotations, split=split, group=group, skipped=skipped)

    def decode(self, index: Index, i: int) -> Sample:
        if self.landmarks:
            return face_with_points(self.crop, self.root, index, i, "pt2d")
        return Sample(read_face(self.crop, self.root, index, i))

    def _rows(self, folder: str, skipped: Skipped) -> list[PoseRow]:
        rows: list[PoseRow] = []
        for entry in entries(self.name, self.root / folder):
            key = f"{folder}/{entry.name}"
            if not is_image(entry.name):
                if not entry.name.lower().endswith(".mat"):
                    skipped.add("neither an image nor a .mat file", key)
                continue
            try:
                pose_deg, points = read_mat(Path(entry.path).with_suffix(".mat"), "pt2d")
            except ValueError as error:
                skipped.add(str(error), key)
            else:
                rows.append((key, pose_deg, self._box(points)))
        return rows

    def _box(self, points: np.ndarray) -> np.ndarray:
        if self.crop == "hopenet":
            return widened_box(points, 0.6 * K, 2 * K, 0.6 * K, 0.6 * K)
        return square_box(points, self.margin)


def _person(key: str) -> str:
    """train/te_Abdullah_Gul_11.jpg -> Abdullah_Gul."""
    stem = Path(key).stem
    middle = re.fullmatch(r"[^_]+_(.+)_[^_]+", stem)
    return middle[1] if middle else stem


def _photograph(key: str) -> str:
    """HELEN_Flip/HELEN_100032540_1_7.jpg -> HELEN/HELEN_100032540.

    The last number is that of the pose. In these folders the one before counts the faces of a
    photograph, whose crops overlap.
    """
    folder, name = key.split("/", 1)
    folder = folder.removesuffix("_Flip")
    numbers = 2 if folder in SEVERAL_FACES else 1
    return f"{folder}/{re.sub(rf'(_[0-9]+){{{numbers}}}$', '', Path(name).stem)}"


@hookimpl
def mtl_components() -> list[type]:
    return [W300Lp]
