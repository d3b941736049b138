"""The data of the suite `dense`: CamVid, and the distance of each pixel to the next boundary."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from attrs import evolve, frozen
from scipy.ndimage import distance_transform_edt

from mtlcore import DenseRegression, Index, MapColumn, Sample, Segmentation
from mtlcore.augment.levels import Validation
from mtlcore.config.experiment import DataEntry, Experiment, Input, Schedule, TaskEntry, Train
from mtlcore.data.image_mask import ImageMask
from mtlcore.encoders.timm_nets import Timm
from mtlcore.optimizers import AdamW
from mtlcore.weighting import Equal

DATA = "MTLCORE_BENCH_DATA"
CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
VOID, FAR = 11, 20.0  # FAR: pixels, a typical distance
SIZE, SMALL = (180, 240), (45, 60)  # SMALL: of a rehearsal
BATCH, LR = 8, 3e-4
ENDLESS = 1_000_000  # steps, more than any measurement takes
NO_CLIP = 1e9


def distances(mask: np.ndarray) -> np.ndarray:
    """Return (H, W) float32: how far each pixel of a mask is from a pixel of another class."""
    edge = np.zeros(mask.shape, dtype=bool)
    across, down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    if not edge.any():
        return np.zeros(mask.shape, dtype=np.float32)
    found: np.ndarray = distance_transform_edt(~edge).astype(np.float32)
    return found


@frozen
class CamvidDistances(ImageMask):
    """CamVid with a second map, "distance"."""

    def index(self) -> Index:
        index = super().index()
        present = index.maps[self.annotation].present
        return evolve(index, maps={**index.maps, "distance": MapColumn(present, "float32")})

    def decode(self, index: Index, i: int) -> Sample:
        sample = super().decode(index, i)
        return evolve(sample, maps={**sample.maps, "distance": distances(sample.maps["mask"])})


@frozen
class MadeUp(CamvidDistances):
    """Random images and blocky masks of one size."""

    root: Path = Path()
    size: tuple[int, int] = SIZE

    def index(self) -> Index:
        n = 40
        present = np.ones(n, dtype=bool)
        maps = {"mask": MapColumn(present, "uint8"), "distance": MapColumn(present, "float32")}
        split = np.where(np.arange(n) < 32, "train", "validation")
        return Index(np.arange(n).astype(str), {}, split=split, maps=maps)

    def decode(self, index: Index, i: int) -> Sample:
        rng = np.random.default_rng(i)
        blocks = rng.integers(0, 12, (9, 12), dtype=np.uint8)
        mask = blocks.repeat(self.size[0] // 9, 0).repeat(self.size[1] // 12, 1)
        image = rng.integers(0, 256, (*self.size, 3), dtype=np.uint8)
        return Sample(image, {"mask": mask, "distance": distances(mask)})


def camvid() -> Path | None:
    """Return the folder of CamVid; None if MTLCORE_BENCH_DATA is not set."""
    folder = os.environ.get(DATA)
    if not folder:
        return None
    root = Path(folder, "camvid")
    inner = root / "camvid"  # as the tar unpacks
    return inner if inner.is_dir() else root


def experiment(seed: int = 0, steps: int = ENDLESS, size: tuple[int, int] = SIZE) -> Experiment:
    """Return the experiment of our side.

    size: (height, width) of the images.
    """
    root = camvid()
    dataset = CamvidDistances(root) if root else MadeUp(size=size)
    validation = Validation(crop=1.0)
    segmentation = Segmentation(CLASSES, "mask", ignore_index=VOID, normalize="batch")
    distance = DenseRegression("distance", scale=FAR, normalize="batch")
    return Experiment(
        encoder=Timm("resnet18"),
        tasks={"segmentation": TaskEntry(segmentation), "distance": TaskEntry(distance)},
        pretexts={},
        data={"camvid": DataEntry(dataset)},
        weighting=Equal(),
        augment=validation,
        augmentations={"validation": validation},
        input=Input(size=size, batch_size=BATCH, eval_batch_size=BATCH, cache_size=size),
        optimizer=AdamW(lr=LR, weight_decay=0.0),
        schedule=Schedule(name="constant", warmup=0),
        train=Train(steps=steps, clip=NO_CLIP),
        seed=seed,
    )
