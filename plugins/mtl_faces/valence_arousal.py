"""Valence and arousal: how pleasant and how excited a face looks, two numbers in [-1, 1] (AffectNet's other labels)."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen
from torch import Tensor

from mtlcore import Regression, hookimpl


@frozen
class ValenceArousal(Regression):
    """Reads "valence_arousal" (N, 2). Numbers outside of [-1, 1] are no labels: AffectNet writes -2 for "none".

    Other fields: as in regression.
    """

    reads: str = "valence_arousal"
    outputs: tuple[str, ...] = ("valence", "arousal")

    def known(self, values: np.ndarray) -> np.ndarray:
        return super().known(values) & (np.abs(values) <= 1).all(1)

    def decode(self, output: Tensor) -> Tensor:
        """(B, 2) standardized -> (B, 2) valence and arousal, kept in [-1, 1]."""
        return super().decode(output).clamp(-1, 1)

    def metrics(self) -> dict[str, Any]:
        """ccc: the mean of the two concordance correlation coefficients (Lin 1989), over all samples at once; then each of them,
        and the metrics of regression.
        """
        from .valence_arousal_metrics import concordance

        return {**concordance(), **super().metrics()}


@hookimpl
def mtl_components() -> list[type]:
    return [ValenceArousal]
