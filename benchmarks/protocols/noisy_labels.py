"""Datasets with symmetric label noise: a share of the training labels is another class at random.

`noisy_folder` and `noisy_fer2013` are `image_folder` and `fer2013` with noise. The same labels are
wrong in every run. Other splits have no noise, but a validation split that is cut from train has.
"""

from __future__ import annotations

import numpy as np
from attrs import evolve, field, frozen
from attrs.validators import and_, ge, lt
from mtl_faces.sources.fer2013 import Fer2013

from mtlcore import Categories, Index, MtlError, hookimpl
from mtlcore.data.folder import ImageFolder

share = and_(ge(0.0), lt(1.0))


@frozen
class NoisyFolder(ImageFolder):
    """`image_folder` with label noise.

    noise: share of the training labels that are wrong.
    """

    noise: float = field(default=0.4, validator=share)

    def index(self) -> Index:
        return with_noise(super().index(), self.annotation, self.noise)


@frozen
class NoisyFer2013(Fer2013):
    """`fer2013` with label noise.

    noise: share of the training labels that are wrong.
    """

    noise: float = field(default=0.4, validator=share)

    def index(self) -> Index:
        return with_noise(super().index(), "emotion", self.noise)


def with_noise(index: Index, annotation: str, noise: float) -> Index:
    """Return the index with a share of its training labels replaced by another class.

    Raises MtlError if the dataset has no split of its own.
    """
    labels = index.annotations[annotation]
    assert isinstance(labels, Categories)
    if index.split is None:
        raise MtlError(
            "noisy_folder and noisy_fer2013 need a dataset with splits, such as train/<class>/ and "
            "test/<class>/: only training labels become wrong"
        )
    classes = np.flatnonzero(np.asarray(labels.names) != "")
    labeled = np.flatnonzero(index.split.isin("train") & np.isin(labels.codes, classes))

    rng = np.random.default_rng(0)
    wrong = rng.permutation(labeled)[: round(noise * len(labeled))]
    now = np.searchsorted(classes, labels.codes[wrong])
    codes = labels.codes.copy()
    # 1 to K - 1 places further: never the class itself.
    other = (now + rng.integers(1, len(classes), len(wrong))) % len(classes)
    codes[wrong] = classes[other]
    annotations = index.annotations | {annotation: Categories(codes, labels.names)}
    return evolve(index, annotations=annotations)


@hookimpl
def mtl_components() -> list[type]:
    return [NoisyFolder, NoisyFer2013]
