"""The parts of one optimizer step that a custom training loop calls: losses, backward, apply.

The parts compute the same as `step.step_on`, except that the losses of several micro-batches are
averaged first, and differentiated together.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import define, field, frozen
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..contracts import Batch
from ..errors import MtlError, nearest
from .buffers import Buffers
from .micro_batches import Forward, LazyMicroBatches
from .state import Names, TrainState
from .step import (
    Differentiated,
    Logged,
    differentiate,
    graph_context,
    measure_if_due,
    update,
)

Losses = Mapping[str, Tensor]


@frozen(eq=False)
class StepBatch:
    """The batches of one optimizer step on this process.

    step: number of the step, the key of the draws of views and dropout. So the same `StepBatch`
    gives the same losses for the same weights.
    micro_batches: one `Batch`, or several if `train.micro_batches` is set.
    """

    step: int
    micro_batches: tuple[Batch, ...]


@frozen(eq=False)
class Computed:
    """Losses that are not differentiated yet.

    gram: the Gramian at the features, or None. before: the buffers before the forwards.
    encoded: number of encoded images. unfollowed: labels that can't be moved, for the log.
    """

    losses: dict[str, Tensor]
    gram: Tensor | None
    before: Buffers
    encoded: float
    unfollowed: Logged


class GivenLosses:
    """Computed losses of a whole step, in the form of a single micro-batch."""

    def __init__(self, losses: dict[str, Tensor], gram: Tensor | None) -> None:
        self._forward: Forward = losses, gram
        self.names: Names = tuple(losses)

    def __len__(self) -> int:
        return 1

    def forward(self, number: int) -> Forward:
        """Return the losses."""
        return self._forward


@define(eq=False)
class ByHand:
    """The state between the parts of a step: `losses`, then `backward`, then `apply`.

    Losses without `apply` do not change the run: the buffers that their forwards changed (BatchNorm
    statistics) are restored before the next forward.
    """

    train_state: TrainState
    _computed: Computed | None = None
    _done: Differentiated | None = None
    _calls: int = 0
    _modes: list[bool] = field(factory=list)
    # Loss -> number of the call that returned it. Weak keys: the dictionary keeps no loss alive.
    _call_of: WeakIdKeyDictionary = field(factory=WeakIdKeyDictionary)

    # ------------------------------------------------------------------------------ losses

    def losses(self, batch: StepBatch) -> dict[str, Tensor]:
        """The losses of a step by label, means over its micro-batches."""
        train_state = self.train_state
        self.start("losses")
        if train_state.fabric.world_size > 1:
            raise MtlError(
                f"Trainer.losses works on one device only, but this run has "
                f"{train_state.fabric.world_size}: call Trainer.step(), or set train.devices = 1"
            )
        micro_batches = LazyMicroBatches(train_state, batch.micro_batches, batch.step)
        before = Buffers.of(train_state.model, train_state.loss_weighting)
        measure_if_due(train_state, micro_batches.names)
        try:
            # As for a weighting at the parameters, each loss may be differentiated separately.
            with graph_context(once_per_loss=True):
                forwards = [micro_batches.forward(i) for i in range(len(micro_batches))]
        except BaseException:
            before.restore()
            raise
        losses = {name: _mean(name, forwards) for name in micro_batches.names}
        _, gram = forwards[0]  # with several micro-batches there is none
        self._computed = Computed(
            losses, gram, before, micro_batches.encoded, micro_batches.unfollowed()
        )
        self._calls += 1
        for loss in losses.values():
            self._call_of[loss] = self._calls
        return dict(losses)

    def start(self, what: str) -> None:
        """Begin a new step: drop losses that were not differentiated.

        Raises MtlError if gradients wait for `apply`.
        """
        if self._done is not None:
            raise MtlError(
                f"Trainer.{what}: the gradients of the last backward() are not applied yet: "
                "call Trainer.apply() first"
            )
        if self._computed is not None:
            self._forget()
        # The caller may have set eval mode, also through `Trainer.inference`, which shares modules.
        # Reading the modes takes a third of the time of setting them.
        model = self.train_state.model
        if self._modes != _modes(model):
            model.train()
            self._modes = _modes(model)

    def _forget(self) -> None:
        """Drop the losses and all gradients; restore the buffers."""
        assert self._computed is not None
        self._computed.before.restore()
        for net in (self.train_state.model, self.train_state.loss_weighting):
            net.zero_grad(set_to_none=True)
        self._computed, self._done = None, None

    # ------------------------------------------------------------------------------ backward

    def backward(self, losses: Losses | Tensor) -> None:
        """Leave the gradients of these losses in `.grad` of the parameters."""
        if self._done is not None:
            raise MtlError(
                "Trainer.backward was called twice: call Trainer.apply(), then compute the losses "
                "of the next batch. To combine losses, pass their sum: backward(losses['a'] + ...)"
            )
        computed = self._computed
        if computed is None:
            raise MtlError("Trainer.backward needs losses: call Trainer.losses(batch) before it")
        given: Tensor | GivenLosses
        if isinstance(losses, Tensor):
            self._check(losses, "the loss")
            given = losses
        else:
            given = GivenLosses(self._in_order(losses, computed), computed.gram)
        try:
            self._done = self._differentiate(given, computed)
        except BaseException:
            # Some gradients may have been written already.
            self._forget()
            raise

    def _differentiate(self, losses: Tensor | GivenLosses, computed: Computed) -> Differentiated:
        if isinstance(losses, GivenLosses):
            return differentiate(self.train_state, losses)
        with graph_context(once_per_loss=True):
            self.train_state.fabric.backward(losses)
        values = torch.stack([value.detach() for value in computed.losses.values()])
        return Differentiated(tuple(computed.losses), values, None)

    def _in_order(self, losses: Losses, computed: Computed) -> dict[str, Tensor]:
        """Return the losses in the order of the step. Raises MtlError if one is not of the step."""
        known = computed.losses
        for label, loss in losses.items():
            if label not in known:
                raise MtlError(
                    f"Trainer.backward: this step has no loss {label!r}; {nearest(label, known)}"
                )
            self._check(loss, f"losses[{label!r}]")
        if not losses:
            raise MtlError(f"Trainer.backward: no loss was given, expected some of {[*known]}")
        if computed.gram is not None:
            changed = [name for name in known if losses.get(name) is not known[name]]
            if changed:
                raise MtlError(
                    'Trainer.backward: weighting.at = "features" needs the losses exactly as '
                    f"Trainer.losses returned them, but {changed[0]} is missing or changed: "
                    'pass all of them unchanged, or set weighting.at = "parameters"'
                )
        return {name: losses[name] for name in known if name in losses}

    def _check(self, loss: object, what: str) -> None:
        """Raise MtlError unless this is a loss of the last batch that can be differentiated."""
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise MtlError(f"Trainer.backward: {what} is {got}, expected a scalar tensor")
        if not loss.requires_grad:
            raise MtlError(
                f"Trainer.backward: {what} has no gradient: compute it from the result of "
                "Trainer.losses, without detach(), item() and torch.no_grad()"
            )
        if self._call_of.get(loss, self._calls) != self._calls:
            raise MtlError(
                f"Trainer.backward: {what} belongs to an older batch: pass the result of the last "
                "Trainer.losses(batch)"
            )

    # ------------------------------------------------------------------------------ apply

    def apply(self, optimizer: torch.optim.Optimizer | None = None) -> Logged:
        """Take the optimizer step. -> device scalars, as `train_step` returns them."""
        train_state, computed, done = self.train_state, self._computed, self._done
        if computed is None or done is None:
            missing = (
                "losses(batch) and backward(losses)" if computed is None else "backward(losses)"
            )
            raise MtlError(f"Trainer.apply needs gradients: call Trainer.{missing} before it")
        own = None
        if optimizer is not None and optimizer is not train_state.optimizer.optimizer:
            _refuse_foreign(optimizer, train_state.model)
            own = train_state.wrapped(optimizer)
        train_state.encoded = computed.encoded
        self._computed, self._done = None, None
        return update(train_state, done, computed.before, own) | computed.unfollowed


def _refuse_foreign(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raise MtlError if an optimizer holds no parameter of the model."""
    known = {id(p) for p in model.parameters()}
    for group in optimizer.param_groups:
        if any(id(p) in known for p in group["params"]):
            return
    raise MtlError(
        "Trainer.apply got an optimizer without any parameter of this trainer's model: build it "
        "from trainer.model.parameters(), or from those of trainer.encoder or of a head"
    )


def _modes(model: nn.Module) -> list[bool]:
    """Return for each module whether it is in training mode."""
    return [module.training for module in model.modules()]


def _mean(name: str, forwards: list[Forward]) -> Tensor:
    """The mean of a loss over the micro-batches, a scalar."""
    each = [losses[name] for losses, _ in forwards]
    return each[0] if len(each) == 1 else torch.stack(each).mean()
