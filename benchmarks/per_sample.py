"""The augmentation `general` against torchvision's v2 transforms, sample by sample in 2 workers.

Both read uint8 images from memory and give float batches in [0, 1]. Wall time counts, since workers
share the work. The row `_cpu` compares the CPU time of all processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from loader import WORKERS, measured, rows
from timing import Row
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from mtlcore import Rng
from mtlcore.augment import General

BATCH = 64
IMAGES = 512


def general_rows(size: int, quick: bool) -> list[Row]:
    """Return the rows for images of size x size pixels."""
    images = torch.randint(0, 256, (IMAGES, 3, size, size), dtype=torch.uint8)
    variants = {"ours": _ours(images, size), "torch": _torch(images, size)}
    times = measured(variants, 3 if quick else 10)
    over = f"torchvision v2, {WORKERS} workers"
    return rows(f"general_{size}", times["ours"], over, times["torch"])


def _ours(images: Tensor, size: int) -> Callable[[], None]:
    augmentation = General()
    rng = Rng(torch.Generator().manual_seed(0), torch.device("cpu"))

    def run() -> None:
        order = torch.randperm(IMAGES)
        for chosen in order.split(BATCH):
            view = augmentation.view(images[chosen], (size, size), rng)
            augmentation.finish(view.images, rng)

    return run


class _Samples(TorchDataset[Tensor]):
    def __init__(self, images: Tensor, transform: v2.Transform) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        transformed: Tensor = self.transform(self.images[index])
        return transformed


def _torch(images: Tensor, size: int) -> Callable[[], None]:
    """As users of torchvision write it. The workers start anew in each round: it takes 0.1 s."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, (0.5, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.TrivialAugmentWide(),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomErasing(0.25, value=0.5),
        ]
    )
    made = DataLoader(
        _Samples(images, transform), batch_size=BATCH, shuffle=True, num_workers=WORKERS
    )

    def run() -> None:
        for batch in made:
            assert len(batch) == BATCH

    return run
