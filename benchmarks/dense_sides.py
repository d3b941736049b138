"""The sides of the suite `dense`: here, plain PyTorch, and LibMTL's EW trainer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import count
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from dense_data import BATCH, ENDLESS, FAR, LR, NO_CLIP, VOID
from lightning_fabric import Fabric
from torch import Tensor, nn

from mtlcore.callbacks.guard import Callbacks
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.config.experiment import Experiment
from mtlcore.contracts import BuildContext
from mtlcore.data.cache import CachedSamples
from mtlcore.data.dataset import RunData
from mtlcore.data.loader import DirectLoader
from mtlcore.data.sampler import Sampler
from mtlcore.model.inference import SharedEncoder
from mtlcore.training.build import build_train_state
from mtlcore.training.record import Record
from mtlcore.training.setup import RunParts
from mtlcore.training.trainer import Trainer, trainer_of

LIBMTL = find_spec("LibMTL") is not None

HandBatch = tuple[Tensor, Tensor, Tensor]
"""Images (B, 3, H, W) in [0, 1], masks (B, H, W), distances (B, H, W)."""


class Net(nn.Module):
    """The network of the other sides: images (B, 3, H, W) in [0, 1] -> {task: output}.

    Its parameters have the names of our network's.
    """

    def __init__(self, exp: Experiment) -> None:
        super().__init__()
        torch.manual_seed(exp.seed)
        self.encoder = SharedEncoder(exp.encoder, exp.input.size)
        context = BuildContext(self.encoder.info, self.encoder, {})
        heads = {label: entry.component.build(context) for label, entry in exp.tasks.items()}
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.encoder(images)
        return {label: head(features) for label, head in self.heads.items()}


class HandStep:
    """A step in plain PyTorch, with no more work than it needs."""

    def __init__(self, net: Net, batches: Iterator[HandBatch]) -> None:
        self.net = net.train()
        self.optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
        self.batches = batches

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


def batches(data: RunData, order: Iterator[np.ndarray]) -> Iterator[HandBatch]:
    """Yield the samples of each batch of the order."""
    for samples in order:
        taken: CachedSamples = data.images.take(samples)
        yield taken.images.float() / 255, taken.aligned["mask"], taken.aligned["distance"]


def shuffled(data: RunData, seed: int) -> Iterator[np.ndarray]:
    """Yield random training samples, for ever."""
    rng = np.random.default_rng(seed)
    train = data.split["train"]
    while True:
        order = rng.permutation(train)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def as_ours(data: RunData, exp: Experiment) -> Iterator[np.ndarray]:
    """Yield the training samples of each step of our side, for ever."""
    sampler = Sampler(data, exp)
    for step in count():
        (micro_batch,) = sampler.step(step)
        yield micro_batch.samples


def ours(data: RunData, exp: Experiment) -> Trainer:
    """Return a trainer that is ready to step."""
    fabric = Fabric(accelerator="cpu", devices=1)
    per_epoch = max(1, len(data.split["train"]) // BATCH)
    state = build_train_state(exp, fabric, exp.train.steps or ENDLESS, per_epoch)
    record = Record(exp.train.max_skipped)
    callbacks = Callbacks.of(state, data, None, SilentReporter())
    loader = DirectLoader(data, Sampler(data, exp), fabric.device)
    return trainer_of(RunParts(state, data, loader, record, callbacks, None))


def libmtl_step(net: Net, batches: Iterator[HandBatch]) -> Callable[[], None]:
    """Return a step of LibMTL's EW trainer that trains this network."""
    removed = ModuleType("torchvision.models.utils")
    vars(removed)["load_state_dict_from_url"] = torch.hub.load_state_dict_from_url
    sys.modules.setdefault(removed.__name__, removed)
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

    def step() -> None:  # the lines of its `train`
        images, mask, distance = next(batches)
        gts = {"segmentation": mask, "distance": distance}
        preds = trainer.process_preds(trainer.model(images))
        train_losses = trainer._compute_loss(preds, gts)
        trainer.meter.update(preds, gts)
        trainer.optimizer.zero_grad()
        trainer.model.backward(train_losses, **trainer.kwargs["weight_args"])
        trainer.optimizer.step()

    return step
