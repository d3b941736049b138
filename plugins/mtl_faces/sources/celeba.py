"""CelebA: 202,599 aligned faces with forty attributes (Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015).

`img_align_celeba/000001.jpg`; `list_attr_celeba.txt`: a count, the names, then rows of 1 and -1; and
`list_eval_partition.txt`: 0 train, 1 validation, 2 test. They lie beside each other, or in the release's `Img`, `Anno`,
`Eval`; the same tables as .csv are read too. Not yet tried on the real set.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from attrs import field, frozen

from mtlcore import Dataset, Index, MtlError, Skipped, hookimpl, nearest, read_image

from ._files import first_folder, require_folder, strings, text_lines

SPLITS = {"0": "train", "1": "validation", "2": "test"}
VALUES = {"1": True, "-1": False, "0": False}
GENDERS = {True: "male", False: "female"}
_NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair Blurry "
    "Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
)
ATTRIBUTES = tuple(_NAMES.split())
IMAGES = ("img_align_celeba/img_align_celeba", "img_align_celeba", "Img/img_align_celeba")


@frozen
class Celeba(Dataset):
    """root: the folder that holds img_align_celeba and the two tables. Annotations: "gender" ("male", "female"), and
    "attributes", the names of those that a face has, joined by "|", as the task `multilabel` reads them.

    attributes: which are told of (default: all forty, which takes a few hundred MB of names on the whole set).
    """

    root: Path
    attributes: tuple[str, ...] = field(default=ATTRIBUTES)

    @attributes.validator
    def _known(self, _: object, value: tuple[str, ...]) -> None:
        for name in value:
            if name not in ATTRIBUTES:
                raise ValueError(f"no attribute {name!r}; {nearest(name, ATTRIBUTES)}")

    def index(self) -> Index:
        require_folder(
            "celeba",
            self.root,
            "img_align_celeba, list_attr_celeba.txt and list_eval_partition.txt",
        )
        skipped = Skipped()
        folder = first_folder("celeba", self.root, IMAGES).relative_to(self.root).as_posix()
        partition = dict(
            cells[:2] for cells in _cells(self._table("list_eval_partition")) if len(cells) == 2
        )
        rows = self._rows(skipped)
        for name in [name for name in rows if partition.get(name) not in SPLITS]:
            skipped.add("an image that list_eval_partition does not place", name)
            del rows[name]
        attributes = (
            "|".join(name for name in self.attributes if has[name])
            or "|"  # none of them, which is not "not known"
            for has in rows.values()
        )
        return Index(
            strings(f"{folder}/{name}" for name in rows),
            {
                "gender": strings(GENDERS[has["Male"]] for has in rows.values()),
                "attributes": strings(attributes),
            },
            split=strings(SPLITS[partition[name]] for name in rows),
            skipped=skipped,
        )

    def decode(self, index: Index, row: int) -> np.ndarray:
        return read_image(str(index.keys[row]), self.root)

    def _table(self, name: str) -> Path:
        places = [
            self.root / below / f"{name}{end}"
            for below in ("", "Anno", "Eval")
            for end in (".txt", ".csv")
        ]
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise MtlError(
                f"celeba: {self.root} holds no {name}.txt (looked in it, in Anno and in Eval)"
            )
        return found

    def _rows(self, skipped: Skipped) -> dict[str, dict[str, bool]]:
        """image -> attribute -> does the face have it?"""
        path = self._table("list_attr_celeba")
        lines = list(_cells(path))
        if lines and len(lines[0]) == 1:  # the count
            lines = lines[1:]
        names = [cell for cell in (lines[0] if lines else []) if cell != "image_id"]
        if sorted(names) != sorted(ATTRIBUTES):
            raise MtlError(
                f"celeba: {path} must name the set's {len(ATTRIBUTES)} attributes; got {' '.join(names)[:80]!r}"
            )
        rows: dict[str, dict[str, bool]] = {}
        for image, *values in lines[1:]:
            good = len(values) == len(names) and all(value in VALUES for value in values)
            if not good or image in rows or Path(image).name != image:
                skipped.add(
                    f"a row that is not an image and {len(names)} values of 1 or -1", image[:40]
                )
                continue
            rows[image] = {name: VALUES[value] for name, value in zip(names, values)}
        return rows


def _cells(path: Path) -> list[list[str]]:
    """The cells of each line that is not empty, between commas or spaces."""
    lines = (re.split(r"[,\s]+", line.strip()) for line in text_lines("celeba", path))
    return [cells for cells in lines if cells != [""]]


@hookimpl
def mtl_components() -> list[type]:
    return [Celeba]
