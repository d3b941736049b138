"""The suite `dense`: segmentation and a map of distances, here, in plain PyTorch, and in LibMTL.

The same network (resnet18 of timm, our decoder), optimizer (Adam), batches, losses (means over the
valid pixels of the batch) and steps on all sides. Images are those of CamVid at 180 x 240 pixels;
the second task is the distance of each pixel to the nearest boundary of its mask, in pixels.

MTLCORE_BENCH_DATA names the folder that holds `camvid`, unpacked. Without it, images and masks are
random, and mIoU is not measured.

    time/*    CPU time of a step, ours over the baseline; the gate of 1.05 is for plain PyTorch
    memory    bytes that the step keeps for its backward pass, ours over plain PyTorch
    miou/*    mIoU on validation after equal steps, ours over the baseline: of the means over the
              seeds, and of the lowest and the highest seed. No gate

LibMTL 1.1.5 takes part if it is installed (`pip install --no-deps LibMTL==1.1.5`). It is of 2021:
it imports a module that torchvision has removed, calls `.next()` of iterators, and names the device
"cuda:0". So `dense_sides` adds the module, draws the batches, and names the device. The work of a
step is its own. It is no extra of this package, since it does not run next to today's torch.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from dense_data import DATA, experiment
from dense_sides import HandStep, libmtl_step, ours
from timing import Row, compare, cpu_times
from torch import Tensor, nn

from mtlcore.config.experiment import Experiment
from mtlcore.data.dataset import RunData, open_data

SEEDS = (0, 1, 2)
STEPS, QUICK_STEPS = 600, 4
LIBMTL = find_spec("LibMTL") is not None


def saved_bytes(step: Callable[[], object]) -> int:
    """Return the bytes that one step keeps for its backward pass. Each storage counts once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def miou(net: nn.Module, data: RunData, exp: Experiment) -> float:
    """Return the mIoU of a network on the validation images."""
    metric = exp.tasks["segmentation"].component.metrics()["miou"]
    net.eval()
    with torch.no_grad():
        for indices in np.array_split(data.split["validation"], 20):
            if not len(indices):
                continue
            taken = data.images.take(indices)
            output = net(taken.images.float() / 255)["segmentation"]
            metric.update(output.softmax(1), taken.aligned["mask"])
    return float(metric.compute())


def trained(side: str, data: RunData, seed: int, steps: int) -> float:
    """Train one side, and return its mIoU."""
    exp = experiment(seed, steps)
    if side == "ours":
        trainer = ours(data, exp)
        for _ in range(steps):
            trainer.step()
        return miou(trainer.parts.train_state.model.inference(), data, exp)
    if side == "LibMTL":
        step, net = libmtl_step(data, exp, seed)
        for _ in range(steps):
            step()
        return miou(net, data, exp)
    hand = HandStep(data, exp, seed)
    for _ in range(steps):
        hand()
    return miou(hand.net, data, exp)


def dense(quick: bool) -> list[Row]:
    """Compare a step on two maps with other sides, then mIoU after equal steps."""
    exp = experiment()
    resolved, data = open_data(exp, {"train", "validation"})
    trainer, hand = ours(data, resolved), HandStep(data, resolved)
    variants: dict[str, Callable[[], object]] = {"ours": trainer.step, "plain PyTorch": hand}
    if LIBMTL:
        variants["LibMTL"] = libmtl_step(data, resolved)[0]
    times = cpu_times(variants, rounds=2 if quick else 40, warm=1)
    gates = {"plain PyTorch": 1.05}
    rows = [
        compare(f"time/{name}", times["ours"], name, times[name], gate=gates.get(name))
        for name in list(variants)[1:]
    ]
    kept = saved_bytes(trainer.step) / saved_bytes(hand)
    rows.append(Row("memory", "plain PyTorch", round(kept, 4), round(kept, 4), round(kept, 4)))
    if os.environ.get(DATA):
        rows += miou_rows(data, list(variants), quick)
    return rows


def miou_rows(data: RunData, sides: list[str], quick: bool) -> list[Row]:
    """Return the rows of mIoU, and print its values."""
    seeds, steps = (SEEDS[:1], QUICK_STEPS) if quick else (SEEDS, STEPS)
    found = {side: [trained(side, data, seed, steps) for seed in seeds] for side in sides}
    for side, values in found.items():
        shown = ", ".join(f"{value:.4f}" for value in values)
        print(f"mIoU after {steps} steps, {side}: {statistics.mean(values):.4f} ({shown})")
    rows: list[Row] = []
    for side in sides[1:]:
        ratios = [a / max(b, 1e-9) for a, b in zip(found["ours"], found[side])]
        ratio = statistics.mean(found["ours"]) / max(statistics.mean(found[side]), 1e-9)
        low, high = min(ratios), max(ratios)
        rows.append(Row(f"miou/{side}", side, round(ratio, 4), round(low, 4), round(high, 4)))
    return rows
