"""`Trainer`: whole steps of an experiment, or their parts; `train`: a complete run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from ..callbacks.bars import reporter_of
from ..callbacks.progress import ProgressReporter
from ..config import resolve
from ..config.experiment import Experiment
from ..errors import MtlError
from ..model.hybrid import HybridModel
from ..model.inference import Inference, SharedEncoder
from .by_hand import ByHand, StepBatch
from .checkpoint import Checkpoints
from .devices import leave_together
from .loop import RunLoop
from .one_at_a_time import only_training
from .record import Diverged
from .result import Result
from .resume import experiment_to_resume
from .run_lock import unlock_run
from .setup import RunParts, set_up
from .step import train_step
from .step_log import StepLog
from .stop import Interrupted


def train(
    experiment: Experiment,
    out: Path,
    *,
    resume: bool = False,
    reporter: ProgressReporter | None = None,
) -> Result:
    """Train an experiment into the folder `out`, or resume the run of that folder.

    Raises MtlError for everything that a user can correct, and Interrupted after Ctrl-C, SIGTERM,
    SIGHUP or SIGUSR1, once the run is saved.
    """
    return trainer_of(set_up(experiment, out, resume, reporter))._run()


def trainer_of(parts: RunParts) -> Trainer:
    """A trainer of these parts, which are already set up."""
    trainer = Trainer.__new__(Trainer)
    trainer._begin(parts, nullcontext())
    return trainer


class Trainer:
    """An experiment that is ready to train: its data is read, and its networks are built.

    `step()` takes one optimizer step, exactly as `mtl train` does. `run()` takes all remaining
    steps. The parts of a step are

        batch = trainer.batch()          # images and targets of this step
        losses = trainer.losses(batch)   # label -> scalar with gradient
        trainer.backward(losses)         # weights of the configuration, loss weighting
        trainer.apply()                  # learning rate, clipping, optimizer, momentum copies

    The parts work on one device only. With one micro-batch and a weighting that reads losses, they
    give the same weights as `step()`, bit for bit. Otherwise, the weights differ by rounding.

    experiment: the experiment.
    out: the run folder for metrics.jsonl and checkpoints. It must be new, unless `resume` is True.
    None: nothing is written.
    resume: continue the run in `out` from its last checkpoint. `experiment` must be the one that
    the run was started with. Only keys that no random draw depends on may differ, such as
    `train.steps`, `train.devices` and the paths of the data.
    progress: show progress bars of the preparation and of `run()`, and messages, in the terminal or
    the notebook. A `ProgressReporter` receives them instead.

    Forward passes seed torch's global generator: use a `torch.Generator` for your own draws.
    Raises MtlError for everything that a user can correct.
    """

    parts: RunParts

    def __init__(
        self,
        experiment: Experiment,
        out: str | Path | None = None,
        *,
        resume: bool = False,
        progress: bool | ProgressReporter = True,
    ) -> None:
        if not isinstance(experiment, Experiment):
            raise MtlError(
                f"Trainer({experiment!r}): expected an Experiment; "
                "mtlcore.load_experiment(PATH) reads one from a TOML file"
            )
        if out is None and resume:
            raise MtlError(f"resume=True needs the folder of a run: {_WITH_FOLDER}")
        folder = None if out is None else Path(out)
        complete = resolve(experiment)
        if folder is not None and resume:
            complete = experiment_to_resume(complete, folder)
        reporter, shown = reporter_of(progress)
        with shown:
            self._begin(set_up(complete, folder, resume, reporter), shown)

    def _begin(self, parts: RunParts, shown: AbstractContextManager[object]) -> None:
        self.parts = parts
        self._by_hand = ByHand(parts.train_state)
        self._log = StepLog(parts)
        self._shown = shown

    # ------------------------------------------------------------------------------ what there is

    @property
    def experiment(self) -> Experiment:
        """The experiment, with everything that was learned from its data."""
        return self.parts.train_state.experiment

    @property
    def model(self) -> HybridModel:
        """The network in training: the shared encoder and the heads of all tasks and pretexts."""
        return self.parts.train_state.model

    @property
    def encoder(self) -> SharedEncoder:
        """The shared encoder: images (B, 3, H, W) in [0, 1] -> Features. It normalizes them."""
        return self.model.encoder

    @property
    def heads(self) -> dict[str, nn.Module]:
        """Label -> head, tasks first."""
        return dict(self.model.heads.items())

    @property
    def inference(self) -> Inference:
        """The network to evaluate, with EMA weights if the run has any. Call `eval()` first."""
        return self.parts.callbacks.network

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the configuration."""
        return self.parts.train_state.optimizer.optimizer

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that several losses train: those of the encoder and of shared heads."""
        return self.model.shared()

    @property
    def steps(self) -> int:
        """Number of optimizer steps of the whole run."""
        return self.parts.train_state.steps

    @property
    def step_number(self) -> int:
        """Number of completed optimizer steps, including skipped ones."""
        return self.parts.train_state.step

    @property
    def progress(self) -> float:
        """Completed share of the steps, in [0, 1]."""
        return self.parts.train_state.progress

    @property
    def skipped(self) -> int:
        """Number of steps skipped because of a gradient that is not finite. Waits for the GPU."""
        return self.parts.record.skipped_so_far()

    @property
    def lr(self) -> float:
        """The learning rate of the next step, from the configured schedule.

        Set it to use a custom schedule. From then on, the configured schedule is not used, and each
        step uses the last value that was set. Checkpoints do not save it.
        """
        return self.parts.train_state.lr_at(self.step_number)

    @lr.setter
    def lr(self, value: float) -> None:
        if not math.isfinite(value) or value < 0:
            raise MtlError(f"Trainer.lr = {value}: expected a finite number of at least 0")
        self.parts.train_state.own_lr = float(value)

    # ------------------------------------------------------------------------------ whole steps

    def step(self) -> dict[str, Tensor]:
        """Take one optimizer step, as `mtl train` does. -> label -> loss, on the device.

        The host waits for the device only at each `log_every`-th step.
        """
        self._by_hand.start("step")
        train_state = self.parts.train_state
        train_state.set_learning_rate()
        lr = self.lr
        logged = train_step(train_state, self.batch().micro_batches)
        self._log.add(logged, lr)
        losses = (name for name in logged if name.startswith("loss/"))
        return {name.removeprefix("loss/"): logged[name] for name in losses}

    def run(self) -> Result:
        """Take all remaining steps, with evaluation, checkpoints, callbacks, and the log.

        After Ctrl-C or another signal to stop, it saves the run at the next step and raises
        Interrupted. A process trains one run at a time: a second call raises MtlError, but
        `step()` and the parts do not check this. On several devices, it destroys the process
        group: compute nothing after it.
        """
        self._by_hand.start("run")
        folder = self._checkpoints().folder.path
        with only_training(folder), self._shown:
            return self._run()

    def _run(self) -> Result:
        parts, fabric = self.parts, self.parts.train_state.fabric
        loop = RunLoop(
            self,
            parts.train_state,
            parts.data,
            parts.record,
            parts.callbacks,
            self._checkpoints(),
            self._log,
        )
        try:
            result = loop.run()
        except (Interrupted, Diverged):
            # All ranks raise these together.
            leave_together(fabric)
            raise
        finally:
            parts.loader.close()
            unlock_run(loop.checkpoints.folder.path)
        leave_together(fabric)
        return result

    def save(self) -> None:
        """Save a checkpoint of this step, from which `mtl train --resume OUT` continues."""
        self._by_hand.start("save")
        self._checkpoints().save("last")

    def _checkpoints(self) -> Checkpoints:
        if self.parts.checkpoints is None:
            raise MtlError(f"this Trainer has no folder to write to: {_WITH_FOLDER}")
        return self.parts.checkpoints

    # ------------------------------------------------------------------------------ parts of a step

    def batch(self, step: int | None = None) -> StepBatch:
        """Read the batches of a step (default: the next one).

        They are a function of the step alone. Raises MtlError if the run has no such step.
        """
        train_state, loader = self.parts.train_state, self.parts.loader
        number = train_state.step if step is None else step
        if not 0 <= number < train_state.steps:
            raise MtlError(
                f"there is no step {number}: the run has steps 0 to {train_state.steps - 1}. "
                "Set train.steps to a larger number"
            )
        batches = []
        for micro_batch in range(train_state.accumulated):
            batches.append(loader.batch(number, train_state.global_micro_batch(micro_batch)))
        return StepBatch(number, tuple(batches))

    def losses(self, batch: StepBatch) -> dict[str, Tensor]:
        """Compute the losses of a batch. -> label -> fp32 scalar with gradient.

        Each is the mean over the whole step, without weights. With several micro-batches, the
        graphs of all of them are in memory at once. Losses without `apply`, such as those of a
        measurement, do not change the training.

        Raises MtlError on more than one device.
        """
        return self._by_hand.losses(batch)

    def backward(self, losses: Mapping[str, Tensor] | Tensor) -> None:
        """Compute the gradients of the last losses, in `.grad` of the parameters.

        losses: a dict as `losses` returned it, a part of it, or scalars computed from it. They are
        multiplied by the weights of the configuration and combined by the loss weighting. A single
        scalar tensor is differentiated without weights.
        """
        self._by_hand.backward(losses)

    def apply(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Clip the gradients, step the optimizer, update the momentum copies, count the step.

        A step whose gradient norm is not finite changes nothing, and is counted in `skipped`.

        optimizer: used instead of that of the configuration, with its own learning rate. Only the
        gradients of its parameters are clipped. The host waits for the gradient norm.
        """
        self.parts.train_state.set_learning_rate()
        lr = self.lr if optimizer is None else float(optimizer.param_groups[0]["lr"])
        self._log.add(self._by_hand.apply(optimizer), lr)


_WITH_FOLDER = 'create it with a folder, mtlcore.Trainer(experiment, out="runs/NAME")'
