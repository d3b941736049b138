"""`TrainState`: everything that an optimizer step reads and changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from attrs import define, field
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor, nn

from ..config.experiment import Experiment
from ..contracts import StepLosses
from ..model.hybrid import HybridModel
from ..networks import EMA
from ..rng import WEIGHTING, KeyedRng
from .optim import lr_at

Names = tuple[str, ...]
"""Labels of the tasks and pretexts of one step, in the order of the configuration."""


class CachedTaskWeights(TypedDict):
    """Cached task weights as a checkpoint stores them.

    names: K labels. task_weight: (K,) on the CPU. step: the step that measured them.
    """

    names: list[str]
    task_weight: Tensor
    step: int


@define(eq=False)
class TrainState:
    """Networks, optimizers and counters of a run.

    model: the network. module: the same network as the strategy wraps it (DDP).
    optimizer: of the model, as Fabric wraps it.
    loss_weighting_optimizer: of learned loss weights, or None. Fabric does not wrap it, so a
        GradScaler never scales their gradients.
    ema: average of the inference weights, or None.
    group_lrs: learning rate after the warm-up of each group of the optimizer.
    steps, step: optimizer steps of the whole run, and those done.
    encoded: images that this rank encoded in its last step.
    own_lr: a learning rate that replaces the schedule, or None.
    cached_task_weights: the tasks of a step -> (K,) task weights and the step that measured them.
        Weights measured for one set of tasks do not hold for another set.
    """

    experiment: Experiment
    model: HybridModel
    loss_weighting: nn.Module
    optimizer: _FabricOptimizer
    loss_weighting_optimizer: torch.optim.Optimizer | None
    ema: EMA | None
    module: nn.Module
    fabric: Fabric
    steps: int
    group_lrs: tuple[float, ...]
    step: int = 0
    steps_per_epoch: int = 1
    encoded: float = 0
    own_lr: float | None = None
    cached_task_weights: dict[Names, tuple[Tensor, int]] = field(factory=dict)
    _vectors: dict[Names, tuple[Tensor, Tensor]] = field(factory=dict)
    _row_memory: Tensor | None = None
    _wrapped: dict[torch.optim.Optimizer, _FabricOptimizer] = field(factory=dict)

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / self.steps

    def lr_at(self, step: int) -> float:
        """The learning rate of this step: that of the schedule, unless `own_lr` is set."""
        if self.own_lr is not None:
            return self.own_lr
        return lr_at(self.experiment.optimizer.lr, self.experiment.schedule, step, self.steps)

    def set_learning_rate(self) -> None:
        """Set the learning rate of the current step in the optimizers."""
        for group, lr in zip(self.optimizer.param_groups, self.group_lrs, strict=True):
            group["lr"] = self._group_lr(lr)
        if self.loss_weighting_optimizer:
            for group in self.loss_weighting_optimizer.param_groups:
                group["lr"] = self.lr_at(self.step)

    def _group_lr(self, lr: float) -> float:
        """The current learning rate of a group: the schedule scales all groups equally."""
        experiment = self.experiment
        if self.own_lr is not None:
            return self.own_lr * (lr / experiment.optimizer.lr)
        return lr_at(lr, experiment.schedule, self.step, self.steps)

    def wrapped(self, optimizer: torch.optim.Optimizer) -> _FabricOptimizer:
        """A user's optimizer, wrapped by Fabric."""
        if optimizer not in self._wrapped:
            wrapped = self.fabric.setup_optimizers(optimizer)
            assert isinstance(wrapped, _FabricOptimizer)
            self._wrapped[optimizer] = wrapped
        return self._wrapped[optimizer]

    @property
    def accumulated(self) -> int:
        """Number of micro-batches of a step on each rank."""
        world: int = self.fabric.world_size
        return (self.experiment.train.micro_batches or world) // world

    # ------------------------------------------------------------------------------ random draws

    def global_micro_batch(self, micro_batch: int) -> int:
        """The number, over all ranks, of this rank's micro-batch `micro_batch`.

        Samples and draws are keyed by it, never by the rank. So they are the same for any number of
        ranks with the same `train.micro_batches`.
        """
        return micro_batch * self.fabric.world_size + self.fabric.global_rank

    def keyed_rng(self, micro_batch: int, step: int | None = None) -> KeyedRng:
        """The generators of this rank's micro-batch `micro_batch` in a step (the current one)."""
        number = self.global_micro_batch(micro_batch)
        step = self.step if step is None else step
        return KeyedRng((self.experiment.seed, step, number), self.fabric.device)

    # ------------------------------------------------------------------------------ losses

    def weights_and_primary(self, names: Names) -> tuple[Tensor, Tensor]:
        """(K,) weights of the configuration, and (K,) bool: is it a supervised task?"""
        # Made once for each set of names: later steps copy nothing to the device.
        if names not in self._vectors:
            entries, tasks = self.experiment.entries, self.experiment.tasks
            weight = torch.tensor([entries[name].weight for name in names])
            primary = torch.tensor([name in tasks for name in names])
            device = self.fabric.device
            self._vectors[names] = weight.to(device), primary.to(device)
        return self._vectors[names]

    def step_losses(self, names: Names, values: Tensor, gram: Tensor | None) -> StepLosses:
        """The input of the weighting. values: (K,) losses. gram: (K, K), or None."""
        _, primary = self.weights_and_primary(names)
        epoch = self.step // self.steps_per_epoch
        # Keyed by the step alone: all ranks and all micro-batches of a step draw the same.
        rng = KeyedRng((self.experiment.seed, self.step), self.fabric.device)(WEIGHTING)
        return StepLosses(names, values, gram, primary, self.progress, epoch, rng)

    def gradient_rows(self, count: int, width: int) -> Tensor:
        """(count, width) zeros, in the memory of the step before."""
        # Newly allocated pages would cost a CPU 7 % of a step with 5 losses.
        if self._row_memory is None or self._row_memory.shape[1] != width:
            most = len(self.experiment.entries)
            self._row_memory = torch.empty(most, width, device=self.fabric.device)
        return self._row_memory[:count].zero_()

    # ------------------------------------------------------------------------------ task weights

    def must_measure(self, names: Names) -> bool:
        """Whether this step must measure the task weights of these tasks.

        It must if none are cached for this set of tasks, or if they are `every` steps old.
        """
        if names not in self.cached_task_weights:
            return True
        _, measured_at = self.cached_task_weights[names]
        return self.step - measured_at >= self.experiment.weighting.every

    def cache_task_weights(self, names: Names, task_weight: Tensor, ok: Tensor) -> None:
        """Cache measured task weights (K,). ok: () bool, False in a step that is skipped."""
        if names in self.cached_task_weights:
            before, _ = self.cached_task_weights[names]
        else:
            before = torch.ones_like(task_weight)
        # Task weights of a skipped step are as bad as its gradients: keep those before it.
        self.cached_task_weights[names] = torch.where(ok, task_weight, before), self.step

    def cached_task_weights_state(self) -> list[CachedTaskWeights]:
        """The cached task weights for a checkpoint, one entry for each set of tasks."""
        state: list[CachedTaskWeights] = []
        for names, (task_weight, step) in self.cached_task_weights.items():
            state.append({"names": [*names], "task_weight": task_weight.cpu(), "step": step})
        return state

    def load_cached_task_weights(self, state: Sequence[CachedTaskWeights]) -> None:
        """Load what `cached_task_weights_state` returned."""
        self.cached_task_weights = {}
        for saved in state:
            task_weight = saved["task_weight"].to(self.fabric.device)
            self.cached_task_weights[tuple(saved["names"])] = task_weight, int(saved["step"])
