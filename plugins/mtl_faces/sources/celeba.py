"""CelebA: 202,599 aligned faces with forty attributes.

Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015.

- `img_align_celeba/000001.jpg`
- `list_attr_celeba.txt`: a count, the names, then rows of 1 and -1
- `list_eval_partition.txt`: 0 train, 1 validation, 2 test

These are beside each other, or in the release's folders `Img`, `Anno` and `Eval`. The tables may
also be .csv files. Not yet tested on the real dataset.
"""

from __future__ import annotations

import re
from pathlib import Path

from attrs import Attribute, field, frozen

from mtlcore import Dataset, Index, MtlError, Sample, Skipped, hookimpl, nearest, read_image

from ._files import first_file, first_folder, require_folder, strings, text_lines

SPLITS = {"0": "train", "1": "validation", "2": "test"}
VALUES = {"1": True, "-1": False, "0": False}
GENDERS = {True: "male", False: "female"}
_NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
    "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
)
ATTRIBUTES = tuple(_NAMES.split())
IMAGES = ("img_align_celeba/img_align_celeba", "img_align_celeba", "Img/img_align_celeba")
TABLES = tuple(
    f"{folder}{{name}}{end}" for folder in ("", "Anno/", "Eval/") for end in (".txt", ".csv")
)


@frozen
class Celeba(Dataset):
    """Read CelebA: annotations "gender" ("male", "female") and "attributes".

    "attributes" holds the names of a face's attributes, joined by "|", as the task `multilabel`
    reads them.

    root: the folder that holds img_align_celeba and the two tables.
    attributes: names to read. The default, all forty, needs a few hundred MB for the whole dataset.
    """

    root: Path
    attributes: tuple[str, ...] = field(default=ATTRIBUTES)

    @attributes.validator
    def _known(self, _: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
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
        lines = _cells(self._table("list_eval_partition"))
        partition = dict(cells[:2] for cells in lines if len(cells) == 2)
        faces = self._faces(skipped)
        for name in [name for name in faces if partition.get(name) not in SPLITS]:
            skipped.add("an image that list_eval_partition does not place", name)
            del faces[name]
        return Index(
            strings(f"{folder}/{name}" for name in faces),
            {
                "gender": strings(GENDERS[face["Male"]] for face in faces.values()),
                "attributes": strings(self._joined(face) for face in faces.values()),
            },
            split=strings(SPLITS[partition[name]] for name in faces),
            skipped=skipped,
        )

    def decode(self, index: Index, i: int) -> Sample:
        return Sample(read_image(str(index.keys[i]), self.root))

    def _joined(self, face: dict[str, bool]) -> str:
        """The names of the face's attributes, joined."""
        # "|" alone means that the face has none of them; "" would mean "not known".
        return "|".join(name for name in self.attributes if face[name]) or "|"

    def _table(self, name: str) -> Path:
        found = first_file(self.root, (place.format(name=name) for place in TABLES))
        if found is None:
            raise MtlError(
                f"celeba: {self.root} holds no {name}.txt (searched there, in Anno and in Eval)"
            )
        return found

    def _faces(self, skipped: Skipped) -> dict[str, dict[str, bool]]:
        """Read image -> attribute -> does the face have it?"""
        path = self._table("list_attr_celeba")
        lines = _cells(path)
        if lines and len(lines[0]) == 1:  # the count
            lines = lines[1:]
        header = lines[0] if lines else []
        names = [cell for cell in header if cell != "image_id"]
        if sorted(names) != sorted(ATTRIBUTES):
            raise MtlError(
                f"celeba: {path} must name the dataset's {len(ATTRIBUTES)} attributes; "
                f"got {' '.join(names)[:80]!r}"
            )
        faces: dict[str, dict[str, bool]] = {}
        for image, *values in lines[1:]:
            good = len(values) == len(names) and all(value in VALUES for value in values)
            if not good or image in faces or Path(image).name != image:
                skipped.add(
                    f"a row that is not an image and {len(names)} values of 1 or -1", image[:40]
                )
                continue
            faces[image] = {name: VALUES[value] for name, value in zip(names, values)}
        return faces


def _cells(path: Path) -> list[list[str]]:
    """The cells of each non-empty line, separated by commas or spaces."""
    lines = (re.split(r"[,\s]+", line.strip()) for line in text_lines("celeba", path))
    return [cells for cells in lines if cells != [""]]


@hookimpl
def mtl_components() -> list[type]:
    return [Celeba]
