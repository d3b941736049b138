"""Stop a run whose validation metric no longer improves.

Prechelt 1998, Early Stopping - But When?
"""

from __future__ import annotations

import math

from attrs import field, frozen
from attrs.validators import and_, ge, le

from ..contracts import Callback, CallbackContext
from ..errors import MtlError, nearest


@frozen
class EarlyStopping(Callback):
    """Stop after `patience` consecutive evaluations without an improvement.

    The run must be evaluated before its end: `train.eval_every` must be above 0.

    The learning-rate schedule still covers the whole run, so an early stop cuts it off.

    metric: a metric of the validation log, such as "fer/accuracy", "puzzling/loss" or
        "probe/fer/linear" (default: the metric that selects the best checkpoint).
    patience: evaluations without an improvement; evaluations without this metric do not count.
    min_delta: the smallest change that counts as an improvement, in the units of the metric.
    """

    cites = "Prechelt 1998, Early Stopping - But When?"

    metric: str = ""
    patience: int = field(default=5, validator=and_(ge(1), le(10**9)))
    min_delta: float = field(default=0.0, validator=and_(ge(0.0), le(1e9)))

    def check(self, run: CallbackContext) -> None:
        if self.metric and self.metric not in run.better:
            raise MtlError(
                f"metric = {self.metric!r}: there is no such metric; "
                f"{nearest(self.metric, run.better)}"
            )
        if not len(run.indices("validation")):
            raise MtlError("the run has no validation samples; set input.validation above 0")
        name = self.metric or run.main
        task = name.partition("/")[0]
        if task in run.experiment.tasks:
            _, present = run.targets(task, run.indices("validation"))
            if not present.any():
                raise MtlError(
                    f"metric = {name!r}: no validation image has a label of task {task!r}, so it "
                    "is never measured; set metric to another one"
                )
        if not run.experiment.train.eval_every:
            raise MtlError(
                "train.eval_every = 0: the run is only evaluated at its end; "
                "set train.eval_every above 0"
            )

    def on_validation_end(self, run: CallbackContext) -> None:
        name, state = self.metric or run.main, run.state
        value = run.validation.get(name, math.nan)
        if math.isnan(value):
            return
        if state.setdefault("metric", name) != name:
            # A resumed run may watch another metric: the best value of before means nothing.
            state.clear()
            state["metric"] = name
        sign = 1 if run.better[name] else -1
        best = state.get("best")
        if best is None or sign * (value - best) > self.min_delta:
            state.update(best=value, step=run.step, waited=0)
            return
        state["waited"] += 1
        if state["waited"] >= self.patience:
            run.stop(
                f"{name} = {value:.4g}, no better than {best:.4g} of step {state['step']} "
                f"in {state['waited']} evaluations"
            )
