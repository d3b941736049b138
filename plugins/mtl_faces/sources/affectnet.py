"""AffectNet: faces in the wild with an expression, valence and arousal (Mollahosseini et al., "AffectNet: A Database for
Facial Expression, Valence, and Arousal Computing in the Wild", IEEE TAC 2019). Two releases.

csv: `training.csv`, with a header, and `validation.csv`, without one: `subDirectory_filePath, face_x, face_y, face_width,
face_height, facial_landmarks, expression, valence, arousal`; the images under `Manually_Annotated_Images`, now and then
nested twice. npy: `train_set | val_set / images / <id>.jpg` and `annotations / <id>_exp.npy, _val.npy, _aro.npy`, each
one number, now and then as text.

Its validation set is the split "test": the literature reports it, and the set has no other one. Not yet tried on the
real set.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from attrs import field, frozen
from attrs.validators import ge

from mtlcore import Dataset, Index, MtlError, Skipped, hookimpl

from ..emotions import Emotion
from ._cache import cached_index
from ._crops import read_face, square_box
from ._files import entries, floats, is_image, require_folder, strings

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
NO_EMOTION = (8, 9)  # none of them, uncertain: a face without that label
NO_FACE = 10
FACELESS = "images left out, without a face by the set's own label"
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

_Row = tuple[str, str, str, float, float, np.ndarray]  # key, split, emotion, valence, arousal, box


@frozen
class Affectnet(Dataset):
    """root: the folder of training.csv and validation.csv, or of train_set and val_set.

    Annotations: "emotion" (eight names; "" for "none" and "uncertain") and "valence_arousal" (N, 2) in [-1, 1]. Images
    that the set itself marks as no face are left out. crop: of the csv release: "square" around the face box of the
    table, a `margin` of its side wider on each side, or "none"; the images of the npy release are faces already.
    """

    root: Path
    crop: Literal["square", "none"] = "square"
    margin: float = field(default=0.0, validator=ge(0.0))

    def index(self) -> Index:
        require_folder(
            "affectnet", self.root, "training.csv and validation.csv, or train_set and val_set"
        )
        files = [name for name in CSV_FILES if (self.root / name).is_file()]
        if files:
            return self._csv_index(files)
        folders = [name for name in NPY_FOLDERS if (self.root / name).is_dir()]
        if not folders:
            raise MtlError(
                f"affectnet: {self.root} holds none of {' | '.join((*CSV_FILES, *NPY_FOLDERS))}"
            )
        parts = [
            self.root / folder / part for folder in folders for part in ("images", "annotations")
        ]
        return cached_index(self, parts, lambda: _npy_index(self.root, folders))

    def decode(self, index: Index, row: int) -> np.ndarray:
        return read_face(
            self.crop if "box_px" in index.annotations else "none", self.root, index, row
        )

    def _csv_index(self, files: list[str]) -> Index:
        skipped = Skipped()
        tables = {name: list(_csv_rows(self.root / name, skipped)) for name in files}
        first = next((row[0] for rows in tables.values() for row in rows), "")
        below = _images(self.root, first)
        rows, seen, faceless = [], set[str](), 0
        for name, cells in tables.items():
            for path, expression, valence, arousal, box in cells:
                if expression == NO_FACE:
                    faceless += 1
                elif path in seen:
                    skipped.add("listed twice", path)
                else:
                    seen.add(path)
                    around = square_box(box, self.margin)
                    rows.append(
                        (
                            below + path,
                            CSV_FILES[name],
                            _emotion(expression),
                            valence,
                            arousal,
                            around,
                        )
                    )
        skipped.note(FACELESS, faceless)
        return _index(rows, skipped, boxes=self.crop != "none")


def _index(rows: list[_Row], skipped: Skipped, boxes: bool) -> Index:
    annotations = {
        "emotion": strings(row[2] for row in rows),
        "valence_arousal": floats([row[3:5] for row in rows], 2),
    }
    if boxes:
        annotations["box_px"] = floats([row[5] for row in rows], 4)
    split = strings(row[1] for row in rows)
    return Index(strings(row[0] for row in rows), annotations, split=split, skipped=skipped)


def _emotion(expression: int) -> str:
    return str(EMOTIONS.get(expression, ""))


# ------------------------------------------------------------------------------------------------ csv


def _csv_rows(path: Path, skipped: Skipped) -> Iterator[tuple[str, int, float, float, np.ndarray]]:
    """-> path, expression, valence, arousal (NaN where not given), corners (2, 2) of each good row."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.reader(file)
            for number, cells in enumerate(reader, 1):
                if not cells or (number == 1 and cells[0].strip() == FIRST_COLUMN):
                    continue
                try:
                    yield _read_row(cells)
                except ValueError as error:
                    skipped.add(str(error), f"{path.name}, line {number}")
    except OSError as error:
        raise MtlError(f"affectnet: {path} can't be read: {error.strerror or error}") from error
    except csv.Error as error:
        raise MtlError(
            f"affectnet: {path} is no csv file: line {reader.line_num}: {error}"
        ) from error


def _read_row(cells: list[str]) -> tuple[str, int, float, float, np.ndarray]:
    if len(cells) != COLUMNS:
        raise ValueError(f"not {COLUMNS} columns")
    path, *face, _, expression, valence, arousal = (cell.strip() for cell in cells)
    x, y, width, height = (_number(cell, "a face box") for cell in face)
    corners = np.array([[x, x + width], [y, y + height]])
    if np.abs(corners).max() > FARTHEST:
        raise ValueError("a face box far outside of any image")
    return path, _expression(expression), _affect(valence), _affect(arousal), corners


def _number(cell: str, what: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what} that is no number")
    return value


def _expression(cell: str) -> int:
    value = _number(cell, "an expression")
    if value != int(value) or int(value) not in (*EMOTIONS, *NO_EMOTION, NO_FACE):
        raise ValueError(f"unknown expression {cell[:20]!r}")
    return int(value)


def _affect(cell: str) -> float:
    """Valence or arousal in [-1, 1]; NaN for -2, which means that there is none."""
    value = _number(cell, "valence or arousal")
    if value == -2:
        return math.nan
    if abs(value) > 1:
        raise ValueError("valence or arousal beyond -1 ... 1")
    return value


def _images(root: Path, first: str) -> str:
    """Where the images lie: "Manually_Annotated_Images/", or "" beside the tables."""
    folder = first.split("/")[0]
    below = next((b for b in IMAGES if os.path.exists(root / b / folder)), IMAGES[1])  # noqa: PTH110 (pathlib's raises on long names)
    return "" if below == "." else f"{below}/"


# ------------------------------------------------------------------------------------------------ npy


def _npy_index(root: Path, folders: list[str]) -> Index:
    rows: list[_Row] = []
    skipped = Skipped()
    faceless = 0
    none = np.empty(0)
    for folder in folders:
        for entry in entries("affectnet", root / folder / "images"):
            key = f"{folder}/images/{entry.name}"
            if not is_image(entry.name):
                skipped.add("not an image", key)
                continue
            try:
                expression, valence, arousal = _labels(
                    root / folder / "annotations" / Path(entry.name).stem
                )
            except ValueError as error:
                skipped.add(str(error), key)
                continue
            if expression == NO_FACE:
                faceless += 1
            else:
                rows.append(
                    (key, NPY_FOLDERS[folder], _emotion(expression), valence, arousal, none)
                )
    skipped.note(FACELESS, faceless)
    return _index(rows, skipped, boxes=False)


def _labels(stem: Path) -> tuple[int, float, float]:
    """<id>_exp.npy, <id>_val.npy, <id>_aro.npy. Raises ValueError with what is wrong with one of them."""
    expression, valence, arousal = (
        _scalar(stem.with_name(f"{stem.name}_{tail}.npy")) for tail in ("exp", "val", "aro")
    )
    return _expression(expression), _affect(valence), _affect(arousal)


def _scalar(path: Path) -> str:
    tail = path.stem.rpartition("_")[2]
    try:
        value = np.load(path, allow_pickle=False)
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
