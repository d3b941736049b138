"""The micro-batches of one step on one rank, each prepared just before its forward pass.

A batch holds uint8 images. A prepared batch holds float views, which take several times as much
memory. So only one micro-batch is prepared at a time. A backward pass that needs the losses of the
whole step first prepares each micro-batch twice, bit for bit equal, since all draws are keyed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..contracts import Batch, PreparedBatch
from ..model.plan import training_plan
from ..model.views import prepare
from ..rng import DROPOUT
from .followed import unfollowed_of_step
from .state import Names, TrainState

Forward = tuple[dict[str, Tensor], Tensor | None]
"""The losses of one micro-batch by label, and the Gramian at the features (or None)."""


class MicroBatches(Protocol):
    """What one step of this rank trains on.

    names: the labels of the step's losses, the same for each micro-batch and on all ranks.
    """

    @property
    def names(self) -> Names: ...

    def __len__(self) -> int: ...

    def forward(self, number: int) -> Forward:
        """Return the losses of micro-batch `number` of this rank, bit for bit equal each time."""
        ...


def forward(train_state: TrainState, prepared: PreparedBatch, dropout_seed: int) -> Forward:
    """Compute the losses of a prepared micro-batch."""
    # Dropout and stochastic depth accept no generator: seed the global one.
    _seed_global_generator(dropout_seed, train_state.fabric.device)
    with train_state.fabric.autocast():
        result: Forward = train_state.module(prepared)
        return result


def _seed_global_generator(seed: int, device: torch.device) -> None:
    """Seed the global generator that networks on this device draw from."""
    if device.type == "cpu":
        # torch.manual_seed also asks each kind of accelerator: more than 0.1 ms a forward.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class LazyMicroBatches:
    """Micro-batches as the loader returns them.

    Augmentations and pretexts run in `forward`, in the calling thread.

    step: number of the step, the key of the draws of views and dropout.
    """

    def __init__(
        self, train_state: TrainState, batches: Sequence[Batch], step: int | None = None
    ) -> None:
        self._train_state = train_state
        self._step = train_state.step if step is None else step
        self._batches = batches
        self._encoded: dict[int, float] = {}
        self._unfollowed: dict[int, dict[str, Tensor]] = {}
        world = train_state.fabric.world_size
        self._plan = training_plan(train_state.experiment, len(batches) * world)
        # Known before preparing, since the counts are those of the whole step.
        self.names: Names = self._plan.labels(batches[0].counts)

    def __len__(self) -> int:
        return len(self._batches)

    def prepare(self, number: int) -> PreparedBatch:
        """Draw and make the views of a micro-batch."""
        train_state = self._train_state
        prepared = prepare(
            self._plan,
            self._batches[number],
            train_state.keyed_rng(number, self._step),
            self._step / train_state.steps,
        )
        self._encoded[number] = prepared.encoded
        self._unfollowed[number] = prepared.unfollowed()
        return prepared

    def forward(self, number: int) -> Forward:
        """Prepare a micro-batch and compute its losses."""
        seed = self._train_state.keyed_rng(number, self._step).seed(DROPOUT)
        return forward(self._train_state, self.prepare(number), seed)

    def unfollowed(self) -> dict[str, Tensor]:
        """Return the fraction of the step's labels that can't be moved to a view, for the log.

        All ranks must call it, after all micro-batches were prepared.
        """
        return unfollowed_of_step(list(self._unfollowed.values()), self._plan.micro_batches)

    @property
    def encoded(self) -> float:
        """The number of images to encode, over all micro-batches prepared so far.

        A micro-batch that was prepared twice counts once, although it is encoded twice.
        """
        return sum(self._encoded.values())
