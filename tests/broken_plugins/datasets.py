"""A right dataset, and for each check of the kit one that fails this check only.

BROKEN: check -> class. All read a folder of images named <kind>_<number>.png, see `written`.
"""

from __future__ import annotations

import io
import threading
from itertools import count
from pathlib import Path

import numpy as np
from attrs import evolve, frozen
from PIL import Image

from broken_plugins import Broken
from mtlcore import Dataset, Index, MapColumn, MtlError, PointColumn, Sample, read_file, read_image

BROKEN = Broken()
CALLS, STORED, MAPS = count(), {}, {}


def written(root: Path) -> Path:
    """Write eight different small images; return the folder."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 250, (10 + i, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{'ab'[i % 2]}_{i}.png")
    return root


@frozen
class Right(Dataset):
    """A folder of images with their kind in the file name."""

    root: Path

    def index(self):
        self.check()
        keys = np.array(self.names(), dtype=str)
        kinds = np.array([key[:1] for key in keys])
        return self.make_index(keys, kinds)

    def check(self):
        if not self.root.is_dir():
            raise MtlError(f"{self.root} is not a folder")

    def names(self):
        return sorted(file.name for file in self.root.glob("*.png"))

    def make_index(self, keys, kinds):
        size = np.array([float(len(k)) for k in keys])
        return Index(keys, {"kind": kinds, "size": size}, group=kinds, attributes={"letter": kinds})

    def decode(self, index, sample):
        return Sample(self.image(str(index.keys[sample])))

    def image(self, key):
        return read_image(key, self.root)


@frozen
class Listed(Right):
    """The same. `root` is a list of images, by their paths from its folder."""

    def check(self):
        missing = [name for name in self.names() if not (self.root.parent / name).exists()]
        if missing:
            raise MtlError(f"{self.root}: {missing[0]} is missing")

    def names(self):
        return read_file(self.root).decode().split()

    def image(self, key):
        file = self.root.parent / key
        return read_image(file.name, file.parent)


@frozen
class ListedCarelessly(Listed):
    """It expects missing images, and no damaged ones."""

    def check(self):
        pass

    def image(self, key):
        if not (self.root.parent / key).exists():
            raise MtlError(f"{key} is missing")
        return np.array(Image.open(self.root.parent / key).convert("RGB"))


@frozen
class Mapped(Right):
    """The same. `index` maps the files into memory."""

    def index(self):
        for name in self.names():
            MAPS[self.root / name] = np.memmap(self.root / name, mode="r")
        return super().index()

    def image(self, key):
        content = io.BytesIO(MAPS[self.root / key].tobytes())
        return np.array(Image.open(content).convert("RGB"))


@BROKEN.fails("index_holds_samples")
@frozen
class FindsNothing(Right):
    """It looks for other files."""

    def names(self):
        return []


@BROKEN.fails("keys_are_unique_names")
@frozen
class NamesTwice(Right):
    """Two samples have the same key."""

    def names(self):
        return [super().names()[0], *super().names()]


@BROKEN.fails("columns_have_equal_length")
@frozen
class LosesOne(Right):
    """An annotation that is too short."""

    def make_index(self, keys, kinds):
        return Index(keys, {"kind": kinds[1:]})


@BROKEN.fails("annotations_are_names_or_numbers")
@frozen
class CountsClasses(Right):
    """Categories as whole numbers."""

    def make_index(self, keys, kinds):
        return Index(keys, {"kind": (kinds == "a").astype(int)})


@BROKEN.fails("split_group_and_attributes_are_names")
@frozen
class NumbersGroups(Right):
    """Groups as whole numbers."""

    def make_index(self, keys, kinds):
        return Index(keys, {"kind": kinds}, group=(kinds == "a").astype(int))


@BROKEN.fails("index_is_repeatable")
@frozen
class TurnsAround(Right):
    """Another order each time."""

    def names(self):
        return list(np.roll(super().names(), next(CALLS)))


@BROKEN.fails("a_missing_root_raises_mtl_error")
@frozen
class TakesAnyRoot(Right):
    """It treats a missing folder as an empty one."""

    def check(self):
        pass


@BROKEN.fails("decodes_images")
@frozen
class DecodesGray(Right):
    """It decodes one channel alone."""

    def image(self, key):
        return read_image(key, self.root)[:, :, 0]


@BROKEN.fails("samples_decode_in_any_order")
@frozen
class ReadsOn(Right):
    """Its images depend on the number of calls."""

    def image(self, key):
        return read_image(key, self.root) + np.uint8(next(CALLS) % 3)


@BROKEN.fails("decoded_images_are_independent_copies")
@frozen
class KeepsImages(Right):
    """It returns its own copy."""

    def image(self, key):
        if (self.root, key) not in STORED:
            STORED[self.root, key] = read_image(key, self.root)
        return STORED[self.root, key]


@BROKEN.fails("threads_decode_the_same")
@frozen
class ForOneThread(Right):
    """In other threads its images are black."""

    def image(self, key):
        alone = threading.current_thread() is threading.main_thread()
        return read_image(key, self.root) * np.uint8(alone)


@BROKEN.fails("a_copy_decodes_the_same")
@frozen
class OpensInIndex(Right):
    """`decode` needs what `index` stored beside the component."""

    def index(self):
        STORED[id(self)] = self
        return super().index()

    def image(self, key):
        return read_image(key, STORED[id(self)].root)


@BROKEN.fails("unreadable_images_raise_mtl_error")
@frozen
class OpensWithoutReadImage(Right):
    """Any failure is a traceback."""

    def image(self, key):
        return np.array(Image.open(self.root / key).convert("RGB"))


@BROKEN.fails("leaves_the_data_folder_unchanged")
@frozen
class WritesACache(Right):
    """It writes files next to the images."""

    def image(self, key):
        (self.root / f"cache_{next(CALLS)}.txt").write_text(key)
        return read_image(key, self.root)


@BROKEN.fails("leaves_global_generators_alone")
@frozen
class SeedsNumpy(Right):
    """It seeds numpy's global generator."""

    def check(self):
        super().check()
        np.random.seed(0)


@frozen
class WithMaps(Right):
    """Every second sample has a map; all have two points."""

    def make_index(self, keys, kinds):
        has_map = np.arange(len(keys)) % 2 == 1
        return Index(
            keys,
            {"kind": kinds},
            maps={"mask": MapColumn(has_map, "uint16")},
            points={"eyes": PointColumn(np.full(len(keys), True), 2)},
        )

    def decode(self, index, sample):
        image = self.image(str(index.keys[sample]))
        maps = {"mask": self.mask(image)} if index.maps["mask"].present[sample] else {}
        points = np.array([[1.0, 2.0], [np.nan, np.nan]])
        return Sample(image, maps, {"eyes": points})

    def mask(self, image):
        return image[..., 0].astype(np.uint16)


@BROKEN.fails("maps_and_points_are_as_declared")
@frozen
class WiderMask(WithMaps):
    """Its map has another dtype than declared."""

    def mask(self, image):
        return image[..., 0].astype(np.int32)


@BROKEN.fails("labels_have_different_names")
@frozen
class OneNameTwice(WithMaps):
    """An annotation has the name of a map."""

    def make_index(self, keys, kinds):
        index = super().make_index(keys, kinds)
        return evolve(index, annotations={"mask": kinds})
