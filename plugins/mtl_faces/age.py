"""Age: years, as a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from mtlcore import Annotation, Regression, Rng, hookimpl

if TYPE_CHECKING:
    from torchmetrics import Metric


@frozen
class Age(Regression):
    """Predict "age" in years.

    by: metrics are also reported for each race and age band that the data has.
    Other fields: as in regression.
    """

    reads: str = "age"
    by: tuple[str, ...] = ("race", "age_band")

    def examples(self, n: int, rng: Rng) -> Annotation:
        """Draw (n,) years for the conformance kit, from 1 to 90."""
        years: np.ndarray = 1 + rng.randint(90, n).double().numpy()
        return years

    def metrics(self) -> dict[str, Metric]:
        """The metrics of regression, and cs5: the share of faces with an error of at most 5 years.

        CS@5 is the cumulative score of Geng et al., "Automatic Age Estimation Based on Facial Aging
        Patterns", TPAMI 2007.
        """
        from .age_metrics import CumulativeScore

        found = super().metrics()
        return {"mae": found.pop("mae"), "cs5": CumulativeScore(5.0), **found}


@hookimpl
def mtl_components() -> list[type]:
    return [Age]
