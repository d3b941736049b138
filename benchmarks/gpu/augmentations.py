"""(c) Images a second of augmentations, from uint8 images on the device to floats in [0, 1].

Ours, kornia's AugmentationSequential of the same operations, and torchvision's v2 transforms, which
draw ONE set of parameters for the whole batch, not one for each image.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from baselines import kornia_strong, kornia_weak
from kornia_lists import LISTS
from torch import Tensor, nn
from torchvision.transforms import v2

from mtlcore import Augmentation, Rng, component
from mtlcore.augment.kornia_ops.augmentation import Kornia
from mtlcore.augment.levels import Strong, Weak

from .bench import Bench, Row

ONE_DRAW = "one set of parameters for the batch"


def augmentations(bench: Bench) -> None:
    warnings.filterwarnings("ignore", module="kornia")
    sizes = (24,) if bench.tiny else (224, 64)
    for size in sizes:
        _at(bench, size)


def _at(bench: Bench, size: int) -> None:
    n = bench.size(256, 4)
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8).to(bench.device)
    recipe = component("augmentation", "kornia", ops=LISTS["docs"])
    ours: dict[str, Augmentation] = {
        "weak": Weak(),
        "strong": Strong(),
        "general": component("augmentation", "general"),
        "kornia": recipe,
    }
    for name, augmentation in ours.items():
        work = _ours(augmentation, images)
        bench.case(f"ours_{name}_{size}", lambda work=work: bench.images_s(work, n, 2.0))

    rivals: dict[str, Callable[[], nn.Module]] = {
        "weak": lambda: kornia_weak(size),
        "strong": lambda: kornia_strong(size),
        "kornia": lambda: _sequential(recipe, size),
    }
    for name, build in rivals.items():
        bench.case(f"rival_kornia_{name}_{size}", _rival(bench, build, images, f"{name}_{size}"))
    for name, build in (("weak", _v2_weak), ("strong", _v2_strong)):
        measure = _rival(bench, lambda build=build: build(size), images, f"{name}_{size}")
        bench.case(
            f"rival_torchvision_{name}_{size}",
            lambda measure=measure: {**measure(), "note": ONE_DRAW},
        )


def _ours(augmentation: Augmentation, images: Tensor) -> Callable[[], Tensor]:
    height, width = images.shape[-2:]
    generator = torch.Generator().manual_seed(0)
    rng = Rng(generator, images.device)

    def work() -> Tensor:
        view = augmentation.view(images, (height, width), rng)
        return augmentation.finish(view.images, rng)

    return work


def _rival(
    bench: Bench, build: Callable[[], nn.Module], images: Tensor, same_as: str
) -> Callable[[], Row]:
    def measure() -> Row:
        module = build()

        def work() -> Tensor:
            with torch.no_grad():
                augmented: Tensor = module(images.float() / 255)
            return augmented.clamp_(0, 1)

        row = bench.images_s(work, len(images), 2.0)
        # Ours over the rival: more than 1 means that ours is faster.
        ours = bench.rows.get(f"ours_{same_as}", {}).get("value")
        return {**row, "ours_over_it": round(ours / row["value"], 3) if ours else None}

    return measure


def _sequential(recipe: Augmentation, size: int) -> nn.Module:
    import kornia.augmentation as K

    assert isinstance(recipe, Kornia)
    modules = [op.build((size, size)) for op in recipe.ops]
    return K.AugmentationSequential(*modules)


def _v2_weak(size: int) -> nn.Module:
    return v2.Compose(_v2_moved(size, 15.0))


def _v2_strong(size: int) -> nn.Module:
    cutout = (60 / 224) ** 2
    return v2.Compose(
        [
            *_v2_moved(size, 20.0),
            v2.ColorJitter(brightness=0.05),
            v2.GaussianNoise(sigma=0.025),
            v2.RandomApply([v2.GaussianBlur(3, 1.5)], p=0.5),
            v2.RandomErasing(1.0, scale=(cutout, cutout), ratio=(1.0, 1.0), value=0.5),
        ]
    )


def _v2_moved(size: int, turn_deg: float) -> list[nn.Module]:
    bilinear = v2.InterpolationMode.BILINEAR
    return [
        v2.RandomHorizontalFlip(),
        v2.RandomRotation(turn_deg, bilinear),
        v2.RandomResizedCrop(size, (0.69**2, 0.99**2), (1.0, 1.0), bilinear),
        v2.ColorJitter(contrast=0.4),
    ]
