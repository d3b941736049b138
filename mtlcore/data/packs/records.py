"""The record of one sample in a shard: its image, then its maps and points.

The image is a JPEG file, or raw uint8 in the layout (3, h, w), which is that of a batch. Maps are
compressed without loss. A pack with maps or points has the lengths of the parts before the first
one, as 32-bit integers, least significant byte first.

The CRC-32 of a record finds a changed byte. It is compared when the record is first read, which
costs 1 s for 1 to 3 GB. The SHA-256 of a whole shard is for `mtl data pack` alone: reading a shard
of 256 MB for one sample of it would be slow.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import simplejpeg
from attrs import frozen

from ...contracts import MapColumn, PointColumn, Sample
from ...errors import MtlError
from ..aligned import fit_map, fit_points
from ..images import decode_image, shrink

LENGTH = np.dtype("<u4")
LEVEL = 1  # of zlib: class maps shrink by 20 times or more at any level


@frozen
class Coding:
    """How the samples of a pack become bytes.

    size: height and width. quality: of JPEG, None for raw pixels.
    maps: name -> its dtype and channels. points: name -> K.
    """

    size: tuple[int, int]
    quality: int | None
    maps: Mapping[str, MapColumn]
    points: Mapping[str, PointColumn]

    @property
    def has_labels(self) -> bool:
        """Whether a record may hold more than an image."""
        return bool(self.maps or self.points)

    def encode(self, sample: Sample) -> bytes:
        """Return the record of a decoded sample, cropped and shrunk as the image cache does."""
        parts = [self._image(shrink(sample.image, self.size, enlarge=True))]
        if not self.has_labels:
            return parts[0]
        for name in self.maps:
            pixels = b""
            if name in sample.maps:
                pixels = self._map(sample.maps[name])
            parts.append(pixels)
        height, width = sample.image.shape[:2]
        for name in self.points:
            points = b""
            if name in sample.points:
                moved = fit_points(sample.points[name], (height, width), self.size)
                points = moved.astype("<f4").tobytes()
            parts.append(points)
        lengths = np.array([len(part) for part in parts], dtype=LENGTH)
        return lengths.tobytes() + b"".join(parts)

    def decode(self, record: memoryview, name: str) -> Sample:
        """Return the sample of a record. name: of the sample, for messages."""
        if not self.has_labels:
            return Sample(self._pixels(record, name))
        labels = [*self.maps, *self.points]
        first = (1 + len(labels)) * LENGTH.itemsize
        lengths = np.frombuffer(record[:first], LENGTH).astype(np.int64)
        stops = first + lengths.cumsum()
        image = self._pixels(record[first : stops[0]], name)
        maps: dict[str, np.ndarray] = {}
        points: dict[str, np.ndarray] = {}
        for label, start, stop in zip(labels, stops[:-1].tolist(), stops[1:].tolist()):
            if start == stop:
                continue
            if label in self.maps:
                maps[label] = self._unpacked(label, record[start:stop])
            else:
                points[label] = np.frombuffer(record[start:stop], "<f4").reshape(-1, 2)
        return Sample(image, maps, points)

    def _image(self, image: np.ndarray) -> bytes:
        if self.quality is None:
            return np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes()
        encoded: bytes = simplejpeg.encode_jpeg(
            np.ascontiguousarray(image), self.quality, "RGB", "444", fastdct=False
        )
        return encoded

    def _pixels(self, data: memoryview, name: str) -> np.ndarray:
        if self.quality is not None:
            return decode_image(bytes(data), name)
        if len(data) != 3 * self.size[0] * self.size[1]:
            raise MtlError(f"{name} has {len(data)} bytes; expected 3 x {self.size} pixels")
        channels_first = np.frombuffer(data, np.uint8).reshape(3, *self.size)
        return np.ascontiguousarray(channels_first.transpose(1, 2, 0))

    def _map(self, pixels: np.ndarray) -> bytes:
        fitted = fit_map(pixels, self.size)
        dtype = packed_dtype(fitted.dtype).newbyteorder("<")
        return zlib.compress(np.ascontiguousarray(fitted, dtype=dtype).tobytes(), LEVEL)

    def _unpacked(self, name: str, data: memoryview) -> np.ndarray:
        column = self.maps[name]
        flat = np.frombuffer(zlib.decompress(data), column.dtype.newbyteorder("<"))
        flat = flat.astype(column.dtype)
        if column.channels is None:
            return flat.reshape(self.size)
        return np.moveaxis(flat.reshape(column.channels, *self.size), 0, 2)


def packed_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype of a map in a pack: floats are float32, as in the image cache."""
    return np.dtype(np.float32) if dtype.kind == "f" else dtype


def crc_of(record: bytes | memoryview) -> int:
    """Return the CRC-32 of a record."""
    return zlib.crc32(record)
