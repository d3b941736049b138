"""RAF-DB, basic emotions: 15,339 faces (Li et al., "Reliable Crowdsourcing and Deep Locality-Preserving Learning for
Expression Recognition in the Wild", CVPR 2017).

The release: `EmoLabel/list_patition_label.txt` (spelled so) with lines `train_00001.jpg 5`, the images
`Image/aligned/train_00001_aligned.jpg` (or `Image/original/train_00001.jpg`), and, where they are there,
`Annotation/manual/train_00001_manu_attri.txt`: five lines of landmarks, then gender, race and age range. Copies:
`train | test (or valid) / <1 ... 7, or an emotion> / *`. Not yet tried on the real set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from attrs import frozen

from mtlcore import Dataset, Index, MtlError, Skipped, hookimpl, nearest, read_image

from ..emotions import Emotion
from ._files import entries, first_folder, is_image, require_folder, strings, text_lines

EMOTIONS = {
    "1": Emotion.SURPRISE,
    "2": Emotion.FEAR,
    "3": Emotion.DISGUST,
    "4": Emotion.HAPPINESS,
    "5": Emotion.SADNESS,
    "6": Emotion.ANGER,
    "7": Emotion.NEUTRAL,
}
FOLDERS = EMOTIONS | {str(emotion): emotion for emotion in EMOTIONS.values()}
SPLITS = {
    "train": "train",
    "test": "test",
    "valid": "test",
    "val": "test",
}  # such copies give the test set that name
LISTS = (
    "EmoLabel/list_patition_label.txt",
    "EmoLabel/list_partition_label.txt",
    "list_patition_label.txt",
)
GENDERS = {"0": "male", "1": "female", "2": ""}  # 2: the annotators were not sure
RACES = {"0": "caucasian", "1": "african-american", "2": "asian"}
AGE_BANDS = {"0": "0-3", "1": "4-19", "2": "20-39", "3": "40-69", "4": "70+"}

_Row = tuple[str, str, str]  # key, emotion, split


@frozen
class Rafdb(Dataset):
    """root: the folder `basic` of the release, or the one that holds train and test. Annotations: "emotion"; "gender"
    where the release's manual annotation is there, with the attributes "race" and "age_band".
    """

    root: Path

    def index(self) -> Index:
        require_folder("rafdb", self.root, f"{LISTS[0]}, or the folders train and test")
        skipped = Skipped()
        listed = next((self.root / name for name in LISTS if (self.root / name).is_file()), None)
        if listed is None:
            return _index(self._folder_rows(skipped), {}, {}, skipped)
        names, rows = self._list_rows(listed, skipped)
        genders, attributes = self._people(names, skipped)
        return _index(rows, genders, attributes, skipped)

    def decode(self, index: Index, row: int) -> np.ndarray:
        return read_image(str(index.keys[row]), self.root)

    def _list_rows(self, listed: Path, skipped: Skipped) -> tuple[list[str], list[_Row]]:
        folder = first_folder(
            "rafdb", self.root, ("Image/aligned", "Image/original", "aligned", "original")
        )
        tail = "_aligned" if folder.name == "aligned" else ""
        below = folder.relative_to(self.root).as_posix()
        names: dict[str, None] = {}
        rows: list[_Row] = []
        for number, line in enumerate(text_lines("rafdb", listed), 1):
            name, _, label = line.strip().partition(" ")
            stem, split = Path(name).stem, name.partition("_")[0]
            if not line.strip():
                continue
            if (
                label.strip() not in EMOTIONS
                or split not in ("train", "test")
                or "/" in name
                or stem in names
            ):
                skipped.add(
                    "a line that is not <train|test>_<number>.jpg <1 ... 7>",
                    f"line {number}: {line[:40]!r}",
                )
                continue
            names[stem] = None
            rows.append(
                (f"{below}/{stem}{tail}{Path(name).suffix}", str(EMOTIONS[label.strip()]), split)
            )
        return list(names), rows

    def _folder_rows(self, skipped: Skipped) -> list[_Row]:
        splits = [name for name in SPLITS if (self.root / name).is_dir()]
        if not splits:
            raise MtlError(
                f"rafdb: {self.root} holds neither {LISTS[0]} nor the folders train and test"
            )
        rows = []
        for split in splits:
            for folder in entries("rafdb", self.root / split):
                emotion = FOLDERS.get(folder.name.lower())
                if emotion is None or not folder.is_dir():
                    skipped.add(
                        f"not a class folder ({nearest(folder.name.lower(), FOLDERS)})",
                        f"{split}/{folder.name}",
                    )
                    continue
                for file in entries("rafdb", folder.path):
                    key = f"{split}/{folder.name}/{file.name}"
                    if is_image(file.name):
                        rows.append((key, str(emotion), SPLITS[split]))
                    else:
                        skipped.add("not an image", key)
        return rows

    def _people(
        self, names: list[str], skipped: Skipped
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """-> the annotation "gender" and the attributes; none without the manual annotation."""
        folder = self.root / "Annotation" / "manual"
        if not folder.is_dir():
            return {}, {}
        people = [_person(folder / f"{name}_manu_attri.txt", skipped) for name in names]
        genders, races, ages = (strings(person[i] for person in people) for i in range(3))
        return {"gender": genders}, {"race": races, "age_band": ages}


def _index(
    rows: list[_Row],
    genders: dict[str, np.ndarray],
    attributes: dict[str, np.ndarray],
    skipped: Skipped,
) -> Index:
    keys, emotions, splits = (strings(row[i] for row in rows) for i in range(3))
    return Index(
        keys, {"emotion": emotions, **genders}, split=splits, attributes=attributes, skipped=skipped
    )


def _person(path: Path, skipped: Skipped) -> tuple[str, str, str]:
    """-> gender, race, age band: the last three values of the file; "" where they are not known."""
    try:
        cells = " ".join(text_lines("rafdb", path)).split()
    except MtlError:
        cells = []
    if (
        len(cells) < 3
        or cells[-3] not in GENDERS
        or cells[-2] not in RACES
        or cells[-1] not in AGE_BANDS
    ):
        skipped.note("faces without a readable manual annotation: they stay, without gender")
        return "", "", ""
    return GENDERS[cells[-3]], RACES[cells[-2]], AGE_BANDS[cells[-1]]


@hookimpl
def mtl_components() -> list[type]:
    return [Rafdb]
