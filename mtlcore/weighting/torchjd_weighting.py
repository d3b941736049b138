"""TorchJD's scalarizers and Gramian weightings: `torchjd:UPGrad`, `torchjd:DWA`, ...

Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, arXiv:2406.16232;
https://torchjd.org (MIT license).

TorchJD computes the weights. This adapter adds:

- Names: the state of a method is keyed by task name. Tasks may be missing from a step, and a
  resumed run continues exactly.
- Units: task weights of 1 mean the sum of losses. Most weights of TorchJD add up to 1; these are
  multiplied by K.
- Precision: a Gramian is divided by its mean diagonal and solved in float64 on the CPU, which costs
  one host sync on a GPU. If it is not finite, the objective is the sum of losses; the core then
  skips the step anyway.
- Zero gradients: a task whose gradient is exactly 0 gets the task weight 1, which has no effect.
  The others get the task weights that they would have without it.
- Random draws: TorchJD draws from torch's global generator. It is seeded from the step's own
  generator, and restored afterwards.

`torchjd_methods.py` is the table of methods, `torchjd_gramian.py` adapts the Gramian weightings,
`torchjd_scalarizers.py` the scalarizers.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, in_, le
from torch import nn

from ..contracts import LossWeighting
from ..errors import MtlError, nearest
from .torchjd_gramian import gramian_module
from .torchjd_methods import METHODS, Method, method_named
from .torchjd_scalarizers import scalarizer_module

# The adapters set private attributes of TorchJD, so other series are refused.
SERIES = "0.18"
INSTALL = "pip install 'mtlcore[torchjd]'"
INSTALL_SOLVERS = "pip install 'mtlcore[torchjd-solvers]'"
# Parameters of TorchJD's classes that a configuration can't set.
NOT_OPTIONS = ("shape", "min_losses", "weights", "reference", "pref_vector", "projector")


@frozen
class TorchJD(LossWeighting):
    """A method of TorchJD.

    method: TorchJD's name of it ("UPGrad", "DWA"), or an alias ("RLW").
    at: "losses" for scalarizers; "parameters" (the default) or "features" for Gramian weightings.
    every: measure gradients at each `every`-th step, and use the same task weights in between.
    options: parameters of the method, such as { c = 0.4 }.

    TorchJD's preference vectors are not available: use the `weight` of each task instead.
    """

    name = "torchjd"
    needs_extra = "torchjd"
    family = True
    cites = "TorchJD: Quinton and Rey 2024, arXiv:2406.16232; and each method's own paper"
    method: str = field(converter=method_named)
    at: Literal["losses", "parameters", "features"] = field(
        validator=in_(("losses", "parameters", "features"))
    )
    every: int = field(default=1, validator=and_(ge(1), le(10**9)))
    options: dict[str, Any] = field(factory=dict)

    @at.default
    def _at_level(self) -> str:
        return "losses" if self.about.level == "losses" else "parameters"

    @at.validator
    def _at_fits(self, attribute: Attribute[str], value: str) -> None:
        needs_losses = self.about.level == "losses"
        if (value == "losses") != needs_losses:
            expected = "'losses'" if needs_losses else "'parameters' or 'features'"
            raise MtlError(f"weighting.at = {value!r}: torchjd:{self.method} works at {expected}")

    @every.validator
    def _every_fits(self, attribute: Attribute[int], value: int) -> None:
        if value != 1 and self.at == "losses":
            raise MtlError(
                f"weighting.every = {value}: torchjd:{self.method} reads the losses, "
                f"which cost nothing; remove weighting.every"
            )

    @options.validator
    def _options_are_numbers(
        self, attribute: Attribute[dict[str, object]], options: dict[str, object]
    ) -> None:
        """Raise MtlError for values that TorchJD would accept and misinterpret."""
        for name, value in options.items():
            where = f"weighting.options.{name} = {value!r}: torchjd:{self.method} expects"
            if isinstance(value, bool):
                raise MtlError(f"{where} a number")
            if name in self.about.positive and not (isinstance(value, int | float) and value > 0):
                raise MtlError(f"{where} a number above 0")

    @property
    def about(self) -> Method:
        """The entry of the method in the table, which needs no TorchJD."""
        return METHODS[self.method]

    @property
    def lacks(self) -> Mapping[str, str]:  # type: ignore[override]
        return self.about.lacks

    @property
    def additive(self) -> bool:  # type: ignore[override]
        return self.about.additive

    @property
    def protects(self) -> bool:  # type: ignore[override]
        """True if no step opposes the primary gradient."""
        return self.about.protects

    def build(self, names: Sequence[str]) -> nn.Module:
        if self.about.level == "gramian":
            return gramian_module(self, names)
        return scalarizer_module(self, names)

    def make(self, *shape: int) -> nn.Module:
        """Create TorchJD's own module, with the options of this weighting.

        shape: the number of tasks, for methods that need it.
        Raises MtlError if TorchJD or a solver is missing, or if an option is invalid.
        """
        cls = self._class()
        self._check_options(cls)
        options = {**self.about.defaults, **self.options}
        try:
            return cls(*shape, **options)
        except ImportError as error:
            raise MtlError(
                f"[weighting] torchjd:{self.method}: a solver is missing ({error}): "
                f"{INSTALL_SOLVERS}"
            ) from error
        except (TypeError, ValueError) as error:
            raise MtlError(
                f"[weighting] torchjd:{self.method}, options = {self.options}: {error}"
            ) from error

    def _class(self) -> type[nn.Module]:
        """Return TorchJD's class. Raises MtlError if TorchJD is missing or of another series."""
        is_gramian = self.about.level == "gramian"
        package = "torchjd.aggregation" if is_gramian else "torchjd.scalarization"
        class_name = f"{self.method}Weighting" if is_gramian else self.method
        try:
            version = importlib.metadata.version("torchjd")
            module = importlib.import_module(package)
        except ImportError as error:
            raise MtlError(
                f"[weighting] torchjd:{self.method} needs torchjd ({error}): {INSTALL}"
            ) from error
        if not version.startswith(f"{SERIES}."):
            raise MtlError(
                f"[weighting] torchjd {version} is installed; expected {SERIES}: {INSTALL}"
            )
        cls: type[nn.Module] = getattr(module, class_name)
        return cls

    def _check_options(self, cls: type[nn.Module]) -> None:
        """Raise MtlError for an option that the method does not have."""
        parameters = inspect.signature(cls).parameters
        known = [name for name in parameters if name not in NOT_OPTIONS]
        for name in self.options:
            if name not in known:
                raise MtlError(
                    f"weighting.options.{name}: torchjd:{self.method} has no such option; "
                    f"{nearest(name, known)}"
                )
