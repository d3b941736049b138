"""The micro-batches of one step on one rank, each prepared when its forward comes.

A batch holds uint8 images, a prepared batch several times as many bytes: float views. So at most
one of the step's micro-batches is prepared at a time. Who needs the losses of the whole step first
prepares each of them twice. Both times give the same bits, since all draws are keyed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ..contracts import Batch, PreparedBatch
from ..model.plan import training_plan
from ..model.views import prepare
from .followed import unfollowed_of_step
from .state import Names, TrainState


class MicroBatches(Protocol):
    """What one step of this rank trains on.

    names: the labels of the step's losses, the same for each micro-batch and on all ranks.
    """

    @property
    def names(self) -> Names: ...

    def __len__(self) -> int: ...

    def prepare(self, number: int) -> PreparedBatch:
        """Return the micro-batch `number` of this rank, the same bits each time."""
        ...


class LazyMicroBatches:
    """Micro-batches as the loader returns them.

    Augmentation and pretext code runs in `prepare`, in the thread of its caller.
    """

    def __init__(self, train_state: TrainState, batches: Sequence[Batch]) -> None:
        self._train_state = train_state
        self._batches = batches
        self._encoded: dict[int, int] = {}
        self._unfollowed: dict[int, dict[str, Tensor]] = {}
        world = train_state.fabric.world_size
        self._plan = training_plan(train_state.experiment, len(batches) * world)
        # Known without preparing: the counts are those of the whole step.
        self.names: Names = self._plan.labels(batches[0].counts)

    def __len__(self) -> int:
        return len(self._batches)

    def prepare(self, number: int) -> PreparedBatch:
        """Draw and make the views of a micro-batch."""
        train_state = self._train_state
        prepared = prepare(
            self._plan,
            self._batches[number],
            train_state.keyed_rng(number),
            train_state.progress,
        )
        self._encoded[number] = sum(len(images) for images in prepared.images)
        self._unfollowed[number] = prepared.unfollowed()
        return prepared

    def unfollowed(self) -> dict[str, Tensor]:
        """Return how many labels of the step could not follow into a view, for the log.

        All ranks must call it, after each micro-batch was prepared.
        """
        return unfollowed_of_step(list(self._unfollowed.values()), self._plan.micro_batches)

    @property
    def encoded(self) -> int:
        """The number of images to encode, over the micro-batches that were prepared so far.

        A micro-batch that was prepared twice counts once.
        """
        return sum(self._encoded.values())
