"""What the tests of `mtl serve` share: an untrained predictor of three tasks, images, detectors."""

from __future__ import annotations

import io
import threading

import numpy as np
import torch
from attrs import field, frozen
from mtl_faces.head_pose import HeadPose
from PIL import Image
from toys import Toy

from mtlcore import BuildContext, Classification, Detections, Detector, Multilabel, Predictor
from mtlcore.augment.levels import Validation
from mtlcore.model.inference import Inference, SharedEncoder
from mtlcore.model.preprocess import Preprocess

SIZE = (16, 16)
TASKS = {
    "quarter": Classification(classes=("a", "b", "c", "d")),
    "looks": Multilabel(classes=("smile", "hat", "beard")),
    "pose": HeadPose(),
}


def predictor(detector: Detector | None = None, batch_size: int = 8) -> Predictor:
    """An untrained network for images of 16 x 16 pixels, which reads 0.8 of each side."""
    torch.manual_seed(0)
    encoder = SharedEncoder(Toy(), SIZE)
    heads = {
        label: task.build(BuildContext(encoder.info, encoder.net, {}))
        for label, task in TASKS.items()
    }
    preprocess = Preprocess((20, 20), SIZE, Validation(crop=0.8))
    net = Inference(encoder, heads).eval()
    return Predictor(net, TASKS, preprocess, batch_size=batch_size, detector=detector)


def image(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(drawn: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    drawn.save(buffer, form, **options)
    return buffer.getvalue()


def png(seed: int = 0, width: int = 40, height: int = 30) -> bytes:
    """The bytes of a PNG file of noise."""
    return encoded(image(seed, width, height))


@frozen
class Halves(Detector):
    """Finds the left and the right half of an image; nothing in one that is higher than wide."""

    def build(self):
        return _halves

    def crop(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        left, top, right, bottom = (int(side) for side in box)
        return image[top:bottom, left:right]


def _halves(image: np.ndarray) -> Detections:
    height, width = image.shape[:2]
    if height > width:
        return Detections(np.zeros((0, 4)), np.zeros(0))
    half = width // 2
    boxes = [[0.0, 0.0, half, height], [half, 0.0, width, height]]
    return Detections(np.array(boxes), np.array([0.9, 0.6]))


@frozen(eq=False)
class Gate(Halves):
    """Waits in each image until `opened` is set, so that requests pile up."""

    opened: threading.Event = field(factory=threading.Event)

    def build(self):
        return self._wait

    def _wait(self, image: np.ndarray) -> Detections:
        assert self.opened.wait(60)
        return _halves(image)


@frozen(eq=False)
class Broken(Halves):
    """A detector with a bug."""

    def build(self):
        return self._fail

    def _fail(self, image: np.ndarray) -> Detections:
        raise ZeroDivisionError("a secret of the server")
