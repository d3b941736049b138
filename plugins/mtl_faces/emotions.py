"""The list of emotions: every dataset maps its labels to these names, so orders cannot be mixed."""

from __future__ import annotations

from enum import StrEnum


class Emotion(StrEnum):
    """The eight emotions in AffectNet's order.

    A dataset with fewer uses a subset; AffectNet-7 omits contempt, the last.
    """

    NEUTRAL = "neutral"
    HAPPINESS = "happiness"
    SADNESS = "sadness"
    SURPRISE = "surprise"
    FEAR = "fear"
    DISGUST = "disgust"
    ANGER = "anger"
    CONTEMPT = "contempt"


BY_FOLDER = {str(emotion): emotion for emotion in Emotion if emotion is not Emotion.CONTEMPT} | {
    "happy": Emotion.HAPPINESS,
    "sad": Emotion.SADNESS,
    "angry": Emotion.ANGER,
}
"""Folder in copies of datasets with seven emotions, in lower case -> emotion."""
