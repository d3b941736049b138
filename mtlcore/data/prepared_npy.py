"""The dataset `prepared_npy`: NYUv2 and Cityscapes as LibMTL and MTAN prepare them.

    root / <split> / image / 0.npy    (H, W, 3) floats in [0, 1]
                   / label / 0.npy    (H, W) class numbers, -1 without a class
                   / depth / 0.npy    (H, W) or (H, W, 1) floats, 0 without a depth
                   / normal / 0.npy   (H, W, 3) floats, zeros without a direction

Lin & Zhang, "LibMTL: A Python Library for Multi-Task Learning", JMLR 2023, arXiv:2203.14338; Liu et
al., "End-to-End Multi-Task Learning with Attention", CVPR 2019, arXiv:1803.10704.

Not yet tried on the real sets: tests read files that are written in this layout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from attrs import frozen

from ..contracts import Categories, Dataset, Index, MapColumn, Sample, Skipped
from ..errors import MtlError
from ..files import is_folder
from .split_names import SPLIT_NAMES, split_name

IMAGE, DEPTH, NORMAL = "image", "depth", "normal"
LABEL_DTYPE = "int16"  # LibMTL stores class numbers as floats


@frozen
class PreparedNpy(Dataset):
    """NYUv2 and Cityscapes in LibMTL's layout, a file for each image and each label.

    root: the folder that holds the folders of the splits, such as train and val.
    label: the folder of the class numbers, such as "label_7" in Cityscapes.

    The maps are "label", "depth" and "normal". A map whose folder is missing does not exist.
    """

    root: Path
    label: str = "label"

    def index(self) -> Index:
        splits = self._splits()
        folders = {"label": self.label, DEPTH: DEPTH, NORMAL: NORMAL}
        skipped = Skipped()
        keys: list[str] = []
        names: list[str] = []
        present: dict[str, list[bool]] = {name: [] for name in folders}
        for folder, split in splits.items():
            files = {path.name for path in (self.root / folder / IMAGE).glob("*.npy")}
            has = {name: self._files(folder, of_map) for name, of_map in folders.items()}
            for file in sorted(files, key=_number):
                keys.append(f"{folder}/{IMAGE}/{file}")
                names.append(split)
                for name, listed in has.items():
                    present[name].append(file in listed)
        if not keys:
            raise MtlError(f"prepared_npy: {self.root} holds no <split>/{IMAGE}/*.npy")
        maps = {name: np.array(of_map) for name, of_map in present.items() if any(of_map)}
        for name, of_map in maps.items():
            skipped.note(f"images without a map {name!r}", int((~of_map).sum()))
        dtypes = {"label": (LABEL_DTYPE, None), DEPTH: ("float32", None), NORMAL: ("float32", 3)}
        return Index(
            np.array(keys, dtype=object),
            {},
            split=Categories.of(names),
            skipped=skipped,
            maps={name: MapColumn(of_map, *dtypes[name]) for name, of_map in maps.items()},
        )

    def decode(self, index: Index, i: int) -> Sample:
        key = str(index.keys[i])
        image = self._read(key)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype.kind != "f":
            raise MtlError(
                f"{key}: an image {image.shape} {image.dtype}; expected (H, W, 3) floats in [0, 1]"
            )
        maps: dict[str, np.ndarray] = {}
        for name, column in index.maps.items():
            if column.present[i]:
                folder = self.label if name == "label" else name
                found = self._read(key.replace(f"/{IMAGE}/", f"/{folder}/"))
                if column.channels is None and found.ndim == 3 and found.shape[2] == 1:
                    found = found[..., 0]
                maps[name] = found.astype(column.dtype)
        return Sample((image.clip(0, 1) * 255).round().astype(np.uint8), maps)

    def _splits(self) -> dict[str, str]:
        """Return folder -> split. Raises MtlError if there is none."""
        if not is_folder(self.root):
            raise MtlError(f"prepared_npy: root = {self.root} is not a folder")
        found: dict[str, str] = {}
        for entry in sorted(self.root.iterdir()):
            split = split_name(entry.name)
            if split is not None and (entry / IMAGE).is_dir():
                found[entry.name] = split
        if not found:
            raise MtlError(
                f"prepared_npy: {self.root} has no folder of a split ({', '.join(SPLIT_NAMES)}) "
                f"that holds {IMAGE}"
            )
        return found

    def _files(self, folder: str, of_map: str) -> set[str]:
        return {path.name for path in (self.root / folder / of_map).glob("*.npy")}

    def _read(self, key: str) -> np.ndarray:
        """Read one array. Raises MtlError if it can't be read."""
        try:
            # Without pickles: a file must not run code.
            found: np.ndarray = np.load(self.root / key, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise MtlError(f"{key} is not a readable .npy file: {error}") from error
        return found


def _number(name: str) -> tuple[int, str]:
    """Sort 2.npy before 10.npy."""
    stem = name.removesuffix(".npy")
    return (int(stem), name) if stem.isdecimal() else (-1, name)
