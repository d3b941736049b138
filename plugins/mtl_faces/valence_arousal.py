"""Valence and arousal: how pleasant and how excited a face looks, AffectNet's other labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen
from torch import Tensor

from mtlcore import Regression, hookimpl

if TYPE_CHECKING:
    from torchmetrics import Metric


@frozen
class ValenceArousal(Regression):
    """Predict "valence_arousal" (N, 2), two numbers in [-1, 1].

    Numbers outside of [-1, 1] count as missing: AffectNet writes -2 for "none".

    Other fields: as in regression.
    """

    reads: str = "valence_arousal"
    outputs: tuple[str, ...] = ("valence", "arousal")

    def known(self, values: np.ndarray) -> np.ndarray:
        return super().known(values) & (np.abs(values) <= 1).all(1)

    def decode(self, output: Tensor) -> Tensor:
        """(B, 2) standardized -> (B, 2) valence and arousal, clamped to [-1, 1]."""
        return super().decode(output).clamp(-1, 1)

    def metrics(self) -> dict[str, Metric]:
        """Concordance and the metrics of regression.

        ccc: mean of the two concordance correlation coefficients (Lin 1989), over all samples.
        ccc_valence, ccc_arousal: each of them.
        """
        from .valence_arousal_metrics import concordance

        return {**concordance(), **super().metrics()}


@hookimpl
def mtl_components() -> list[type]:
    return [ValenceArousal]
