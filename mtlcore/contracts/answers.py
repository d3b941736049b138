"""`AnswerFormat`: how the numbers that a task predicts become an answer in words."""

from __future__ import annotations

from typing import Literal

from attrs import frozen
from torch import Tensor

from .samples import Answer

PRESENT = 0.5
"""A yes-or-no label with at least this probability counts as present."""


@frozen
class AnswerFormat:
    """The meaning of the n numbers that a task predicts for each sample.

    form: "label": probabilities of classes, of which one is true. "labels": probabilities of
    yes-or-no labels. "values": numbers in real units.
    names: of the n numbers. Default: "value" for one number, "0", "1", ... for several.
    unit: of values, such as "degrees". "" means the unit of the annotation.
    """

    form: Literal["label", "labels", "values"]
    names: tuple[str, ...] = ()
    unit: str = ""

    def answers(self, numbers: Tensor) -> list[Answer]:
        """Convert numbers (B, n), or (B,), to one answer for each sample.

        - "label": {"label": name, "probability": its, "probabilities": {name: number}}
        - "labels": {"labels": [names], "probabilities": {name: number}}
        - "values": {name: number}
        """
        rows = numbers.float().reshape(numbers.shape[0], -1).tolist()
        return [self._answer(row) for row in rows]

    def _answer(self, row: list[float]) -> Answer:
        named = dict(zip(self.names or _default_names(len(row)), row, strict=True))
        if self.form == "values":
            return named
        if self.form == "labels":
            present = [name for name, probability in named.items() if probability >= PRESENT]
            return {"labels": present, "probabilities": named}
        label = max(named, key=named.__getitem__)
        return {"label": label, "probability": named[label], "probabilities": named}


def _default_names(n: int) -> list[str]:
    return ["value"] if n == 1 else [str(number) for number in range(n)]
