"""`python benchmarks/run.py dense-miou`: mIoU of all sides of the suite `dense` after equal steps.

All sides start with the weights of our run, and see its batches in its order. Each training adds
one row to the file of rows, and is not repeated: the command can be stopped, and resumes.
MTLCORE_BENCH_DATA names the folder that holds `camvid`, unpacked.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path

import torch
from dense_data import BATCH, DATA, camvid, experiment
from dense_rows import FILE, Rows, read, table
from dense_sides import LIBMTL, HandStep, Net, as_ours, batches, libmtl_step, ours
from torch import nn

from mtlcore import MtlError
from mtlcore.config.experiment import Experiment
from mtlcore.data.dataset import RunData, open_data

SIDES = ("ours", "plain PyTorch", "LibMTL")
SIZE, STEPS, SEEDS = (60, 80), 100, (0, 1, 2)


def trained(side: str, data: RunData, exp: Experiment, steps: int) -> float:
    """Train one side, and return its mIoU on validation."""
    trainer = ours(data, exp)
    if side == "ours":
        for _ in range(steps):
            trainer.step()
        return miou(trainer.parts.train_state.model.inference(), data, exp)
    net = Net(exp)
    net.load_state_dict(trainer.parts.train_state.model.state_dict())
    drawn = batches(data, as_ours(data, exp))
    step = libmtl_step(net, drawn) if side == "LibMTL" else HandStep(net, drawn)
    for _ in range(steps):
        step()
    return miou(net, data, exp)


def miou(net: nn.Module, data: RunData, exp: Experiment) -> float:
    """Return the mIoU of a network on the validation images."""
    metric = exp.tasks["segmentation"].component.metrics()["miou"]
    validation = data.split["validation"]
    net.eval()
    with torch.no_grad():
        for start in range(0, len(validation), BATCH):
            taken = data.images.take(validation[start : start + BATCH])
            output = net(taken.images.float() / 255)["segmentation"]
            metric.update(output.softmax(1), taken.aligned["mask"])
    return float(metric.compute())


def left(rows: Rows, steps: int, seeds: tuple[int, ...]) -> list[tuple[int, str]]:
    """Return (seed, side) of the trainings without a row. Raises ValueError on foreign rows."""
    if any((row["steps"], tuple(row["size"])) != (steps, SIZE) for row in rows):
        raise ValueError("the file has rows of other steps or of another size: move it away")
    done = {(row["seed"], row["side"]) for row in rows}
    sides = [side for side in SIDES if LIBMTL or side != "LibMTL"]
    return [(seed, side) for seed in seeds for side in sides if (seed, side) not in done]


def main(words: list[str]) -> int:
    """Train what is left, and print the table."""
    description = __doc__.splitlines()[0] if __doc__ else ""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/run.py dense-miou", description=description
    )
    parser.add_argument("--out", type=Path, default=FILE, help="the file of rows")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of a training")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    args = parser.parse_args(words)
    try:
        return train_all(args)
    except MtlError as error:
        print(f"dense-miou: {error}", file=sys.stderr)
        return 2


def train_all(args: argparse.Namespace) -> int:
    """Train what is left. Raises MtlError without images, or if the file has foreign rows."""
    if camvid() is None:
        raise MtlError(f"set {DATA} to the folder that holds camvid")
    try:
        todo = left(read(args.out), args.steps, tuple(args.seeds))
    except ValueError as error:
        raise MtlError(f"{args.out}: {error}") from None
    data: RunData | None = None
    for seed, side in todo:
        exp = experiment(seed, args.steps, SIZE)
        if data is None:  # official splits: the seed does not change them
            _, data = open_data(exp, {"train", "validation"})
        begin = time.process_time()
        found = trained(side, data, exp, args.steps)
        row = {
            "side": side,
            "seed": seed,
            "steps": args.steps,
            "size": SIZE,
            "batch": BATCH,
            "miou": found,
            "cpu_s": round(time.process_time() - begin, 1),
            "torch": torch.__version__,
            "date": datetime.date.today().isoformat(),
        }
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{side}, seed {seed}: mIoU {100 * found:.2f} %, {row['cpu_s']} CPU s", flush=True)
    print(table(read(args.out)))
    return 0
