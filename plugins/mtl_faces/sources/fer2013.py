"""FER2013: 48 x 48 gray faces with seven emotions.

Goodfellow et al., "Challenges in Representation Learning", 2013. Two layouts:

- The csv release, one file: columns `emotion,pixels,Usage` in any order, 2,304 gray values per row.
- Folders, as in most copies: `train | test / <class name> / *.jpg`. `val`, `validation`, `dev` and
  other usual names of one split, in upper or lower case, become the split "val".

Both give the annotation "emotion", by name.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from attrs import field, frozen

from mtlcore import Dataset, Index, MtlError, Sample, Skipped, hookimpl, read_image

from ..emotions import BY_FOLDER, Emotion
from ._files import (
    class_images,
    emotion_columns,
    entries,
    note_unread_folders,
    open_text,
    split_folders,
)

SIZE = 48  # pixels
EMOTIONS = {
    "0": Emotion.ANGER,
    "1": Emotion.DISGUST,
    "2": Emotion.FEAR,
    "3": Emotion.HAPPINESS,
    "4": Emotion.SADNESS,
    "5": Emotion.SURPRISE,
    "6": Emotion.NEUTRAL,
}
USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
SPLITS = ("train", "val", "test")
COLUMNS = ("emotion", "pixels", "Usage")


@frozen
class Fer2013(Dataset):
    """Read FER2013: annotation "emotion".

    root: the folder that holds `train` and `test`, the one that holds fer2013.csv, or that file.
    """

    root: Path

    def index(self) -> Index:
        if self.root.is_file():
            return _csv_index(self.root)
        if not self.root.is_dir():
            raise MtlError(
                f"fer2013: root = {self.root} does not exist; expected a folder with train/ "
                "and test/, or fer2013.csv"
            )
        splits = split_folders("fer2013", self.root, {name: name for name in SPLITS})
        has_csv = (self.root / "fer2013.csv").is_file()
        if has_csv and not any(name in splits for name in SPLITS):
            return _csv_index(self.root / "fer2013.csv")
        if splits:
            return _folder_index(self.root, splits)
        raise MtlError(
            f"fer2013: {self.root} holds neither the folders {' | '.join(SPLITS)} "
            "nor the file fer2013.csv"
        )

    def decode(self, index: Index, i: int) -> Sample:
        if isinstance(index, _CsvIndex):
            return Sample(np.repeat(index.pixels[i].reshape(SIZE, SIZE, 1), 3, axis=2))
        return Sample(read_image(str(index.keys[i]), self.root))


# ----------------------------------------------------------------------------------------- folders


def _folder_index(root: Path, splits: dict[str, str]) -> Index:
    """splits: name of the folder -> split."""
    rows: list[tuple[str, str, str]] = []
    skipped = Skipped()
    note_unread_folders("fer2013", root, splits, skipped)
    for name, split in splits.items():
        for folder in entries("fer2013", root / name):
            images = class_images("fer2013", folder, name, BY_FOLDER, skipped)
            emotion = str(BY_FOLDER.get(folder.name.lower(), ""))
            rows += [(key, emotion, split) for key in images]
    return Index(*emotion_columns(rows), skipped=skipped)


# --------------------------------------------------------------------------------------------- csv


@frozen(eq=False)
class _CsvIndex(Index):
    """pixels: (N, 2304) uint8, in memory, since a row of the file has no known offset."""

    pixels: np.ndarray = field(kw_only=True)


def _csv_index(path: Path) -> _CsvIndex:
    rows: list[tuple[str, str, str]] = []
    pixels: list[bytes] = []
    skipped = Skipped()
    try:
        with open_text("fer2013", path) as file:
            reader = csv.reader(file)
            places = _places(path, next(reader, []))
            for number, cells in enumerate(reader):
                key = f"row {number:05d}"
                try:
                    emotion, gray, split = _read_row(cells, places)
                except ValueError as error:
                    skipped.add(str(error), key)
                else:
                    rows.append((key, emotion, split))
                    pixels.append(gray)
    except csv.Error as error:
        raise MtlError(
            f"fer2013: {path} is not a csv file: line {reader.line_num}: {error}"
        ) from error
    images = np.frombuffer(b"".join(pixels), dtype=np.uint8).reshape(-1, SIZE * SIZE)
    return _CsvIndex(*emotion_columns(rows), skipped=skipped, pixels=images)


def _places(path: Path, header: list[str]) -> tuple[int, ...]:
    """The positions of COLUMNS in the header. Raises MtlError if one is missing."""
    names = [name.strip().lstrip("\ufeff").lower() for name in header]
    missing = [name for name in COLUMNS if name.lower() not in names]
    if missing:
        got = ",".join(header)[:80]
        raise MtlError(
            f"fer2013: {path} must start with the columns {','.join(COLUMNS)}; "
            f"{', '.join(missing)} missing in {got!r}"
        )
    return tuple(names.index(name.lower()) for name in COLUMNS)


def _read_row(cells: list[str], places: tuple[int, ...]) -> tuple[str, bytes, str]:
    """Return emotion, pixels and split. Raises ValueError with the reason if not valid."""
    if len(cells) <= max(places):
        raise ValueError("too few columns")
    emotion, pixels, usage = (cells[place].strip() for place in places)
    if emotion not in EMOTIONS:
        raise ValueError(f"unknown emotion {emotion[:20]!r}")
    if usage not in USAGES:
        raise ValueError(f"unknown usage {usage[:20]!r}")
    return str(EMOTIONS[emotion]), _gray(pixels), USAGES[usage]


def _gray(text: str) -> bytes:
    """Read 2,304 gray values. Raises ValueError with the reason if they are not valid."""
    no_pixel = "a pixel that is not a whole number from 0 to 255"
    digits = text.replace(" ", "")
    # Checked first, since numpy's parser stops silently at the first other character.
    if not digits.isascii() or not digits.isdigit():
        raise ValueError(no_pixel)
    values = np.fromstring(text, dtype=np.int64, sep=" ")
    if values.max() > 255:
        raise ValueError(no_pixel)
    if len(values) != SIZE * SIZE:
        raise ValueError(f"not {SIZE * SIZE} pixels")
    return values.astype(np.uint8).tobytes()


@hookimpl
def mtl_components() -> list[type]:
    return [Fer2013]
