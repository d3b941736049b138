"""`synthfaces`: rendered faces with exact labels for emotion, head pose and gender-like appearance.

It needs no download and no root: each image is computed from its sample number. It is for demos,
tests and benchmarks. Metrics on it do not transfer to real faces.
"""

from __future__ import annotations

from functools import lru_cache
from threading import Lock

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import and_, ge, le

from mtlcore import Dataset, Index, Sample, hookimpl

from ..emotions import Emotion
from ..synth import labels, render

_TEST_STARTS = 2**40  # so the test faces do not depend on the number of training faces
_CHUNK = 64
_render_lock = Lock()  # threads that need the same chunk wait for one rendering of it
_GENDERS = np.array(["male", "female"])
_EMOTIONS = np.array([str(e) for e in Emotion])


@lru_cache(maxsize=48)
def _chunk(seed: int, size: int, number: int) -> np.ndarray:
    """Render neighboring faces together: (64, size, size, 3) uint8.

    48 chunks hold the default dataset in 40 MB.
    """
    images = render(torch.arange(number * _CHUNK, (number + 1) * _CHUNK), size, seed)
    return images.permute(0, 2, 3, 1).contiguous().numpy()


@frozen
class Synthfaces(Dataset):
    """Render faces: annotations "emotion", "pose_deg" and "gender".

    "emotion" and "gender" ("male", "female") are names; "pose_deg" is yaw, pitch, roll in degrees.

    train, test: number of faces in each split. A larger number adds faces and changes none.
    size: of the square images, pixels.
    seed: another seed gives other people.
    """

    train: int = field(default=2000, validator=and_(ge(0), le(10**6)))
    test: int = field(default=500, validator=and_(ge(0), le(10**6)))
    size: int = field(default=64, validator=and_(ge(16), le(1024)))
    seed: int = 0

    def index(self) -> Index:
        numbers = self._numbers()
        exact = labels(torch.from_numpy(numbers), self.seed)
        split = np.where(numbers < _TEST_STARTS, "train", "test")
        keys = [f"{name}/{n % _TEST_STARTS:06d}" for name, n in zip(split, numbers)]
        return Index(
            keys=np.array(keys, dtype=str),
            annotations={
                "emotion": _EMOTIONS[exact.emotion.numpy()],
                "pose_deg": exact.pose_deg.numpy(),
                "gender": _GENDERS[exact.gender.numpy()],
            },
            split=split,
        )

    def decode(self, index: Index, i: int) -> Sample:
        number = i if i < self.train else _TEST_STARTS + i - self.train
        with _render_lock:
            chunk = _chunk(self.seed, self.size, number // _CHUNK)
        return Sample(chunk[number % _CHUNK].copy())

    def _numbers(self) -> np.ndarray:
        """The face number of each sample, (N,) int64."""
        return np.concatenate([np.arange(self.train), _TEST_STARTS + np.arange(self.test)])


@hookimpl
def mtl_components() -> list[type]:
    return [Synthfaces]
