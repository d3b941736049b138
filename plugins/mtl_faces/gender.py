"""Gender recognition: the two classes that data sets of faces label, as perceived by their annotators."""

from __future__ import annotations

from attrs import frozen

from mtlcore import Classification, hookimpl


@frozen
class Gender(Classification):
    """Reads "gender". The outputs' order is fixed: male, female. Other fields: as in classification.

    by: the figures are also given for each race and age band where the data has them, with the number of faces: an accuracy over
    all faces hides how much it differs between people.
    """

    reads: str = "gender"
    classes: tuple[str, ...] = ("male", "female")
    by: tuple[str, ...] = ("race", "age_band")


@hookimpl
def mtl_components() -> list[type]:
    return [Gender]
