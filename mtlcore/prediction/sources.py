"""Sources of images: files, folders, globs, tables of paths, videos, and images in memory.

Each source becomes a sequence of items, in order. An image is decoded when its item is opened. So a
folder can have any size, and a broken file affects only its own item.
"""

from __future__ import annotations

import difflib
import errno
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from attrs import frozen
from PIL import Image
from torch import Tensor

from ..data.folder import IMAGES
from ..data.images import from_pillow, read_image
from ..errors import MtlError
from ..files import exists
from .image_table import listed_images

VIDEOS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})


@frozen(eq=False)
class Item:
    """One image of a source.

    name: its path; "" for an image in memory. frame: number of the frame in a video, from 0.
    open: decodes it to upright RGB (H, W, 3) uint8. Raises MtlError if that fails.
    """

    name: str
    open: Callable[[], np.ndarray]
    frame: int | None = None


Source = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor | Item
"""One source: a path, a glob, images in memory, or an `Item`. See `items_of`."""


def items_of(sources: Iterable[Source | Iterable[Source]]) -> Iterator[Item]:
    """Yield the images of all sources, in order.

    Each source is one of

    - the path of an image; of a folder, read with its subfolders in the order of the names; of a
      .csv table of paths, which are relative to the table (see `image_table.PATH_COLUMNS`); of
      a video (needs the extra `video`);
    - a glob such as "photos/*.jpg";
    - a Pillow image;
    - an array (H, W), (H, W, 3) or (N, H, W, 3), uint8;
    - a tensor (3, H, W) or (B, 3, H, W), uint8, or float in [0, 1];
    - an `Item`;
    - an iterable of these.

    The item of a file that does not exist raises MtlError when it is opened. Raises MtlError for a
    glob that matches nothing, and for anything else.
    """
    for source in sources:
        if isinstance(source, str | os.PathLike):
            yield from _of_path(os.fspath(source), [])
        elif isinstance(source, Item):
            yield source
        elif isinstance(source, Image.Image):
            yield _of_pillow(source)
        elif isinstance(source, np.ndarray):
            yield from _of_array(source)
        elif isinstance(source, Tensor):
            yield from _of_array(_pixels_of(source))
        elif isinstance(source, Iterable):
            yield from items_of(source)
        else:
            raise MtlError(
                f"can't read an image from {type(source).__name__}: expected a path, a glob, a "
                "Pillow image, a uint8 array (H, W, 3), or a tensor (3, H, W)"
            )


@frozen
class Listing:
    """What paths and globs hold, found without decoding an image.

    sources: what `items_of` reads: the paths, and what the globs match now, not later.
    folders: those that are read, with all that is below them.
    count: of images; None if a video does not declare its frames.
    passed_over: the files in these folders that are not images.
    """

    sources: Sequence[Source]
    folders: Sequence[Path]
    count: int | None
    passed_over: Sequence[str]


def listing(paths: Iterable[str]) -> Listing:
    """Find what these paths and globs hold.

    Raises MtlError as `items_of` does, and for a path that is not there.
    """
    sources: list[str | Item] = []
    folders: list[Path] = []
    passed_over: list[str] = []
    for path in paths:
        if _is_glob(path):
            matches = _matches(path)
            sources += _each_once(matches, passed_over)
        else:
            _require_there(path)
            matches = [path]
            sources.append(path)
        folders += [Path(match) for match in matches if _is_folder(match)]
    counts = [_count_of(source, passed_over) for source in sources]
    known = [count for count in counts if count is not None]
    count = sum(known) if len(known) == len(counts) else None
    return Listing(sources, folders, count, passed_over)


def _require_there(path: str) -> None:
    """Raise MtlError if there is nothing at this path, with the nearest name in its folder."""
    if exists(path):
        return
    folder, name = os.path.split(os.path.normpath(path))
    try:
        names = os.listdir(folder or ".")  # noqa: PTH208 (names)
    except OSError:
        names = []
    # A link to nothing is its own nearest name.
    close = difflib.get_close_matches(name, [other for other in names if other != name], n=1)
    hint = f"; did you mean {os.path.join(folder, close[0])!r}?" if close else ""  # noqa: PTH118
    raise MtlError(f"{path} can't be read: {os.strerror(errno.ENOENT)}{hint}")


def _count_of(source: str | Item, passed_over: list[str]) -> int | None:
    """The number of images of a path; None if a video does not declare its frames."""
    if isinstance(source, Item):
        return 1
    if _is_video(source):
        return _frames_of(source)
    return sum(1 for _ in _of_path(source, passed_over))


# ---------------------------------------------------------------------------------------- paths


def _of_path(path: str, passed_over: list[str]) -> Iterator[Item]:
    """The images of a path or glob. Files in folders that are not images go to `passed_over`."""
    suffix = Path(path).suffix.lower()
    if _is_folder(path):
        yield from _of_folder(Path(path), passed_over)
    elif _is_glob(path):
        yield from items_of(_each_once(_matches(path), passed_over))
    elif suffix == ".csv":
        yield from _of_table(Path(path))
    elif _is_video(path):
        yield from _of_video(path)
    else:
        # A missing file becomes a prediction with an error. The others are still predicted.
        yield Item(path, partial(read_image, path))


def _is_folder(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (a name of any bytes)


def _of_folder(folder: Path, passed_over: list[str]) -> Iterator[Item]:
    """The images of a folder and its subfolders. Raises MtlError if there is none."""
    is_empty = True
    for item in _below(folder, passed_over):
        is_empty = False
        yield item
    if is_empty:
        raise MtlError(f"{folder} holds no image: expected {', '.join(sorted(IMAGES))}")


def _below(folder: Path, passed_over: list[str]) -> Iterator[Item]:
    """The images below a folder, without hidden files. A link to a folder is an error."""
    for root, folders, files in os.walk(folder, onerror=_not_listed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for link in (Path(root, name) for name in folders):
            if link.is_symlink():
                yield _failed(str(link), f"{link} is a link to a folder, which is not followed")
        for name in sorted(name for name in files if not name.startswith(".")):
            full = Path(root, name)
            if full.suffix.lower() in IMAGES:
                yield Item(str(full), partial(read_image, full))
            else:
                passed_over.append(str(full))


def _not_listed(error: OSError) -> None:
    raise MtlError(f"{error.filename} can't be listed: {error.strerror}") from error


def _is_glob(path: str) -> bool:
    return not os.path.lexists(path) and glob.has_magic(path)


def _matches(pattern: str) -> list[str]:
    paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (absolute patterns)
    if not paths:
        raise MtlError(f"no file matches {pattern!r}")
    return paths


def _each_once(matches: Sequence[str], passed_over: list[str]) -> list[str | Item]:
    """The files that match a glob, and the images in folders that match, each of them once."""
    names = {os.path.normpath(match) for match in matches}
    found: dict[str, str | Item] = {}
    in_folders: list[str] = []
    for match in matches:
        if not _is_folder(match):
            found.setdefault(os.path.normpath(match), match)
            continue
        # "**" matches a folder, and the files in it. A link to a folder that matches is followed.
        for item in _below(Path(match), in_folders):
            name = os.path.normpath(item.name)
            if name not in names:
                found.setdefault(name, item)
    # A file that is in two folders that match is named once.
    others = dict.fromkeys(map(os.path.normpath, in_folders))
    passed_over += [name for name in others if name not in names]
    if not found:
        raise MtlError(f"{matches[0]} holds no image: expected {', '.join(sorted(IMAGES))}")
    return list(found.values())


def _is_video(path: str) -> bool:
    return Path(path).suffix.lower() in VIDEOS and os.path.isfile(path)  # noqa: PTH113 (as above)


def _of_table(file: Path) -> Iterator[Item]:
    """The images that a csv lists, one for each row."""
    for _, path, problem in listed_images(file):
        if path is None:
            yield _failed(str(file), problem)
        else:
            yield Item(str(path), partial(read_image, path))


def _of_video(path: str) -> Iterator[Item]:
    """The frames of a video, decoded one after the other."""
    try:
        import av
    except ImportError as error:
        raise MtlError(f'{path}: videos need PyAV: type `pip install "mtlcore[video]"`') from error
    number = 0
    try:
        with av.open(path) as container:
            for frame in container.decode(video=0):
                pixels = frame.to_ndarray(format="rgb24")
                # Telephones store upright videos on their side, with the angle.
                upright = np.rot90(pixels, frame.rotation // 90)
                yield Item(path, partial(_same, np.ascontiguousarray(upright)), number)
                number += 1
        if not number:
            yield _failed(path, f"{path} holds no frame")
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        # Frames before the error are predicted. The item has the number of the first lost frame.
        reason = f"{path} can't be decoded from frame {number} on: {error}"
        yield Item(path, partial(_fail, reason), number)


def _frames_of(path: str) -> int | None:
    """The number of frames that a video declares; None if it does not."""
    try:
        import av

        with av.open(path) as container:
            return container.streams.video[0].frames or None
    except (ImportError, OSError, IndexError, ValueError):
        return None


# --------------------------------------------------------------------------------------- memory


def _of_pillow(image: Image.Image) -> Item:
    # Decode here, not in a thread: Pillow decodes lazily, and an image may be passed twice.
    try:
        pixels = from_pillow(image)
    except MtlError as error:
        return _failed("", str(error))
    return Item("", partial(_same, pixels))


def _of_array(array: np.ndarray) -> Iterator[Item]:
    """The images of (H, W), (H, W, 3) or (N, H, W, 3), uint8."""
    if array.dtype != np.uint8:
        raise MtlError(f"an array of images is {array.dtype}: expected uint8, RGB in 0 ... 255")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or not array.size:
        raise MtlError(
            f"an array of images has the shape {array.shape}: expected (H, W, 3), RGB, or "
            "(N, H, W, 3)"
        )
    for image in array if array.ndim == 4 else [array]:
        yield Item("", partial(_same, image))


def _pixels_of(tensor: Tensor) -> np.ndarray:
    """Convert (3, H, W) or (B, 3, H, W), uint8 or float in [0, 1], to (..., H, W, 3) uint8."""
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise MtlError(
            f"a tensor of images is {tensor.dtype}: expected uint8, RGB in 0 ... 255, or float in "
            "[0, 1]"
        )
    if tensor.ndim not in (3, 4) or tensor.shape[-3] != 3 or not tensor.numel():
        raise MtlError(
            f"a tensor of images has the shape {tuple(tensor.shape)}: expected (3, H, W) or "
            "(B, 3, H, W)"
        )
    pixels = tensor.detach()
    if pixels.is_floating_point():
        low, high = (float(bound) for bound in pixels.float().aminmax())
        if not (low >= 0 and high <= 1):
            raise MtlError(
                f"a tensor of images is float in [{low:g}, {high:g}]: expected [0, 1], not "
                "normalized"
            )
        pixels = (pixels.float() * 255).round()
    return pixels.byte().movedim(-3, -1).contiguous().numpy(force=True)


def _same(image: np.ndarray) -> np.ndarray:
    return image


def _failed(name: str, reason: str) -> Item:
    return Item(name, partial(_fail, reason))


def _fail(reason: str) -> np.ndarray:
    raise MtlError(reason)
