"""timm's optimizers by name: `timm:adabelief`, `timm:lookahead_adabelief`, `timm:lamb`, ...

Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models.

The prefix `lookahead_` wraps an optimizer into Lookahead (Zhang et al. 2019, arXiv:1907.08610).
AdaBelief is of Zhuang et al. 2020, arXiv:2010.07468.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from attrs import field, frozen

from ..contracts import Optimizer, ParameterGroup
from ..errors import MtlError, nearest
from . import ranges
from .options import arguments_of, require_no_closure, require_options

LOOKAHEAD = "lookahead_"
REFUSED = {
    "adahessian": "it needs second derivatives of the losses",
    "kron": "it keeps random draws outside of its state, so a resumed run would differ",
}
"""How a name begins -> why a run can't use it."""


@frozen
class Timm(Optimizer):
    """An optimizer of timm. Needs the extra `timm`.

    method: timm's name, such as "adabelief", or "lookahead_adabelief" for Lookahead around it.
    lr: learning rate after the warm-up.
    weight_decay: decay of weights. Biases, norms and other vectors are not decayed.
    options: further arguments of timm's class, such as { betas = [0.9, 0.98] }.
    """

    name = "timm"
    family = True
    needs_extra = "timm"
    method: str
    lr: float = field(default=1e-3, validator=ranges.learning_rate)
    weight_decay: float = field(default=0.0, validator=ranges.decay)
    options: dict[str, Any] = field(factory=dict)

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        timm_optim = _import_timm()
        cls = self._class(timm_optim)
        require_options(self._where, self.options, arguments_of(cls))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                built: torch.optim.Optimizer = timm_optim.create_optimizer_v2(
                    groups, opt=self.method, lr=self.lr, **self.options
                )
        except (ValueError, TypeError, RuntimeError, AssertionError, ImportError) as error:
            raise MtlError(f"{self._where}: {error}") from error
        return built

    @property
    def _where(self) -> str:
        return f"[optimizer] timm:{self.method}"

    def _class(self, timm_optim: ModuleType) -> type[torch.optim.Optimizer]:
        """Return timm's class, below Lookahead. Raises MtlError if a run can't use it."""
        wrapped = self.method.removeprefix(LOOKAHEAD)
        known = timm_optim.list_optimizers()
        if wrapped not in known:
            raise MtlError(
                f"{self._where}: timm has no such optimizer; {nearest(wrapped, known)}; "
                f'"{LOOKAHEAD}" may stand before a name'
            )
        for start, reason in REFUSED.items():
            if wrapped.startswith(start):
                raise MtlError(f"{self._where} can't train this network: {reason}")
        try:
            cls: type[torch.optim.Optimizer] = timm_optim.get_optimizer_class(
                wrapped, bind_defaults=False
            )
        except (ImportError, AttributeError, AssertionError) as error:
            raise MtlError(f"{self._where} can't be used here: {error}") from error
        require_no_closure(self._where, cls)
        return cls


def _import_timm() -> ModuleType:
    try:
        import timm.optim
    except ImportError as error:
        raise MtlError(
            f'[optimizer] timm:<name> needs timm ({error}): pip install "mtlcore[timm]"'
        ) from error
    module: ModuleType = timm.optim
    return module
