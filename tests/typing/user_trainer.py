"""A user's script: it trains by hand. tests/test_typing.py checks it with strict mypy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

import mtlcore
from mtlcore import (
    Classification,
    Dataset,
    Experiment,
    Index,
    Sample,
    StepBatch,
    Trainer,
    component,
)


@mtlcore.register
@frozen
class Noise(Dataset):
    """Gray images with random labels."""

    n: int = 40

    def index(self) -> Index:
        numbers = np.arange(self.n)
        names = np.where(numbers % 2, "a", "b")
        return Index(keys=numbers.astype(str), annotations={"kind": names})

    def decode(self, index: Index, sample: int) -> Sample:
        return Sample(np.full((16, 16, 3), sample, dtype=np.uint8))


experiment = Experiment(
    encoder=component("encoder", "resnet_small", width=4),
    tasks={"kind": Classification()},
    pretexts={"puzzling": component("pretext", "puzzling", grid=2)},
    data={"noise": Noise()},
    input=mtlcore.Input(size=16, batch_size=8),
    train=mtlcore.Train(steps=4),
)
trainer = Trainer(experiment, out=Path("run"))
batch: StepBatch = trainer.batch()
images: Tensor = batch.micro_batches[0].images
losses: dict[str, Tensor] = trainer.losses(batch)
shared = trainer.shared_parameters()
gradients: tuple[Tensor, ...] = torch.autograd.grad(losses["kind"], shared, retain_graph=True)
trainer.backward(losses)
trainer.apply()

own: torch.optim.Optimizer = torch.optim.SGD(trainer.encoder.parameters(), lr=0.1)
losses = trainer.losses(trainer.batch(step=0))
trainer.backward(losses["kind"] + 0.5 * losses["puzzling"])
trainer.apply(own)

trainer.lr = 0.5 * trainer.lr
done: dict[str, Tensor] = trainer.step()
head: torch.nn.Module = trainer.heads["kind"]
counts: tuple[int, int, float] = (trainer.step_number, trainer.skipped, trainer.progress)
trainer.save()
assert trainer.run().steps == 4
assert not trainer.inference.eval().training
