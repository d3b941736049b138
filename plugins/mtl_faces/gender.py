"""Gender recognition: the two classes of face datasets, as perceived by their annotators."""

from __future__ import annotations

from attrs import frozen

from mtlcore import Classification, hookimpl


@frozen
class Gender(Classification):
    """Classify "gender" as male or female, in this order.

    by: metrics are also reported for each race and age band that the data has, with the number of
    faces, since an accuracy over all faces hides differences between groups.
    Other fields: as in classification.
    """

    reads: str = "gender"
    classes: tuple[str, ...] = ("male", "female")
    by: tuple[str, ...] = ("race", "age_band")


@hookimpl
def mtl_components() -> list[type]:
    return [Gender]
