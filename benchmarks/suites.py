"""The suites of `benchmarks/run.py`. Each returns rows; a row's gate is judged on the full run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from baselines import HandNet, HandStep, kornia_strong, kornia_weak
from ours import CLASSES, experiment, labels, pictures, stepper
from timing import Row, Variant, compare, cpu_times

from mtl_pretexts.puzzling import Puzzling
from mtlcore import Rng
from mtlcore.augment.recipes import Strong, Weak
from mtlcore.encoders.resnet_small import ResnetSmall

BATCH, SIZE = 64, 64
ENCODER = ResnetSmall(width=16, stem_stride=2)
DIM = 8 * ENCODER.width


def _ours(tasks: int, puzzling: Puzzling | None = None, **views: object) -> Variant:
    pixels, targets = pictures(SIZE), labels(tasks)
    return stepper(experiment(ENCODER, SIZE, BATCH, tasks, puzzling, **views), pixels, targets).advance


def step(quick: bool) -> list[Row]:
    """One training step with K tasks against the same step by hand."""
    rows = []
    for k in (1, 3, 5):
        hand = HandStep(HandNet(ENCODER, SIZE, DIM, [CLASSES] * k), pictures(SIZE), labels(k), BATCH)
        times = cpu_times({"ours": _ours(k), "hand": hand}, rounds=15 if quick else 120)
        rows.append(compare(f"k{k}", times["ours"], "plain PyTorch", times["hand"], gate=1.05, goal=1.02))
    return rows


def pretext_cost(quick: bool) -> list[Row]:
    """What puzzling costs over our own supervised step."""
    puzzling = Puzzling(grid=2, head="spatial")
    variants: dict[str, Variant] = {
        "supervised": _ours(1),
        "puzzling_1view": _ours(1, puzzling, supervised="pretext"),
        "puzzling_2views": _ours(1, puzzling, forward="joint"),
    }
    times = cpu_times(variants, rounds=15 if quick else 100)
    gates = {"puzzling_1view": (1.05, 1.02), "puzzling_2views": (2.1, None)}
    return [compare(k, times[k], "the supervised step", times["supervised"], *gates[k]) for k in gates]


def augment(quick: bool) -> list[Row]:
    """Our recipes against kornia's `AugmentationSequential` of the same operations; uint8 pictures in, floats out."""
    rows = []
    kinds: dict[str, tuple[Weak | Strong, Callable[[int], torch.nn.Module]]] = {
        "weak": (Weak(), kornia_weak),
        "strong": (Strong(), kornia_strong),
    }
    for size in (112, 224):
        images = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8)
        for kind, (recipe, make) in kinds.items():
            theirs, rng = make(size), Rng(torch.Generator().manual_seed(0), torch.device("cpu"))

            def ours(recipe: Weak | Strong = recipe, images: torch.Tensor = images, rng: Rng = rng) -> torch.Tensor:
                view = recipe.view(images, tuple(images.shape[-2:]), rng)  # type: ignore[arg-type]
                return recipe.finish(view.images, rng)

            def kornia(theirs: torch.nn.Module = theirs, images: torch.Tensor = images) -> torch.Tensor:
                return theirs(images.float() / 255).clamp_(0, 1)

            times = cpu_times({"ours": ours, "kornia": kornia}, rounds=5 if quick else 30)
            rows.append(compare(f"{kind}_{size}", times["ours"], "kornia AugmentationSequential", times["kornia"]))
    return rows


SUITES: dict[str, Callable[[bool], list[Row]]] = {"step": step, "pretext-cost": pretext_cost, "augment": augment}
