"""The suite `dense`: segmentation and a map of distances, here, in plain PyTorch, and in LibMTL.

The same network (resnet18 of timm, our decoder), optimizer (Adam), batches, losses (means over the
valid pixels of the batch) and steps on all sides. Images are those of CamVid at 180 x 240 pixels;
the second task is the distance of each pixel to the nearest boundary of its mask, in pixels.

MTLCORE_BENCH_DATA names the folder that holds `camvid`, unpacked. Without it, images and masks are
random, and mIoU is not measured.

    time/*     CPU time of a step; ours over the baseline. The gate of 1.05 holds against plain PyTorch
    memory     bytes that the step keeps for its backward pass, ours over plain PyTorch
    miou/*     mIoU on validation after equal steps, ours over the baseline: the mean over the seeds,
               and the lowest and highest seed. No gate

LibMTL 1.1.5 takes part if it is installed (`pip install --no-deps LibMTL==1.1.5`). Its trainer is
written for one GPU and for iterators of old torch versions, so a subclass here names another device
and draws its batches; the work of a step is its own.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from scipy.ndimage import distance_transform_edt
from timing import Row, compare, cpu_times
from torch import Tensor, nn

from mtlcore import DenseRegression, Index, MapColumn, Sample, Segmentation
from mtlcore.augment.levels import Validation
from mtlcore.config.experiment import DataEntry, Experiment, Input, TaskEntry, Train
from mtlcore.contracts import BuildContext
from mtlcore.data.cache import CachedSamples
from mtlcore.data.dataset import RunData, open_data
from mtlcore.data.image_mask import ImageMask
from mtlcore.encoders.timm_nets import Timm
from mtlcore.model.inference import SharedEncoder
from mtlcore.optimizers import AdamW
from mtlcore.training.build import build_train_state
from mtlcore.training.trainer import Trainer
from mtlcore.weighting import Equal

DATA = "MTLCORE_BENCH_DATA"
CLASSES = tuple(
    "sky building pole road pavement tree sign fence car pedestrian bicyclist".split()
)
VOID, FAR = 11, 20.0  # FAR: pixels, a typical distance
SIZE, BATCH, LR = (180, 240), 8, 3e-4
ENDLESS = 1_000_000  # steps, more than any measurement takes
SEEDS = (0, 1, 2)
STEPS, QUICK_STEPS = 600, 4
NO_CLIP = 1e9
LIBMTL = find_spec("LibMTL") is not None


# ------------------------------------------------------------------------------------------- data


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
    """Random images and blocky masks in the sizes of CamVid."""

    root: Path = Path()

    def index(self) -> Index:
        n = 40
        present = np.ones(n, dtype=bool)
        maps = {"mask": MapColumn(present, "uint8"), "distance": MapColumn(present, "float32")}
        split = np.where(np.arange(n) < 32, "train", "validation")
        return Index(np.arange(n).astype(str), {}, split=split, maps=maps)

    def decode(self, index: Index, i: int) -> Sample:
        rng = np.random.default_rng(i)
        mask = rng.integers(0, 12, (9, 12), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        return Sample(image, {"mask": mask, "distance": distances(mask)})


def experiment(seed: int = 0, steps: int = ENDLESS) -> Experiment:
    """Return the experiment of our side."""
    folder = os.environ.get(DATA)
    root = Path(folder or "", "camvid")
    if (root / "camvid").is_dir():  # as the tar unpacks
        root /= "camvid"
    dataset = CamvidDistances(root) if folder else MadeUp()
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
        input=Input(size=SIZE, batch_size=BATCH, eval_batch_size=BATCH, cache_size=SIZE),
        optimizer=AdamW(lr=LR, weight_decay=0.0),
        train=Train(steps=steps, clip=NO_CLIP),
        seed=seed,
    )


# ------------------------------------------------------------------------------------------ sides


class Net(nn.Module):
    """The network of the hand-written sides: images (B, 3, H, W) in [0, 1] -> {task: output}."""

    def __init__(self, exp: Experiment, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = SharedEncoder(exp.encoder, SIZE)
        context = BuildContext(self.encoder.info, self.encoder, {})
        heads = {label: entry.component.build(context) for label, entry in exp.tasks.items()}
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.encoder(images)
        return {label: head(features) for label, head in self.heads.items()}


class HandStep:
    """A step in plain PyTorch, with no more work than it needs."""

    def __init__(self, data: RunData, exp: Experiment, seed: int = 0) -> None:
        self.net = Net(exp, seed).train()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=LR, fused=True)
        self.batches = batches(data, seed)

    def __call__(self) -> None:
        images, mask, distance = next(self.batches)
        outputs = self.net(images)
        loss = mask_loss(outputs["segmentation"], mask)
        loss = loss + distance_loss(outputs["distance"], distance)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), NO_CLIP)
        self.optimizer.step()


def mask_loss(output: Tensor, mask: Tensor) -> Tensor:
    return F.cross_entropy(output, mask.long(), ignore_index=VOID)


def distance_loss(output: Tensor, distance: Tensor) -> Tensor:
    valid = distance > 0
    errors = (output - distance / FAR).abs()
    return torch.where(valid, errors, 0).sum() / valid.sum().clamp_min(1)


def batches(data: RunData, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (images in [0, 1], masks, distances) of random training samples, for ever."""
    rng = np.random.default_rng(seed)
    train = data.split["train"]
    while True:
        order = rng.permutation(train)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            taken: CachedSamples = data.images.take(order[start : start + BATCH])
            yield taken.images.float() / 255, taken.aligned["mask"], taken.aligned["distance"]


def ours(data: RunData, exp: Experiment) -> Trainer:
    """Return a trainer that is ready to step."""
    from lightning_fabric import Fabric

    from mtlcore.callbacks.guard import Callbacks
    from mtlcore.callbacks.progress import SilentReporter
    from mtlcore.data.loader import DirectLoader
    from mtlcore.data.sampler import Sampler
    from mtlcore.training.record import Record
    from mtlcore.training.setup import RunParts
    from mtlcore.training.trainer import trainer_of

    fabric = Fabric(accelerator="cpu", devices=1)
    per_epoch = max(1, len(data.split["train"]) // BATCH)
    state = build_train_state(exp, fabric, exp.train.steps or ENDLESS, per_epoch)
    record = Record(exp.train.max_skipped)
    callbacks = Callbacks.of(state, data, None, SilentReporter())
    loader = DirectLoader(data, Sampler(data, exp), fabric.device)
    return trainer_of(RunParts(state, data, loader, record, callbacks, None))


def libmtl_step(data: RunData, exp: Experiment, seed: int = 0) -> tuple[Callable[[], None], Any]:
    """Return a step of LibMTL's EW trainer, and its trainer."""
    from LibMTL import Trainer as TheirTrainer
    from LibMTL.architecture import HPS
    from LibMTL.loss import AbsLoss
    from LibMTL.metrics import AbsMetric
    from LibMTL.weighting import EW

    class MaskLoss(AbsLoss):  # type: ignore[misc]
        def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
            return mask_loss(pred, gt)

    class DistanceLoss(AbsLoss):  # type: ignore[misc]
        def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
            return distance_loss(pred, gt)

    class NoMetric(AbsMetric):  # type: ignore[misc]
        """Its trainer measures in each step; ours does not."""

        def update_fun(self, pred: Tensor, gt: Tensor) -> None:
            pass

        def score_fun(self) -> list[float]:
            return [0.0]

    class OnTheCpu(TheirTrainer):  # type: ignore[misc]
        """The same on the device of the measurement, with batches of any iterator."""

        @property
        def device(self) -> torch.device:
            return torch.device("cpu")

        @device.setter
        def device(self, _: torch.device) -> None:
            pass

    net = Net(exp, seed)
    losses = {"segmentation": MaskLoss(), "distance": DistanceLoss()}
    tasks = {
        label: {"metrics": ["none"], "metrics_fn": NoMetric(), "loss_fn": loss, "weight": [1]}
        for label, loss in losses.items()
    }
    trainer = OnTheCpu(
        tasks,
        EW,
        HPS,
        lambda: net.encoder,
        net.heads,
        rep_grad=False,
        multi_input=False,
        optim_param={"optim": "adam", "lr": LR, "fused": True},
        scheduler_param=None,
        weight_args={},
        arch_args={},
    )
    trainer.model.train()
    drawn = batches(data, seed)

    def step() -> None:  # the lines of its `train`
        images, mask, distance = next(drawn)
        gts = {"segmentation": mask, "distance": distance}
        preds = trainer.process_preds(trainer.model(images))
        train_losses = trainer._compute_loss(preds, gts)
        trainer.meter.update(preds, gts)
        trainer.optimizer.zero_grad()
        trainer.model.backward(train_losses, **trainer.kwargs["weight_args"])
        trainer.optimizer.step()

    return step, net


# ----------------------------------------------------------------------------------------- memory


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


# ------------------------------------------------------------------------------------------- miou


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


# ------------------------------------------------------------------------------------------ suite


def dense(quick: bool) -> list[Row]:
    """Compare a step on two maps with plain PyTorch and with LibMTL, then mIoU after equal steps."""
    exp = experiment()
    resolved, data = open_data(exp, {"train", "validation"})
    trainer, hand = ours(data, resolved), HandStep(data, resolved)
    variants: dict[str, Callable[[], object]] = {"ours": trainer.step, "plain PyTorch": hand}
    if LIBMTL:
        variants["LibMTL"] = libmtl_step(data, resolved)[0]
    times = cpu_times(variants, rounds=4 if quick else 40)
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
