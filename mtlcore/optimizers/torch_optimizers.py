"""torch's optimizers by name: `torch:NAdam`, `torch:RMSprop`, ...

https://docs.pytorch.org/docs/stable/optim.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import field, frozen

from ..contracts import Optimizer, ParameterGroup
from ..errors import MtlError, nearest
from . import ranges
from .options import arguments_of, require_no_closure, require_options

# Their fused steps allocate all of their state before a skip, with the values of a new optimizer.
FUSED = ("Adam", "AdamW")
REFUSED = {
    "SparseAdam": "it takes sparse gradients alone, and a run has none",
    "Rprop": "it finds its step sizes itself, from the gradients of all samples at once",
}


@frozen
class Torch(Optimizer):
    """An optimizer of `torch.optim`.

    method: its class, such as "NAdam".
    lr: learning rate after the warm-up.
    weight_decay: decay of weights. Biases, norms and other vectors are not decayed.
    options: further arguments of the class, such as { momentum_decay = 0.004 }.
    """

    name = "torch"
    family = True
    method: str
    lr: float = field(default=1e-3, validator=ranges.learning_rate)
    weight_decay: float = field(default=0.0, validator=ranges.decay)
    options: dict[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        require_options(self._where, self.options, arguments_of(self._class()))

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        options: dict[str, Any] = {"lr": self.lr, **self.options}
        if self.method in FUSED:
            options["fused"] = True
        try:
            return self._class()(groups, **options)
        except (ValueError, TypeError, RuntimeError) as error:
            raise MtlError(f"{self._where}: {error}") from error

    @property
    def _where(self) -> str:
        return f"[optimizer] torch:{self.method}"

    def _class(self) -> type[torch.optim.Optimizer]:
        """Return torch's class. Raises MtlError if a run can't use it."""
        known = {
            name: cls
            for name, cls in vars(torch.optim).items()
            if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
        }
        del known["Optimizer"]
        if self.method not in known:
            raise MtlError(
                f"{self._where}: torch.optim has no such class; {nearest(self.method, known)}"
            )
        cls = known[self.method]
        if self.method in REFUSED:
            raise MtlError(f"{self._where} can't train this network: {REFUSED[self.method]}")
        require_no_closure(self._where, cls)
        return cls
