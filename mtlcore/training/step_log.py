"""The training rows of metrics.jsonl."""

from __future__ import annotations

from attrs import frozen

from .loop import is_due
from .setup import RunParts
from .step import Logged


@frozen(eq=False)
class StepLog:
    """Collects the scalars of each step, and logs their means every `log_every` steps."""

    parts: RunParts

    def add(self, logged: Logged, lr: float) -> None:
        """Keep the scalars of a step, and log at each `log_every`-th step. lr: learning rate."""
        train_state = self.parts.train_state
        self.parts.record.add(logged, train_state.encoded * train_state.fabric.world_size)
        log_every = train_state.experiment.train.log_every
        if is_due(train_state.step, log_every) or train_state.step == train_state.steps:
            self._write(lr)

    def flush(self) -> None:
        """Log the steps since the last logged one, at the end of a run that a callback ends."""
        if self.parts.record.has_pending:
            self._write(self.parts.train_state.lr_at(self.parts.train_state.step - 1))

    def _write(self, lr: float) -> None:
        """Log the means since the last logged step."""
        parts, train_state, record = self.parts, self.parts.train_state, self.parts.record
        means = record.flush()
        if not parts.callbacks.is_main:
            return
        row = {
            "step": train_state.step,
            "epoch": round(train_state.step / train_state.steps_per_epoch, 3),
            "lr": lr,
            **means,
            "skipped": record.skipped,
            "encoded": round(record.encoded),
            "cpu_s": round(record.cpu_s, 2),
        }
        if parts.callbacks.running:
            parts.callbacks.call("on_log", row)
        elif parts.checkpoints is not None:
            # No callbacks: only `Trainer.run` calls their on_train_start and teardown.
            parts.checkpoints.folder.log.append(row)
