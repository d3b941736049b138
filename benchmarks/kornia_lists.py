"""The augmentation `kornia` against `AugmentationSequential` of the same operations.

Both draw the same parameters in each round. The input is uint8 images, the output float images in
[0, 1] of the same size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import kornia.augmentation as K
import torch
from timing import Row, Variant, compare, cpu_times
from torch import Tensor, nn

from mtlcore import Rng
from mtlcore.augment.kornia_ops.augmentation import Kornia
from mtlcore.config.component import component

CROP = {"op": "RandomResizedCrop", "scale": [0.5, 1.0]}
MIRROR = {"op": "RandomHorizontalFlip"}
COLORS = {
    "op": "ColorJiggle",
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
    "hue": 0.05,
    "p": 0.8,
}
ERASE = {"op": "RandomErasing", "p": 0.3, "after_pretext": True}
LISTS: dict[str, list[dict[str, object]]] = {
    "docs": [CROP, MIRROR, COLORS, {"op": "RandAugment", "n": 2, "m": 9}, ERASE],
    "general": [CROP, MIRROR, {"op": "TrivialAugment"}, ERASE],
    "affine": [CROP, MIRROR, {"op": "RandomAffine", "degrees": 15.0, "p": 1.0}, ERASE],
    "affine_4": [
        CROP,
        MIRROR,
        {"op": "RandomRotation", "degrees": 15.0, "p": 1.0},
        {"op": "RandomShear", "shear": 10.0, "p": 1.0},
        {"op": "RandomTranslate", "translate_x": [-0.1, 0.1], "p": 1.0},
    ],
    "colors": [MIRROR, COLORS],
}
"""Name -> the operations. "docs" is the list of docs/augment.md."""

GOALS = {"affine": 0.6, "affine_4": 0.6}
"""Lists of which all movements become one warp."""

GATE = 1.1


def kornia_lists(size: int, rounds: int) -> list[Row]:
    """Return a row for each list, on 64 images of `size` pixels."""
    warnings.filterwarnings("ignore", module="kornia")
    batch = torch.randint(0, 256, (64, 3, size, size), dtype=torch.uint8)
    rows: list[Row] = []
    for name, ops in LISTS.items():
        augmentation = component("augmentation", "kornia", ops=ops)
        assert isinstance(augmentation, Kornia)
        variants = {"ours": _ours(augmentation, batch), "kornia": _kornias(augmentation, batch)}
        times = cpu_times(variants, rounds)
        row = compare(
            f"kornia_{name}_{size}",
            times["ours"],
            "kornia AugmentationSequential",
            times["kornia"],
            gate=GATE,
            goal=GOALS.get(name),
        )
        rows.append(row)
    return rows


def _ours(augmentation: Kornia, batch: Tensor) -> Variant:
    size = (batch.shape[-2], batch.shape[-1])
    seeds = _counter()

    def run() -> Tensor:
        rng = Rng(torch.Generator().manual_seed(seeds()), batch.device)
        view = augmentation.view(batch, size, rng)
        return augmentation.finish(view.images, rng)

    return run


def _kornias(augmentation: Kornia, batch: Tensor) -> Variant:
    size = (batch.shape[-2], batch.shape[-1])
    modules: list[nn.Module] = [op.build(size) for op in augmentation.ops]
    sequence = K.AugmentationSequential(*modules)
    seeds = _counter()

    def run() -> Tensor:
        torch.manual_seed(seeds())
        with torch.no_grad():
            augmented: Tensor = sequence(batch.float() / 255)
        return augmented.clamp_(0, 1)

    return run


def _counter() -> Callable[[], int]:
    """Return a function that returns 0, 1, 2, ..."""
    numbers = iter(range(10**9))
    return lambda: next(numbers)
