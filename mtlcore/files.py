"""Read regular files only, and write files so that a crash leaves them whole.

A named pipe would block its reader, and a device such as /dev/zero never ends. So every file that a
user names is opened here: it must be a regular file, up to a stated size. A full disk is a clear
message.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shlex
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from .errors import MtlError, nearest

LARGEST_TEXT = 1 << 28  # bytes of a configuration, a plugin file, a file of labels: 256 MiB
PIECE = 1 << 20  # bytes that are read at a time, beyond the size of a file when it was opened
LARGEST_TABLE = 1 << 34  # bytes of a table or an archive that is read piece by piece: 16 GiB
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
DETECTED_BYTES = 1 << 10  # of a text without a byte order mark


Location = Annotated[Path | str, "folder or URL"]
"""A folder, or the URL of one that fsspec knows, such as "s3://bucket/folder"."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def location(value: str | os.PathLike[str]) -> Path | str:
    """Return a URL as it is, and anything else as a path."""
    if isinstance(value, str) and _URL.match(value):
        return value
    return Path(value)


def open_file(path: str | os.PathLike[str], largest: int = LARGEST_TABLE) -> BinaryIO:
    """Open a regular file of at most `largest` bytes. Links are followed.

    Raises OSError, with the reason as its `strerror`, for anything else.
    """
    descriptor, _ = _open_regular(path, largest)
    try:
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def read_file(path: str | os.PathLike[str], largest: int = LARGEST_TEXT) -> bytes:
    """Read a regular file of at most `largest` bytes. Raises OSError as `open_file` does."""
    # Without Python's file objects, a small image is read in half the time.
    descriptor, size = _open_regular(path, largest)
    try:
        parts = [os.read(descriptor, size + 1)]
        # One read returns at most 2 GiB, and the file may have grown.
        while part := os.read(descriptor, PIECE):
            parts.append(part)
    finally:
        os.close(descriptor)
    return b"".join(parts)


def _open_regular(path: str | os.PathLike[str], largest: int) -> tuple[int, int]:
    """Return the descriptor of a regular file and its size in bytes. Errors: see `open_file`."""
    # Without O_NONBLOCK, opening a named pipe would wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:
        raise OSError(errno.EINVAL, "its name holds a null character", str(path)) from error
    try:
        status = os.fstat(descriptor)
        _require_regular(status, path, largest)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is anything at this path. Raises MtlError if the system can't tell."""
    return _status(path) is not None


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether this is a regular file. Raises MtlError if the system can't tell."""
    status = _status(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder. Raises MtlError if the system can't tell."""
    status = _status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def require_there(file: Path) -> None:
    """Raise MtlError if there is nothing at a path, with the nearest name in its folder."""
    if exists(file):
        return
    names: list[str] = []
    if file.suffix:
        names = [found.name for found in file.parent.glob("*") if found.suffix == file.suffix]
    hint = f"; {nearest(file.name, names)}" if names else ""
    raise MtlError(f"{file} can't be read: {os.strerror(errno.ENOENT)}{hint}")


def _status(path: str | os.PathLike[str]) -> os.stat_result | None:
    """The status of what is at a path that a user named, None if there is nothing.

    Raises MtlError for a name that is too long, and without permission to look.
    """
    try:
        return os.stat(path)  # noqa: PTH116 - a name of any bytes
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise MtlError(f"{str(path)!r}: a path can't contain the character \\0") from error
    except OSError as error:
        raise MtlError(f"{path} can't be read: {error.strerror or error}") from error


def _require_regular(status: os.stat_result, path: str | os.PathLike[str], largest: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        reason = "it is a pipe, a socket or a device; expected a regular file"
        raise OSError(errno.EINVAL, reason, str(path))
    if status.st_size > largest:
        reason = f"it has {status.st_size:,} bytes; expected at most {largest:,}"
        raise OSError(errno.EFBIG, reason, str(path))


def text_encoding(head: bytes) -> str:
    """Return the encoding of a text: UTF-8 or UTF-16, with or without a byte order mark.

    head: its first bytes, at least `DETECTED_BYTES` of them if there are so many.
    """
    for mark, encoding in BOMS.items():
        if head.startswith(mark):
            return encoding
    # UTF-8 holds no null bytes. In UTF-16, most characters of a table have a null byte.
    head = head[:DETECTED_BYTES]
    first, second = head[::2].count(0), head[1::2].count(0)
    if not first and second > len(head) // 8:
        return "utf-16-le"
    if not second and first > len(head) // 8:
        return "utf-16-be"
    return "utf-8"


def in_shell(path: str | os.PathLike[str]) -> str:
    """Return a path as one types it in a shell, for commands that users copy from messages."""
    return shlex.quote(os.fspath(path))


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with the home folder for "~". Raises MtlError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise MtlError(f"{os.fspath(path)}: {error}") from error


def decoded(data: bytes) -> str:
    """Decode a text that a user wrote: UTF-8 or UTF-16. Raises UnicodeDecodeError on any other."""
    return data.decode(text_encoding(data))


@contextmanager
def write_errors_as_mtl_error(
    path: Path, note: str = "", temporary: Path | None = None
) -> Iterator[None]:
    """Convert an OSError into an MtlError that names the file and the reason.

    path: the file or folder to name if the error itself names none.
    note: the end of the message.
    temporary: a folder to delete after an error.
    """
    try:
        yield
    except OSError as error:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror or error
        raise MtlError(f"can't write {error.filename or path}: {reason}{note}") from error


@contextmanager
def removed_after_failure(folder: Path) -> Iterator[None]:
    """Delete a temporary folder if anything ends the block early, also Ctrl-C."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_atomically(file: Path, data: bytes | memoryview) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it.

    Several processes may write the same file: each has a temporary name of its own.
    """
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = str(file)  # nobody asked for the temporary name
        raise


def flush_folder(folder: Path) -> None:
    """Flush a folder to disk, where the system can: Windows can't open a folder."""
    # A rename survives a power failure only after its folder was flushed.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: object, indent: int | None = None) -> str:
    """Return a value as JSON. NaN and infinity become null, since JSON has neither."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None, at any depth."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def refuse_existing(path: Path) -> None:
    """Raise MtlError if the file exists, or its folder does not."""
    if exists(path):
        raise MtlError(f"{path} exists already: choose another name, or delete it first")
    if not is_folder(path.parent):
        raise MtlError(f"{path}: there is no folder {path.parent}: create it first")
