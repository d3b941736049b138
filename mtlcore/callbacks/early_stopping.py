"""End a run whose figure no longer gets better (after Prechelt 1998, Early Stopping - But When?)."""

from __future__ import annotations

import math

from attrs import field, frozen
from attrs.validators import ge

from ..contracts import Callback, CallbackContext
from ..errors import MtlError, nearest


@frozen
class EarlyStopping(Callback):
    """Stop once `patience` consecutive evaluations brought nothing better.

    metric: a figure of the validation log, such as "fer/accuracy", "puzzling/loss", "probe/fer/linear" (default: the one that names
    the best checkpoint). patience: evaluations without a better figure; those that lack the figure don't count. min_delta: by how
    much it must be better, in its own units. The learning-rate schedule is that of the whole run, so it is cut off.
    """

    cites = "Prechelt 1998, Early Stopping - But When?"

    metric: str = ""
    patience: int = field(default=5, validator=ge(1))
    min_delta: float = field(default=0.0, validator=ge(0.0))

    def check(self, run: CallbackContext) -> None:
        if self.metric and self.metric not in run.better:
            raise MtlError(
                f"metric = {self.metric!r}: no such figure; {nearest(self.metric, run.better)}"
            )
        if not len(run.indices("validation")):
            raise MtlError(
                "there is no validation sample to measure on: set input.validation above 0"
            )

    def on_validation_end(self, run: CallbackContext) -> None:
        name = self.metric or run.main
        value, state = run.validation.get(name, math.nan), run.state
        if math.isnan(value):
            return
        sign, best = 1 if run.better[name] else -1, state.get("best")
        if best is None or sign * (value - best) > self.min_delta:
            state.update(best=value, step=run.step, waited=0)
            return
        state["waited"] += 1
        if state["waited"] >= self.patience:
            since = f"no better than {best:.4g} of step {state['step']} in {state['waited']} evaluations"
            run.stop(f"{name} = {value:.4g}, {since}")
