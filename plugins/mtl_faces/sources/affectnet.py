"""AffectNet: faces in the wild with an expression, valence and arousal. Two releases.

Mollahosseini et al., "AffectNet: A Database for Facial Expression, Valence, and Arousal Computing
in the Wild", IEEE TAC 2019.

- csv: `training.csv`, with a header, and `validation.csv`, without one. Columns:
  `subDirectory_filePath, face_x, face_y, face_width, face_height, facial_landmarks, expression,
  valence, arousal`. The images are below `Manually_Annotated_Images`, in some copies nested twice.
- npy: `train_set | val_set / images / <id>.jpg` and `annotations / <id>_exp.npy, _val.npy,
  _aro.npy`, each with one number, in some copies as text.

The validation set is the split "test": publications report it, since there is no other test set.
Not yet tested on the real dataset.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from attrs import field, frozen
from attrs.validators import and_, ge, le

from mtlcore import Dataset, Index, MtlError, Sample, Skipped, hookimpl, read_file

from ..emotions import Emotion
from ._cache import cached_index
from ._crops import read_face, square_box
from ._files import (
    entries,
    floats,
    is_image,
    note_unread_folders,
    open_text,
    require_folder,
    split_folders,
    strings,
)

EMOTIONS = {
    0: Emotion.NEUTRAL,
    1: Emotion.HAPPINESS,
    2: Emotion.SADNESS,
    3: Emotion.SURPRISE,
    4: Emotion.FEAR,
    5: Emotion.DISGUST,
    6: Emotion.ANGER,
    7: Emotion.CONTEMPT,
}
NO_EMOTION = (8, 9)  # "none" and "uncertain": a face without an emotion label
NO_FACE = 10
FACELESS = "images left out, without a face by the dataset's own label"
CSV_FILES = {"training.csv": "train", "validation.csv": "test"}
FIRST_COLUMN = "subDirectory_filePath"
COLUMNS = 9
FARTHEST = 1e6  # pixels
NPY_FOLDERS = {"train_set": "train", "val_set": "test", "valid_set": "test"}
IMAGES = (
    "Manually_Annotated_Images/Manually_Annotated_Images",
    "Manually_Annotated_Images",
    "Manually_Annotated/Manually_Annotated_Images",
    "Manually_Annotated",
    ".",
)


class _Labels(NamedTuple):
    """expression: the number in the files. valence, arousal: in [-1, 1], NaN where missing."""

    expression: int
    valence: float
    arousal: float


class _Row(NamedTuple):
    """box: (4,), empty if images are whole faces."""

    key: str
    split: str
    labels: _Labels
    box: np.ndarray


@frozen
class Affectnet(Dataset):
    """Read AffectNet: annotations "emotion" and "valence_arousal" (N, 2) in [-1, 1].

    "emotion" has eight names, and "" for "none" and "uncertain". Images that the dataset marks as
    no face are left out.

    root: the folder of training.csv and validation.csv, or of train_set and val_set.
    crop: of the csv release, "square" around the face box of the table, or "none". Images of the
    npy release are faces already.
    margin: of the square on each side, as a share of its size.
    """

    root: Path
    crop: Literal["square", "none"] = "square"
    margin: float = field(default=0.0, validator=and_(ge(0.0), le(10.0)))

    def index(self) -> Index:
        require_folder(
            "affectnet", self.root, "training.csv and validation.csv, or train_set and val_set"
        )
        files = [name for name in CSV_FILES if (self.root / name).is_file()]
        if files:
            return self._csv_index(files)
        folders = split_folders("affectnet", self.root, NPY_FOLDERS)
        if not folders:
            raise MtlError(
                f"affectnet: {self.root} holds none of {' | '.join((*CSV_FILES, *NPY_FOLDERS))}"
            )
        watched: list[Path] = []
        for folder in folders:
            watched += [self.root / folder / "images", self.root / folder / "annotations"]
        index = cached_index(self, watched, lambda: _npy_index(self.root, folders))
        # Not in the cache, which does not watch the root.
        note_unread_folders("affectnet", self.root, folders, index.skipped)
        return index

    def decode(self, index: Index, i: int) -> Sample:
        crop = self.crop if "box_px" in index.annotations else "none"
        return Sample(read_face(crop, self.root, index, i))

    def _csv_index(self, files: list[str]) -> Index:
        skipped = Skipped()
        tables = {name: list(_csv_rows(self.root / name, skipped)) for name in files}
        paths = (path for table in tables.values() for path, _, _ in table)
        below = _images(self.root, next(paths, ""))
        rows: list[_Row] = []
        seen: set[str] = set()
        faceless = 0
        for name, table in tables.items():
            for path, labels, corners in table:
                if labels.expression == NO_FACE:
                    faceless += 1
                elif path in seen:
                    skipped.add("listed twice", path)
                else:
                    seen.add(path)
                    box = square_box(corners, self.margin)
                    rows.append(_Row(below + path, CSV_FILES[name], labels, box))
        skipped.note(FACELESS, faceless)
        return _index(rows, skipped, boxes=self.crop != "none")


def _index(rows: list[_Row], skipped: Skipped, boxes: bool) -> Index:
    affects = [(row.labels.valence, row.labels.arousal) for row in rows]
    annotations = {
        "emotion": strings(_emotion(row.labels.expression) for row in rows),
        "valence_arousal": floats(affects, 2),
    }
    if boxes:
        annotations["box_px"] = floats([row.box for row in rows], 4)
    split = strings(row.split for row in rows)
    return Index(strings(row.key for row in rows), annotations, split=split, skipped=skipped)


def _emotion(expression: int) -> str:
    return str(EMOTIONS.get(expression, ""))


# -------------------------------------------------------------------------------------------- csv


def _csv_rows(path: Path, skipped: Skipped) -> Iterator[tuple[str, _Labels, np.ndarray]]:
    """Yield path, labels and corners (2, 2) of each valid row."""
    try:
        with open_text("affectnet", path) as file:
            reader = csv.reader(file)
            for number, cells in enumerate(reader, 1):
                if not cells or (number == 1 and cells[0].strip() == FIRST_COLUMN):
                    continue
                try:
                    yield _read_row(cells)
                except ValueError as error:
                    skipped.add(str(error), f"{path.name}, line {number}")
    except csv.Error as error:
        raise MtlError(
            f"affectnet: {path} is not a csv file: line {reader.line_num}: {error}"
        ) from error


def _read_row(cells: list[str]) -> tuple[str, _Labels, np.ndarray]:
    """Raise ValueError, with a reason that does not name the row, if a cell is not valid."""
    if len(cells) != COLUMNS:
        raise ValueError(f"not {COLUMNS} columns")
    path, *face, _, expression, valence, arousal = (cell.strip() for cell in cells)
    x, y, width, height = (_number(cell, "a face box") for cell in face)
    corners = np.array([[x, x + width], [y, y + height]])
    if np.abs(corners).max() > FARTHEST:
        raise ValueError("a face box far outside of any image")
    return path, _Labels(_expression(expression), _affect(valence), _affect(arousal)), corners


def _number(cell: str, what: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what} that is not a number")
    return value


def _expression(cell: str) -> int:
    value = _number(cell, "an expression")
    if value != int(value) or int(value) not in (*EMOTIONS, *NO_EMOTION, NO_FACE):
        raise ValueError(f"unknown expression {cell[:20]!r}")
    return int(value)


def _affect(cell: str) -> float:
    """Read valence or arousal in [-1, 1]; -2 means "none" and gives NaN."""
    value = _number(cell, "valence or arousal")
    if value == -2:
        return math.nan
    if abs(value) > 1:
        raise ValueError("valence or arousal beyond -1 ... 1")
    return value


def _images(root: Path, first: str) -> str:
    """The folder of the images, found by the path of the first: "" or a path that ends in "/"."""
    folder = first.split("/")[0]
    for below in IMAGES:
        # os.path and not pathlib, which raises on long names.
        if os.path.exists(root / below / folder):  # noqa: PTH110
            return "" if below == "." else f"{below}/"
    return f"{IMAGES[1]}/"


# -------------------------------------------------------------------------------------------- npy


def _npy_index(root: Path, folders: dict[str, str]) -> Index:
    """folders: name of the folder -> split."""
    rows: list[_Row] = []
    skipped = Skipped()
    faceless = 0
    no_box = np.empty(0)
    for folder, split in folders.items():
        for entry in entries("affectnet", root / folder / "images"):
            key = f"{folder}/images/{entry.name}"
            if not is_image(entry.name):
                skipped.add("not an image", key)
                continue
            stem = root / folder / "annotations" / Path(entry.name).stem
            try:
                labels = _labels(stem)
            except ValueError as error:
                skipped.add(str(error), key)
                continue
            if labels.expression == NO_FACE:
                faceless += 1
            else:
                rows.append(_Row(key, split, labels, no_box))
    skipped.note(FACELESS, faceless)
    return _index(rows, skipped, boxes=False)


def _labels(stem: Path) -> _Labels:
    """Read <id>_exp.npy, <id>_val.npy and <id>_aro.npy. Raises ValueError if one is not valid."""
    expression, valence, arousal = (
        _scalar(stem.with_name(f"{stem.name}_{tail}.npy")) for tail in ("exp", "val", "aro")
    )
    return _Labels(_expression(expression), _affect(valence), _affect(arousal))


def _scalar(path: Path) -> str:
    """Read the one number of a file, as text."""
    tail = path.stem.rpartition("_")[2]
    try:
        value = np.load(BytesIO(read_file(path)), allow_pickle=False)
    except FileNotFoundError as error:
        raise ValueError(f"no _{tail}.npy") from error
    except Exception as error:  # numpy's reader raises nearly anything on broken bytes
        raise ValueError(f"an unreadable _{tail}.npy") from error
    if not isinstance(value, np.ndarray) or value.size != 1 or value.dtype.kind not in "fiubUS":
        raise ValueError(f"a _{tail}.npy that is not one number")
    found = value.reshape(()).item()
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)


@hookimpl
def mtl_components() -> list[type]:
    return [Affectnet]
