"""AFLW2000-3D: 2,000 faces in the wild with Euler angles, the usual test set of head pose.

Zhu et al., "Face Alignment Across Large Poses: A 3D Solution", CVPR 2016. Files are
`imageNNNNN.jpg` beside `imageNNNNN.mat`.

All samples are in the split "test". As in every published result, faces with an angle beyond 99
degrees are left out: 1,969 images remain. Angles are those of the files:
R = Rx(pitch) Ry(-yaw) Rz(roll), x right, y down.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from attrs import field, frozen
from attrs.validators import and_, ge, le

from mtlcore import Dataset, Index, Sample, Skipped, hookimpl

from ._crops import MARGIN, Crop, read_face, square_box, widened_box
from ._files import entries, is_image, require_folder, strings
from ._landmarks import face_with_points, with_points
from ._mat import read_mat
from ._pose import PoseRow, pose_annotations

LIMIT_DEG = 99.0
K = 0.2  # of Hopenet's test crop


@frozen
class Aflw2000(Dataset):
    """Read AFLW2000-3D: annotation "pose_deg" (N, 3), yaw, pitch, roll in degrees.

    root: the folder of `imageNNNNN.jpg` and `.mat`.
    crop: "square", around the 68 landmarks `pt3d_68`. "hopenet", the box of the tests of Hopenet
    and 6DRepNet; it uses `pt2d`, where points that can't be seen are -1, so the box reaches the
    image's corner on turned faces. "none".
    margin: of the square on each side, as a share of the landmarks' longer extent.
    landmarks: True to read the 68 points `pt3d_68` as the points "landmarks", too.
    """

    root: Path
    crop: Crop = "square"
    margin: float = field(default=MARGIN, validator=and_(ge(0.0), le(10.0)))
    landmarks: bool = False

    def index(self) -> Index:
        require_folder("aflw2000", self.root, "image00002.jpg, image00002.mat, ...")
        rows: list[PoseRow] = []
        skipped = Skipped()
        beyond = 0
        for entry in entries("aflw2000", self.root):
            if not is_image(entry.name):
                continue
            try:
                pose_deg, box = self._read(Path(entry.path).with_suffix(".mat"))
            except ValueError as error:
                skipped.add(str(error), entry.name)
                continue
            if np.abs(pose_deg).max() <= LIMIT_DEG:
                rows.append((entry.name, pose_deg, box))
            else:
                beyond += 1
        skipped.note(
            f"faces left out, an angle beyond {LIMIT_DEG:g} degrees, as in the benchmark", beyond
        )
        index = Index(
            strings(key for key, _, _ in rows),
            pose_annotations(rows, self.crop),
            split=np.full(len(rows), "test"),
            skipped=skipped,
        )
        return with_points(index) if self.landmarks else index

    def decode(self, index: Index, i: int) -> Sample:
        if self.landmarks:
            return face_with_points(self.crop, self.root, index, i, "pt3d_68")
        return Sample(read_face(self.crop, self.root, index, i))

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return the angles and the face box of one file."""
        if self.crop == "hopenet":
            pose_deg, points = read_mat(path, "pt2d")
            return pose_deg, widened_box(points, 2 * K, 2 * K, 2 * K, 0.6 * K)
        pose_deg, points = read_mat(path, "pt3d_68")
        return pose_deg, square_box(points, self.margin)


@hookimpl
def mtl_components() -> list[type]:
    return [Aflw2000]
