"""The suites of `benchmarks/run.py`. Each returns rows; a row's gate is judged on the full run."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from baselines import HandMixedStep, HandNet, HandStep, kornia_strong, kornia_weak
from mtl_pretexts.inpainting import Inpainting
from mtl_pretexts.puzzling import Puzzling
from ours import CLASSES, experiment, images, labels, stepper, where_it_goes
from timing import Row, Variant, compare, cpu_times
from weighting import weighting

from mtlcore import PretextTask, Rng
from mtlcore.augment.levels import Strong, Weak
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.model.inference import Inference
from mtlcore.train.trainer import Trainer

BATCH, SIZE = 64, 64
ENCODER = ResnetSmall(width=16, stem_stride=2)
DIM = 8 * ENCODER.width


SIAMESE = Puzzling(grid=2, scales=((113 / 112, 128 / 112), (1.0, 1.0), (64 / 112, 111 / 112)))


def _loop(
    tasks: int, pretext: PretextTask | None = None, datasets: int = 1, **views: object
) -> Trainer:
    pixels, targets = images(SIZE), labels(tasks)
    return stepper(
        experiment(ENCODER, SIZE, BATCH, tasks, pretext, datasets, **views), pixels, targets
    )


def step(quick: bool) -> list[Row]:
    """One training step with K tasks against the same step by hand; `mixed`: of K datasets, each labeling one task."""
    rows, rounds = [], 15 if quick else 120
    for k in (1, 3, 5):
        hand = HandStep(HandNet(ENCODER, SIZE, DIM, [CLASSES] * k), images(SIZE), labels(k), BATCH)
        times = cpu_times({"ours": _loop(k).advance, "hand": hand}, rounds)
        rows.append(
            compare(f"k{k}", times["ours"], "plain PyTorch", times["hand"], gate=1.05, goal=1.02)
        )
    mixed = HandMixedStep(
        HandNet(ENCODER, SIZE, DIM, [CLASSES] * 3), images(SIZE), labels(3), BATCH
    )
    times = cpu_times({"ours": _loop(3, datasets=3).advance, "hand": mixed}, rounds)
    return [
        *rows,
        compare("k3_mixed", times["ours"], "plain PyTorch, masked", times["hand"], gate=1.05),
    ]


def pretext_cost(quick: bool) -> list[Row]:
    """What each pretext costs over our own supervised step, and where the time of the dearest goes."""
    puzzling = Puzzling(grid=2, head="spatial")
    trainers = {
        "supervised": _loop(1),
        "puzzling_1view": _loop(1, puzzling, supervised="pretext"),
        "puzzling_2views": _loop(1, puzzling, forward="joint"),
        "inpainting_2views_l1": _loop(1, Inpainting(perceptual="none")),
        "inpainting_2views_ema": _loop(1, Inpainting(perceptual="ema")),
        "siamese_puzzling": _loop(1, SIAMESE, supervised="both", reduce="geometric"),
    }
    times = cpu_times(
        {name: trainer.advance for name, trainer in trainers.items()}, rounds=6 if quick else 100
    )
    gates = {
        "puzzling_1view": (1.05, 1.02),
        "puzzling_2views": (2.1, None),
        "inpainting_2views_l1": (2.9, None),
        "inpainting_2views_ema": (4.0, 3.2),
        "siamese_puzzling": (None, None),
    }
    base = statistics.median(times["supervised"])
    for name in ("inpainting_2views_ema", "siamese_puzzling"):
        print(_profile(name, where_it_goes(trainers[name], 2 if quick else 15), base))
    return [
        compare(k, times[k], "the supervised step", times["supervised"], *gates[k]) for k in gates
    ]


def _profile(name: str, parts: dict[str, float], base: float) -> str:
    lines = [f"where the time of {name} goes, in supervised steps:", "", "| part | |", "|---|---|"]
    return "\n".join(
        [*lines, *(f"| {part} | {seconds / base:.2f} |" for part, seconds in parts.items()), ""]
    )


def inference(quick: bool) -> list[Row]:
    """The network that a hybrid run keeps, against the one of a supervised run: pretext heads are gone, so 1.0."""
    nets = {"hybrid": _kept(_loop(1, Inpainting())), "supervised": _kept(_loop(1))}
    images = torch.rand(BATCH, 3, SIZE, SIZE)

    def forward(net: Inference) -> Variant:
        return torch.inference_mode()(lambda: net(images))

    times = cpu_times(
        {name: forward(net) for name, net in nets.items()}, rounds=30 if quick else 300
    )
    return [compare("hybrid", times["hybrid"], "the supervised run's network", times["supervised"])]


def _kept(trainer: Trainer) -> Inference:
    trainer.advance()
    return trainer.train_state.model.inference().eval()


def augment(quick: bool) -> list[Row]:
    """Our augmentations against kornia's `AugmentationSequential` of the same operations; uint8 images in, floats out."""
    rows = []
    kinds: dict[str, tuple[Weak | Strong, Callable[[int], torch.nn.Module]]] = {
        "weak": (Weak(), kornia_weak),
        "strong": (Strong(), kornia_strong),
    }
    for size in (112, 224):
        images = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8)
        for kind, (augmentation, make) in kinds.items():
            theirs, rng = make(size), Rng(torch.Generator().manual_seed(0), torch.device("cpu"))

            def ours(
                augmentation: Weak | Strong = augmentation,
                images: torch.Tensor = images,
                rng: Rng = rng,
            ) -> torch.Tensor:
                view = augmentation.view(images, tuple(images.shape[-2:]), rng)  # type: ignore[arg-type]
                return augmentation.finish(view.images, rng)

            def kornia(
                theirs: torch.nn.Module = theirs, images: torch.Tensor = images
            ) -> torch.Tensor:
                return theirs(images.float() / 255).clamp_(0, 1)

            times = cpu_times({"ours": ours, "kornia": kornia}, rounds=5 if quick else 30)
            rows.append(
                compare(
                    f"{kind}_{size}",
                    times["ours"],
                    "kornia AugmentationSequential",
                    times["kornia"],
                )
            )
    return rows


SUITES: dict[str, Callable[[bool], list[Row]]] = {
    "step": step,
    "pretext-cost": pretext_cost,
    "augment": augment,
    "inference": inference,
    "weighting": weighting,
}
