"""The one list of emotions: every data set maps its labels to these NAMES, so that no two orders can be mixed up."""

from __future__ import annotations

from enum import StrEnum


class Emotion(StrEnum):
    """The eight emotions in AffectNet's order. A set with fewer takes those it has; AffectNet-7 leaves out the last."""

    NEUTRAL = "neutral"
    HAPPINESS = "happiness"
    SADNESS = "sadness"
    SURPRISE = "surprise"
    FEAR = "fear"
    DISGUST = "disgust"
    ANGER = "anger"
    CONTEMPT = "contempt"
