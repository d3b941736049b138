"""The suite `dense`: segmentation and a map of distances, here, in plain PyTorch, and in LibMTL.

The same network (resnet18 of timm, our decoder), optimizer (Adam), batches, losses (means over the
valid pixels of the batch) and steps on all sides. Images are those of CamVid at 180 x 240 pixels;
the second task is the distance of each pixel to the nearest boundary of its mask, in pixels.

MTLCORE_BENCH_DATA names the folder that holds `camvid`, unpacked. Without it, images and masks are
random: the times are those of the same work.

    time/*    CPU time of a step, ours over the baseline; the gate of 1.05 is for plain PyTorch
    memory    bytes that the step keeps for its backward pass, ours over plain PyTorch

`run.py dense-miou` trains all sides, and compares their mIoU: see `dense_miou.py`.

LibMTL 1.1.5 takes part if it is installed (`pip install --no-deps LibMTL==1.1.5`). It is of 2021:
it imports a module that torchvision has removed, calls `.next()` of iterators, and names the device
"cuda:0". So `dense_sides` adds the module, draws the batches, and names the device. The work of a
step is its own. It is no extra of this package, since it does not run next to today's torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from dense_data import SIZE, SMALL, experiment
from dense_sides import LIBMTL, HandStep, Net, batches, libmtl_step, ours, shuffled
from timing import Row, compare, cpu_times
from torch import Tensor

from mtlcore.data.dataset import open_data

ROUNDS, QUICK_ROUNDS = 40, 2
LIMIT_S = 60.0  # of all rounds: a step on these images takes seconds on a slow machine


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


def dense(quick: bool) -> list[Row]:
    """Compare a step on two maps with other sides."""
    exp = experiment(size=SMALL if quick else SIZE)
    resolved, data = open_data(exp, {"train", "validation"})
    trainer = ours(data, resolved)
    hand = HandStep(Net(resolved), batches(data, shuffled(data, 0)))
    variants: dict[str, Callable[[], object]] = {"ours": trainer.step, "plain PyTorch": hand}
    if LIBMTL:
        variants["LibMTL"] = libmtl_step(Net(resolved), batches(data, shuffled(data, 0)))
    rounds = QUICK_ROUNDS if quick else ROUNDS
    times = cpu_times(variants, rounds, warm=1, limit_s=LIMIT_S)
    print(f"{len(times['ours'])} rounds")
    gates = {"plain PyTorch": 1.05}
    rows = [
        compare(f"time/{name}", times["ours"], name, times[name], gate=gates.get(name))
        for name in list(variants)[1:]
    ]
    kept = round(saved_bytes(trainer.step) / saved_bytes(hand), 4)
    return [*rows, Row("memory", "plain PyTorch", kept, kept, kept)]
