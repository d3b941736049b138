"""The size of images: (height, width) in pixels, written as one number where both are equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

LONGEST = 16384
"""The longest height or width, in pixels."""

ImageSize = Annotated[tuple[int, int], "image size"]
"""(height, width), in pixels. In TOML `64`, or `[48, 64]`. Both are 1 to `LONGEST`."""

WORDS = f"a whole number from 1 to {LONGEST}, or a list [height, width] of two"
"""What a value of `ImageSize` looks like in TOML."""


def image_size(value: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width): 64 -> (64, 64), [48, 64] -> (48, 64).

    Raises ValueError for anything else.
    """
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(map(_is_side, sides)):
        raise ValueError(f"image size {value!r}: expected {WORDS}")
    height, width = sides
    return int(height), int(width)


def largest_of_ratio(available: tuple[int, int], ratio: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size (h, w) within `available` with the aspect ratio h : w of `ratio`.

    One side equals that of `available`; the other is rounded to a whole pixel.
    """
    height, width = available
    h, w = ratio
    if width * h <= height * w:
        return max(1, round(width * h / w)), width
    return height, max(1, round(height * w / h))


def central_box(old: tuple[int, int], ratio: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the largest central rectangle with this ratio (h, w)."""
    height, width = largest_of_ratio(old, ratio)
    return (old[0] - height) // 2, (old[1] - width) // 2, height, width


def same_ratio(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Return whether two aspect ratios are equal, up to a pixel of the shorter side of `a`."""
    if b[0] <= b[1]:
        return abs(a[0] - a[1] * b[0] / b[1]) <= 1
    return abs(a[1] - a[0] * b[1] / b[0]) <= 1


def written(size: tuple[int, int]) -> int | list[int]:
    """Return a size as its value in TOML: (64, 64) -> 64, (48, 64) -> [48, 64]."""
    height, width = size
    return height if height == width else [height, width]


def _is_side(side: object) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= LONGEST
