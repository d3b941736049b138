"""UTKFace: aligned faces with age, gender and ethnicity in their file names.

Zhang et al., "Age Progression / Regression by Conditional Adversarial Autoencoder", CVPR 2017.

Names are `<age>_<gender>_<race>_<date and time>.jpg` or `.jpg.chip.jpg`. Gender 0 is male, 1
female. Race 0 ... 4 is white, black, asian, indian, other. Some names lack a field. Which one is
not known, so they are left out and counted. There is no official split.
"""

from __future__ import annotations

import re
from pathlib import Path

from attrs import frozen

from mtlcore import Dataset, Index, MtlError, Sample, Skipped, hookimpl, read_image

from ._files import entries, floats, is_image, require_folder, strings

GENDERS = {"0": "male", "1": "female"}
RACES = {"0": "white", "1": "black", "2": "asian", "3": "indian", "4": "other"}
AGE_BANDS = ("0-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")
OLDEST = 116  # years, by the dataset's own description
EXAMPLE = "25_1_2_20170116174525125.jpg"
NAME = re.compile(
    r"([0-9]{1,3})_([01])_([0-4])_[0-9]+\.(?:jpg|jpeg|png)(?:\.chip\.jpg)?", re.IGNORECASE
)


@frozen
class Utkface(Dataset):
    """Read UTKFace: annotations "gender" ("male", "female") and "age" (years, float).

    Attributes, for metrics by group: "race" and "age_band".

    root: the folder of the images.
    """

    root: Path

    def index(self) -> Index:
        require_folder("utkface", self.root, f"images such as {EXAMPLE}.chip.jpg")
        skipped = Skipped()
        keys: list[str] = []
        ages: list[int] = []
        genders: list[str] = []
        races: list[str] = []
        for entry in entries("utkface", self.root):
            if not is_image(entry.name):
                skipped.add("not an image", entry.name)
                continue
            fields = NAME.fullmatch(entry.name)
            if fields is None or int(fields[1]) > OLDEST:
                skipped.add("a name that is not <age>_<gender>_<race>_<date>", entry.name)
                continue
            keys.append(entry.name)
            ages.append(int(fields[1]))
            genders.append(GENDERS[fields[2]])
            races.append(RACES[fields[3]])
        if not keys:
            raise MtlError(f"utkface: {self.root} holds no image with a name such as {EXAMPLE}")
        return Index(
            strings(keys),
            {"gender": strings(genders), "age": floats(ages)},
            attributes={"race": strings(races), "age_band": strings(map(_band, ages))},
            skipped=skipped,
        )

    def decode(self, index: Index, i: int) -> Sample:
        return Sample(read_image(str(index.keys[i]), self.root))


def _band(age: int) -> str:
    return AGE_BANDS[min(age // 10, len(AGE_BANDS) - 1)]


@hookimpl
def mtl_components() -> list[type]:
    return [Utkface]
