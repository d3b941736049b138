"""A dataset that is right, and for each check of the kit one that fails it and nothing else. BROKEN: the check -> the class.

All read a folder of images named <kind>_<number>.png, which `written` makes.
"""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path

import numpy as np
from attrs import frozen
from PIL import Image

from broken_plugins import Broken
from mtlcore import Dataset, Index, MtlError, read_image

BROKEN = Broken()
CALLS, KEPT = count(), {}


def written(root: Path) -> Path:
    """Eight small images, none like another."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 250, (10 + i, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{'ab'[i % 2]}_{i}.png")
    return root


@frozen
class Right(Dataset):
    """A folder of images whose names tell their kind."""

    root: Path

    def index(self):
        self.check()
        keys = np.array(self.names(), dtype=str)
        kinds = np.array([key[:1] for key in keys])
        return self.told(keys, kinds)

    def check(self):
        if not self.root.is_dir():
            raise MtlError(f"{self.root} is no folder")

    def names(self):
        return sorted(file.name for file in self.root.glob("*.png"))

    def told(self, keys, kinds):
        size = np.array([float(len(k)) for k in keys])
        return Index(keys, {"kind": kinds, "size": size}, group=kinds, attributes={"letter": kinds})

    def decode(self, index, sample):
        return self.image(str(index.keys[sample]))

    def image(self, key):
        return read_image(key, self.root)


@BROKEN.fails("index_holds_samples")
@frozen
class FindsNothing(Right):
    """It looks for other files."""

    def names(self):
        return []


@BROKEN.fails("keys_are_unique_names")
@frozen
class NamesTwice(Right):
    """Two samples of one key."""

    def names(self):
        return [super().names()[0], *super().names()]


@BROKEN.fails("columns_are_of_one_length")
@frozen
class LosesOne(Right):
    """An annotation that is too short."""

    def told(self, keys, kinds):
        return Index(keys, {"kind": kinds[1:]})


@BROKEN.fails("annotations_are_names_or_numbers")
@frozen
class CountsClasses(Right):
    """Categories as whole numbers."""

    def told(self, keys, kinds):
        return Index(keys, {"kind": (kinds == "a").astype(int)})


@BROKEN.fails("split_group_and_attributes_are_names")
@frozen
class NumbersGroups(Right):
    """Groups as whole numbers."""

    def told(self, keys, kinds):
        return Index(keys, {"kind": kinds}, group=(kinds == "a").astype(int))


@BROKEN.fails("index_repeats_itself")
@frozen
class TurnsAround(Right):
    """Another order each time."""

    def names(self):
        return list(np.roll(super().names(), next(CALLS)))


@BROKEN.fails("a_missing_root_is_named")
@frozen
class TakesAnyRoot(Right):
    """A folder that is not there holds no files."""

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
    """What it gives hangs on how often it was asked."""

    def image(self, key):
        return read_image(key, self.root) + np.uint8(next(CALLS) % 3)


@BROKEN.fails("images_are_the_callers_own")
@frozen
class KeepsImages(Right):
    """It hands out its own copy."""

    def image(self, key):
        if (self.root, key) not in KEPT:
            KEPT[self.root, key] = read_image(key, self.root)
        return KEPT[self.root, key]


@BROKEN.fails("threads_decode_the_same")
@frozen
class ForOneThread(Right):
    """In another thread it gives black images."""

    def image(self, key):
        alone = threading.current_thread() is threading.main_thread()
        return read_image(key, self.root) * np.uint8(alone)


@BROKEN.fails("a_copy_decodes_the_same")
@frozen
class OpensInIndex(Right):
    """What `decode` needs is known to the component that was indexed alone."""

    def index(self):
        KEPT[id(self)] = self
        return super().index()

    def image(self, key):
        return read_image(key, KEPT[id(self)].root)


@BROKEN.fails("unreadable_images_are_told")
@frozen
class OpensByItself(Right):
    """Whatever goes wrong is a traceback."""

    def image(self, key):
        return np.array(Image.open(self.root / key).convert("RGB"))


@BROKEN.fails("writes_nothing_beside_the_data")
@frozen
class WritesACache(Right):
    """A file more, beside the images."""

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
