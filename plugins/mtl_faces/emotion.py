"""Facial emotion recognition (FER): AffectNet's eight emotions, or the seven without contempt."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import evolve, frozen

from mtlcore import Annotation, Classification, Rng, hookimpl

from .emotions import Emotion


@frozen
class Fer(Classification):
    """Classify the basic emotions, in AffectNet's order.

    The order is neutral, happiness, sadness, surprise, fear, disgust, anger, contempt.

    emotions: 8, or 7 without contempt (FER2013, RAF-DB, AffectNet-7).
    Other fields: as in classification.
    """

    reads: str = "emotion"
    emotions: Literal[7, 8] = 8

    def fit(self, annotation: Annotation) -> Fer:
        """Fix the order of the outputs, whichever classes the training set has."""
        return super(Fer, self._named()).fit(annotation)  # type: ignore[return-value]

    def examples(self, n: int, rng: Rng) -> Annotation:
        """Draw (n,) emotions for the conformance kit."""
        return super(Fer, self._named()).examples(n, rng)

    def _named(self) -> Fer:
        """Return a copy with its classes set."""
        names = tuple(str(emotion) for emotion in Emotion)
        return evolve(self, classes=self.classes or names[: self.emotions])


@hookimpl
def mtl_components() -> list[type]:
    return [Fer]


@hookimpl
def mtl_examples() -> dict[str, Path]:
    return {"demo": Path(__file__).with_name("demo.toml")}
