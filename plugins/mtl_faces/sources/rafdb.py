"""RAF-DB, basic emotions: 15,339 faces.

Li et al., "Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition
in the Wild", CVPR 2017. Two layouts:

- The release: `EmoLabel/list_patition_label.txt` (spelled so) with lines `train_00001.jpg 5`; the
  images `Image/aligned/train_00001_aligned.jpg` or `Image/original/train_00001.jpg`; optionally
  `Annotation/manual/train_00001_manu_attri.txt`, five lines of landmarks, then gender, race and age
  range.
- Copies: `train | test (or valid) / <1 ... 7, or an emotion> / *`, also by other usual names.

Not yet tested on the real dataset.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from attrs import frozen

from mtlcore import Dataset, Index, MtlError, Sample, Skipped, hookimpl, read_image

from ..emotions import BY_FOLDER, Emotion
from ._files import (
    class_images,
    emotion_columns,
    entries,
    first_file,
    first_folder,
    note_unread_folders,
    require_folder,
    split_folders,
    strings,
    text_lines,
)

EMOTIONS = {
    "1": Emotion.SURPRISE,
    "2": Emotion.FEAR,
    "3": Emotion.DISGUST,
    "4": Emotion.HAPPINESS,
    "5": Emotion.SADNESS,
    "6": Emotion.ANGER,
    "7": Emotion.NEUTRAL,
}
FOLDERS = EMOTIONS | BY_FOLDER
# Some copies name the test set "valid" or "val". Beside a test set, these are not read.
SPLITS = {"train": "train", "test": "test", "valid": "test", "val": "test"}
LISTS = (
    "EmoLabel/list_patition_label.txt",
    "EmoLabel/list_partition_label.txt",
    "list_patition_label.txt",
)
IMAGES = ("Image/aligned", "Image/original", "aligned", "original")
GENDERS = {"0": "male", "1": "female", "2": ""}  # 2: the annotators were not sure
RACES = {"0": "caucasian", "1": "african-american", "2": "asian"}
AGE_BANDS = {"0": "0-3", "1": "4-19", "2": "20-39", "3": "40-69", "4": "70+"}

_Row = tuple[str, str, str]  # key, emotion, split


@frozen
class Rafdb(Dataset):
    """Read RAF-DB: annotation "emotion"; with the manual annotation also "gender".

    Attributes, with the manual annotation: "race" and "age_band".

    root: the folder `basic` of the release, or the one that holds train and test.
    """

    root: Path

    def index(self) -> Index:
        require_folder("rafdb", self.root, f"{LISTS[0]}, or the folders train and test")
        skipped = Skipped()
        listed = first_file(self.root, LISTS)
        if listed is None:
            return Index(*emotion_columns(self._folder_rows(skipped)), skipped=skipped)
        names, rows = self._list_rows(listed, skipped)
        keys, annotations, splits = emotion_columns(rows)
        genders, attributes = self._people(names, skipped)
        return Index(
            keys, annotations | genders, split=splits, attributes=attributes, skipped=skipped
        )

    def decode(self, index: Index, i: int) -> Sample:
        return Sample(read_image(str(index.keys[i]), self.root))

    def _list_rows(self, listed: Path, skipped: Skipped) -> tuple[list[str], list[_Row]]:
        """Return the stems of the images, and the rows."""
        folder = first_folder("rafdb", self.root, IMAGES)
        tail = "_aligned" if folder.name == "aligned" else ""
        below = folder.relative_to(self.root).as_posix()
        rows: dict[str, _Row] = {}
        for number, line in enumerate(text_lines("rafdb", listed), 1):
            if not line.strip():
                continue
            name, _, label = line.strip().partition(" ")
            stem = Path(name).stem
            split = name.partition("_")[0]
            emotion = EMOTIONS.get(label.strip())
            if emotion is None or split not in ("train", "test") or "/" in name or stem in rows:
                skipped.add(
                    "a line that is not <train|test>_<number>.jpg <1 ... 7>",
                    f"line {number}: {line[:40]!r}",
                )
                continue
            key = f"{below}/{stem}{tail}{Path(name).suffix}"
            rows[stem] = (key, str(emotion), split)
        return list(rows), list(rows.values())

    def _folder_rows(self, skipped: Skipped) -> list[_Row]:
        splits = split_folders("rafdb", self.root, SPLITS)
        if not splits:
            raise MtlError(
                f"rafdb: {self.root} holds neither {LISTS[0]} nor the folders train and test"
            )
        note_unread_folders("rafdb", self.root, splits, skipped)
        rows: list[_Row] = []
        for name, split in splits.items():
            for folder in entries("rafdb", self.root / name):
                images = class_images("rafdb", folder, name, FOLDERS, skipped)
                emotion = str(FOLDERS.get(folder.name.lower(), ""))
                rows += [(key, emotion, split) for key in images]
        return rows

    def _people(
        self, names: list[str], skipped: Skipped
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The annotation "gender" and the attributes; both empty without the manual annotation."""
        folder = self.root / "Annotation" / "manual"
        if not folder.is_dir():
            return {}, {}
        people = [_person(folder / f"{name}_manu_attri.txt", skipped) for name in names]
        genders = strings(gender for gender, _, _ in people)
        races = strings(race for _, race, _ in people)
        age_bands = strings(age_band for _, _, age_band in people)
        return {"gender": genders}, {"race": races, "age_band": age_bands}


def _person(path: Path, skipped: Skipped) -> tuple[str, str, str]:
    """Gender, race and age band, the last three values of the file; "" where not known."""
    try:
        cells = " ".join(text_lines("rafdb", path)).split()
    except MtlError:
        cells = []
    if len(cells) >= 3:
        gender, race, age_band = cells[-3:]
        if gender in GENDERS and race in RACES and age_band in AGE_BANDS:
            return GENDERS[gender], RACES[race], AGE_BANDS[age_band]
    skipped.note("faces without a readable manual annotation: used without gender")
    return "", "", ""


@hookimpl
def mtl_components() -> list[type]:
    return [Rafdb]
