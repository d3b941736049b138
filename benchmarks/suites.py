"""The suites of `benchmarks/run.py`. Each one returns rows; gates are for full runs only."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from baselines import HandMixedStep, HandNet, HandStep, kornia_strong, kornia_weak
from dense import dense
from kornia_lists import kornia_lists
from loader import loader
from memory_formats import memory_format
from mtl_pretexts.inpainting import Inpainting
from mtl_pretexts.puzzling import Puzzling
from ours import CLASSES, experiment, images, labels, profile, stepper
from packs import packs
from per_sample import general_rows
from PIL import Image
from timing import Row, Variant, compare, cpu_times
from torch import Tensor, nn
from weighting import weighting

from mtlcore import PretextTask, Rng
from mtlcore.augment.levels import Strong, Weak
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.model.inference import Inference
from mtlcore.model.preprocess import Preprocess
from mtlcore.prediction.predictor import Predictor
from mtlcore.training.trainer import Trainer

BATCH, SIZE = 64, 64
ENCODER = ResnetSmall(width=16, stem_stride=2)
DIM = 8 * ENCODER.width

SIAMESE = Puzzling(grid=2, scales=((113 / 112, 128 / 112), (1.0, 1.0), (64 / 112, 111 / 112)))


def _trainer(
    tasks: int, pretext: PretextTask | None = None, datasets: int = 1, **views: object
) -> Trainer:
    exp = experiment(ENCODER, SIZE, BATCH, tasks, pretext, datasets, **views)
    return stepper(exp, images(SIZE), labels(tasks))


def _hand_net(tasks: int) -> HandNet:
    return HandNet(ENCODER, SIZE, DIM, [CLASSES] * tasks)


# ---------------------------------------------------------------------------------- training step


def step(quick: bool) -> list[Row]:
    """Compare one training step with the same step written by hand.

    k1, k3, k5: K tasks on one dataset. k3_mixed: three datasets that each label one task.
    """
    rounds = 15 if quick else 120
    rows: list[Row] = []
    for k in (1, 3, 5):
        hand = HandStep(_hand_net(k), images(SIZE), labels(k), BATCH)
        times = cpu_times({"ours": _trainer(k).step, "hand": hand}, rounds)
        row = compare(f"k{k}", times["ours"], "plain PyTorch", times["hand"], gate=1.03, goal=1.02)
        rows.append(row)

    mixed = HandMixedStep(_hand_net(3), images(SIZE), labels(3), BATCH)
    times = cpu_times({"ours": _trainer(3, datasets=3).step, "hand": mixed}, rounds)
    rival = "plain PyTorch, masked"
    row = compare("k3_mixed", times["ours"], rival, times["hand"], gate=1.03, goal=1.02)
    return [*rows, row]


# ---------------------------------------------------------------------------- compute of a pretext


def pretext_compute(quick: bool) -> list[Row]:
    """Compare a step with a pretext with our supervised step.

    Prints the parts of the step for the most expensive pretexts.
    """
    puzzling = Puzzling(grid=2, head="spatial")
    trainers = {
        "supervised": _trainer(1),
        "puzzling_1view": _trainer(1, puzzling, supervised="pretext"),
        "puzzling_2views": _trainer(1, puzzling, forward="joint"),
        "inpainting_2views_l1": _trainer(1, Inpainting(perceptual="none")),
        "inpainting_2views_ema": _trainer(1, Inpainting(perceptual="ema")),
        "siamese_puzzling": _trainer(1, SIAMESE, supervised="both", reduce="geometric"),
    }
    steps = {name: trainer.step for name, trainer in trainers.items()}
    times = cpu_times(steps, rounds=6 if quick else 100)
    supervised = times["supervised"]

    profile_rounds = 2 if quick else 15
    for name in ("inpainting_2views_ema", "siamese_puzzling"):
        parts = profile(trainers[name], profile_rounds)
        print(_profile_table(name, parts, statistics.median(supervised)))

    gates: dict[str, tuple[float | None, float | None]] = {  # gate, goal
        "puzzling_1view": (1.05, 1.02),
        "puzzling_2views": (2.0, 1.9),
        "inpainting_2views_l1": (2.9, None),
        "inpainting_2views_ema": (3.2, 2.9),
        "siamese_puzzling": (None, None),
    }
    rows: list[Row] = []
    for name, (gate, goal) in gates.items():
        rows.append(compare(name, times[name], "the supervised step", supervised, gate, goal))
    return rows


def _profile_table(name: str, parts: dict[str, float], supervised_s: float) -> str:
    lines = [
        f"CPU time of the parts of {name}, in supervised steps:",
        "",
        "| part | |",
        "|---|---|",
    ]
    for part, seconds in parts.items():
        lines.append(f"| {part} | {seconds / supervised_s:.2f} |")
    return "\n".join([*lines, ""])


# -------------------------------------------------------------------------------------- inference


def inference(quick: bool) -> list[Row]:
    """Compare the inference network of a hybrid run with that of a supervised run.

    The ratio should be 1.0: the pretext's head is not part of the inference network.
    """
    hybrid = _inference_net(_trainer(1, Inpainting()))
    supervised = _inference_net(_trainer(1))
    batch = torch.rand(BATCH, 3, SIZE, SIZE)

    def forward(net: Inference) -> Variant:
        return torch.inference_mode()(lambda: net(batch))

    variants = {"hybrid": forward(hybrid), "supervised": forward(supervised)}
    times = cpu_times(variants, rounds=30 if quick else 300)
    return [compare("hybrid", times["hybrid"], "the supervised run's network", times["supervised"])]


def _inference_net(trainer: Trainer) -> Inference:
    trainer.step()
    return trainer.parts.train_state.model.inference().eval()


# ----------------------------------------------------------------------------------- augmentation


def augment(quick: bool) -> list[Row]:
    """Compare our augmentations with kornia's `AugmentationSequential` of the same operations.

    Input: uint8 images. Output: float images in [0, 1].
    """
    rounds = 5 if quick else 30
    levels: dict[str, tuple[Weak | Strong, Callable[[int], nn.Module]]] = {
        "weak": (Weak(), kornia_weak),
        "strong": (Strong(), kornia_strong),
    }
    rows: list[Row] = []
    for size in (112, 224):
        batch = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8)
        for level, (augmentation, kornia_level) in levels.items():
            variants = {
                "ours": _our_augmentation(augmentation, batch),
                "kornia": _kornia_augmentation(kornia_level(size), batch),
            }
            times = cpu_times(variants, rounds)
            baseline = "kornia AugmentationSequential"
            rows.append(compare(f"{level}_{size}", times["ours"], baseline, times["kornia"]))
        rows += kornia_lists(size, rounds)
    return [*rows, *general_rows(64, quick), *general_rows(224, quick)]


def _our_augmentation(augmentation: Weak | Strong, batch: Tensor) -> Variant:
    rng = Rng(torch.Generator().manual_seed(0), torch.device("cpu"))
    height, width = batch.shape[-2:]

    def run() -> Tensor:
        view = augmentation.view(batch, (height, width), rng)
        return augmentation.finish(view.images, rng)

    return run


def _kornia_augmentation(module: nn.Module, batch: Tensor) -> Variant:
    def run() -> Tensor:
        augmented: Tensor = module(batch.float() / 255)
        return augmented.clamp_(0, 1)

    return run


# ------------------------------------------------------------------------------------- prediction


def predict(quick: bool) -> list[Row]:
    """Compare a predictor with itself at batch 1, and with its bare network.

    images_s_at_32: CPU time of an image at batch 32 over that at batch 1. 1 / 1.5 is the gate.
    arrays: from uint8 arrays in memory to answers, over the network on a view, at batch 32.
    jpeg: the same from files of 48 x 48 pixels.
    """
    size, number = 48, 256
    exp = experiment(ResnetSmall(width=16), size, BATCH, 1)
    net = _inference_net(stepper(exp, images(size), labels(1)))
    tasks = {label: entry.component for label, entry in exp.tasks.items()}
    preprocess = Preprocess.of(exp)
    one, many = (Predictor(net, tasks, preprocess, batch_size=size) for size in (1, 32))
    arrays = list(images(size)[:number].permute(0, 2, 3, 1).contiguous().numpy())
    views = preprocess.view(preprocess.stack(arrays)).images.split(32)

    def bare() -> None:
        with torch.no_grad():
            for view in views:
                net(view)

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{i}.jpg") for i in range(number)]
        for file, array in zip(files, arrays):
            Image.fromarray(array).save(file, quality=90)
        variants: dict[str, Variant] = {
            "one": lambda: one(arrays),
            "many": lambda: many(arrays),
            "bare": bare,
            "jpeg": lambda: many(files),
        }
        times = cpu_times(variants, rounds=4 if quick else 30)
    over = "the network on views"
    return [
        compare("images_s_at_32", times["many"], "batch 1", times["one"], 1 / 1.5, 1 / 2),
        compare("arrays", times["many"], over, times["bare"], gate=1.15),
        compare("jpeg", times["jpeg"], over, times["bare"]),
    ]


SUITES: dict[str, Callable[[bool], list[Row]]] = {
    "step": step,
    "pretext-cost": pretext_compute,
    "augment": augment,
    "inference": inference,
    "predict": predict,
    "weighting": weighting,
    "loader": lambda quick: [*loader(quick), *packs(quick)],
    "dense": dense,
    "memory-format": memory_format,
}
