"""The dataset `image_mask`: images with masks of class numbers, in two folders.

There are two layouts:

- `root / images / *` and `root / masks / *`, without an official split;
- `root / <split> / images / *` and `root / <split> / masks / *`. The splits are train, val and
  test, by any of the names in `split_names`.

The mask of an image has its name, with an ending of its own: `images/a/1.jpg`, `masks/a/1.png`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from attrs import Attribute, field, frozen

from ..contracts import Categories, Dataset, Index, MapColumn, Sample, Skipped
from ..errors import MtlError
from ..files import is_folder
from .aligned import nearest_pixels
from .folder import IMAGES, images_below
from .images import read_image
from .masks import MASKS, mask_dtype, read_mask
from .split_names import SPLIT_NAMES, split_name

MOST_COLORS = 256
Colors = dict[str, tuple[int, ...]]


def _colors(_: object, __: Attribute[Colors], value: Colors) -> None:
    """each [red, green, blue] from 0 to 255, each once"""
    for name, color in value.items():
        if len(color) != 3 or not all(0 <= one <= 255 for one in color):
            raise ValueError(
                f"colors.{name} = {list(color)}: expected [red, green, blue], each from 0 to 255"
            )
    if len(set(value.values())) != len(value):
        raise ValueError("colors has a color twice; expected a color of its own for each class")
    if len(value) > MOST_COLORS:
        raise ValueError(f"colors has {len(value)} classes; expected at most {MOST_COLORS}")


class _Sample(NamedTuple):
    key: str
    mask: str
    split: str


@frozen
class ImageMask(Dataset):
    """Images and their masks of class numbers.

    root: the folder that holds the folders of images and masks, or the split folders.
    annotation: the name of the masks, which a task reads.
    images, masks: the names of both folders.
    resize_masks: masks of another size than their image are resized to it, by nearest neighbor.
    False: they are refused.
    colors: of masks in colors: name -> [red, green, blue]. The first color is the number 0.

    An image without a mask is a sample without this label. A "val" folder becomes the validation
    split of the run, and nothing is cut from train.
    """

    root: Path
    annotation: str = "mask"
    images: str = "images"
    masks: str = "masks"
    resize_masks: bool = False
    colors: Colors = field(factory=dict, validator=_colors)

    def index(self) -> Index:
        if not is_folder(self.root):
            raise MtlError(
                f"image_mask: root = {self.root} is not a folder; expected one that holds "
                f"{self.images} and {self.masks}, or a folder with both for each split"
            )
        skipped = Skipped()
        samples: list[_Sample] = []
        folders = self._folders()
        for folder, split in folders.items():
            samples += self._samples(folder, split, skipped)
        if not samples:
            raise MtlError(f"image_mask: {self.root} holds no image ({', '.join(IMAGES)})")
        has_mask = np.array([bool(sample.mask) for sample in samples])
        skipped.note(f"images without a mask, which have no {self.annotation!r}", (~has_mask).sum())
        splits: Categories | None = None
        if any(folders.values()):
            splits = Categories.of(sample.split for sample in samples)
        first = next((sample.mask for sample in samples if sample.mask), "")
        return Index(
            np.array([sample.key for sample in samples], dtype=object),
            {},
            split=splits,
            skipped=skipped,
            maps={self.annotation: MapColumn(has_mask, mask_dtype(self.root / first, self.colors))},
        )

    def decode(self, index: Index, i: int) -> Sample:
        key = str(index.keys[i])
        image = read_image(key, self.root)
        if not index.maps[self.annotation].present[i]:
            return Sample(image)
        mask = self._mask_of(key)
        if mask is None:
            raise MtlError(f"{key}: its mask is no longer there")
        numbers = read_mask(mask, self.colors)
        return Sample(image, {self.annotation: self._fitted(numbers, image, key)})

    def _fitted(self, mask: np.ndarray, image: np.ndarray, key: str) -> np.ndarray:
        """Return the mask in the size of its image."""
        height, width = image.shape[:2]
        if mask.shape == (height, width):
            return mask
        if not self.resize_masks:
            raise MtlError(
                f"{key}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                f"{width} x {height}; expected the same size (resize_masks = true resizes it)"
            )
        rows = nearest_pixels(mask.shape[0], height)
        return mask[rows[:, None], nearest_pixels(mask.shape[1], width)]

    def _folders(self) -> dict[str, str]:
        """Return folder below the root ("" for the root itself) -> split. Raises MtlError."""
        if (self.root / self.images).is_dir():
            self._require_masks(self.root)
            return {"": ""}
        found: dict[str, str] = {}
        for entry in sorted(self.root.iterdir()):
            split = split_name(entry.name)
            if split is not None and (entry / self.images).is_dir():
                self._require_masks(entry)
                found[f"{entry.name}/"] = split
        if not found:
            raise MtlError(
                f"image_mask: {self.root} has neither a folder {self.images!r} nor one in a folder "
                f"of a split ({', '.join(SPLIT_NAMES)}); set `images` and `masks` to the names of "
                "your folders"
            )
        return found

    def _require_masks(self, folder: Path) -> None:
        if not (folder / self.masks).is_dir():
            raise MtlError(
                f"image_mask: {folder} has the folder {self.images!r}, but no folder "
                f"{self.masks!r}; set `masks` to its name"
            )

    def _samples(self, folder: str, split: str, skipped: Skipped) -> list[_Sample]:
        """Return the samples of one folder. Masks without an image are skipped."""
        masks: dict[str, str] = {}
        of_masks = f"{folder}{self.masks}/"
        for key in images_below(self.root / of_masks, of_masks, skipped):
            stem, ending = _split_ending(key.removeprefix(of_masks))
            if ending not in MASKS:
                skipped.add(f"a mask that is none of {', '.join(MASKS)}", key)
                continue
            if stem in masks:
                raise MtlError(
                    f"image_mask: {self.root}: {masks[stem]} and {key} are masks of one image; "
                    "expected one: remove the other"
                )
            masks[stem] = key
        samples: list[_Sample] = []
        of_images = f"{folder}{self.images}/"
        stems: set[str] = set()
        for key in images_below(self.root / of_images, of_images, skipped):
            stem, _ = _split_ending(key.removeprefix(of_images))
            stems.add(stem)
            samples.append(_Sample(key, masks.get(stem, ""), split))
        for stem in sorted(masks.keys() - stems):
            skipped.add("a mask without an image", masks[stem])
        return samples

    def _mask_of(self, key: str) -> Path | None:
        """Return the file of the mask of an image, None if there is none."""
        folder = ""
        if not key.startswith(f"{self.images}/"):
            folder = key.partition("/")[0] + "/"  # of a split
        stem, _ = _split_ending(key.removeprefix(f"{folder}{self.images}/"))
        base = self.root / folder / self.masks
        files = (base / f"{stem}{ending}" for ending in _in_any_case(MASKS))
        return next((file for file in files if file.is_file()), None)


def _in_any_case(endings: tuple[str, ...]) -> Iterator[str]:
    """Yield the endings in lower case, in upper case, and in every mixture: ".Png"."""
    yield from endings
    yield from map(str.upper, endings)
    for ending in endings:
        yield from map("".join, product(*((one, one.upper()) for one in ending)))


def _split_ending(key: str) -> tuple[str, str]:
    """Split "a/1.PNG" into "a/1" and ".png"."""
    stem, dot, ending = key.rpartition(".")
    return stem, f"{dot}{ending}".lower()
