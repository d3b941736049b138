"""Image sizes of vision transformers, which read whole patches."""

from __future__ import annotations

from ..errors import MtlError
from ..image_size import written


def nearest_multiple(pixels: int, patch: int) -> int:
    """Return the multiple of a patch's side that is nearest to `pixels`, and at least one patch."""
    return max(patch, round(pixels / patch) * patch)


def require_whole_patches(encoder: str, size: tuple[int, int], patch: tuple[int, int]) -> None:
    """Raise MtlError if the height or the width is not a multiple of the patch's, in pixels."""
    for side, pixels, of_patch in zip(("height", "width"), size, patch):
        if pixels % of_patch:
            which = "" if size[0] == size[1] else f"; the {side} is {pixels}"
            near = nearest_multiple(pixels, of_patch)
            raise MtlError(
                f"input.size = {written(size)}: {encoder} reads whole patches of {of_patch} "
                f"pixels{which}; expected a multiple of {of_patch}, such as {near}"
            )
