"""`synthfaces`: rendered faces with exact labels for emotion, head pose and gender-like appearance.

Needs no download and no root: a row IS an index, and the image is computed from it. For demos, tests and benchmarks;
no figure on it says anything of real faces.
"""

from __future__ import annotations

from functools import lru_cache
from threading import Lock

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import ge

from mtlcore import Dataset, Index, hookimpl

from ..emotions import Emotion
from ..synth import labels, render

_TEST_STARTS = 2**40  # test faces are the same however many faces train
_CHUNK = 64
_one_renders = Lock()  # threads that ask for neighbors wait for one rendering of them
_GENDERS = np.array(["male", "female"])
_EMOTIONS = np.array([str(e) for e in Emotion])


@lru_cache(maxsize=48)
def _chunk(seed: int, size: int, number: int) -> np.ndarray:
    """Neighbors are rendered together: (64, size, size, 3) uint8. 48 such hold the default set in 40 MB."""
    images = render(torch.arange(number * _CHUNK, (number + 1) * _CHUNK), size, seed)
    return images.permute(0, 2, 3, 1).contiguous().numpy()


@frozen
class Synthfaces(Dataset):
    """Rendered faces: annotations "emotion" (names), "pose_deg" (yaw, pitch, roll), "gender" ("male", "female").

    train, test: how many faces of each split; more of them adds faces and changes none. size: pixels a side.
    seed: another one gives other people.
    """

    train: int = field(default=2000, validator=ge(0))
    test: int = field(default=500, validator=ge(0))
    size: int = field(default=64, validator=ge(16))
    seed: int = 0

    def index(self) -> Index:
        numbers = self._numbers()
        exact = labels(torch.from_numpy(numbers), self.seed)
        split = np.where(numbers < _TEST_STARTS, "train", "test")
        return Index(
            keys=np.array(
                [f"{s}/{n % _TEST_STARTS:06d}" for s, n in zip(split, numbers)], dtype=str
            ),
            annotations={
                "emotion": _EMOTIONS[exact.emotion.numpy()],
                "pose_deg": exact.pose_deg.numpy(),
                "gender": _GENDERS[exact.gender.numpy()],
            },
            split=split,
        )

    def decode(self, index: Index, row: int) -> np.ndarray:
        number = row if row < self.train else _TEST_STARTS + row - self.train
        with _one_renders:
            chunk = _chunk(self.seed, self.size, number // _CHUNK)
        return chunk[number % _CHUNK].copy()

    def _numbers(self) -> np.ndarray:
        return np.concatenate([np.arange(self.train), _TEST_STARTS + np.arange(self.test)])


@hookimpl
def mtl_components() -> list[type]:
    return [Synthfaces]
