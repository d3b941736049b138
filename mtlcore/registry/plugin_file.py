"""A plugin that is a single Python file: read once, hashed, and executed as its own module."""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType

from attrs import frozen

from ..errors import MtlError
from ..files import expanded, read_file

MARK = "#sha256="
"""Separates the path and the hash in an entry of `plugins`."""


@frozen
class PluginFile:
    """A plugin file and its text at the time of reading.

    The text is read once, so `sha256` is the hash of exactly the code that runs.
    """

    path: Path
    text: bytes

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PluginFile:
        """Read a file. Raises MtlError where it is not a readable .py file."""
        file = expanded(path).resolve()
        if file.suffix != ".py":
            raise MtlError(f"plugin file {file}: expected a Python file, NAME.py")
        try:
            return cls(file, read_file(file))
        except OSError as error:
            reason = error.strerror or error
            raise MtlError(f"plugin file {file} can't be read: {reason}") from error

    @property
    def sha256(self) -> str:
        """The SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.text).hexdigest()

    def require(self, sha256: str) -> None:
        """Raise MtlError where the text has another hash."""
        if sha256.lower() != self.sha256:
            raise MtlError(
                f"plugin file {self.path} has changed: its SHA-256 is {self.sha256}, "
                f"the configuration expects {sha256}: restore the old file, "
                "or remove '#sha256=...' from its path to run the new one"
            )

    @property
    def module_name(self) -> str:
        """A legal module name that depends on the text alone.

        It is the same in every process, so that other processes can unpickle the classes.
        """
        stem = re.sub(r"[^0-9A-Za-z_]", "_", self.path.stem)
        return f"mtlcore_file_{self.sha256[:16]}_{stem}"

    def is_text_of(self, module: str) -> bool:
        """Whether this loaded module has the same text. False where its file can't be read."""
        file = getattr(sys.modules.get(module), "__file__", None)
        try:
            return file is not None and Path(file).read_bytes() == self.text
        except OSError:
            return False

    def module(self) -> ModuleType:
        """Execute the file, once per process -> its module.

        A copy of the file elsewhere is the same module, with the same classes.
        """
        name = self.module_name
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_loader(name, _TextLoader(self), origin=str(self.path))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Register it BEFORE it runs: postponed annotations and pickle look it up in sys.modules.
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


def pinned(listed: str) -> str:
    """Return an entry of `plugins` with the hash of its file: "a.py" -> "/x/a.py#sha256=...".

    An entry that has a hash is returned as it is. Raises MtlError if the file can't be read.
    """
    if MARK in listed:
        return listed
    file = PluginFile.read(listed)
    return f"{file.path}{MARK}{file.sha256}"


def split_entry(listed: str) -> tuple[str, str]:
    """Split an entry of `plugins`: "a.py#sha256=..." -> ("a.py", "..."), "a.py" -> ("a.py", "")."""
    path, mark, sha256 = listed.rpartition(MARK)
    return (path, sha256) if mark else (listed, "")


def file_of(module: str) -> Path | None:
    """Return the plugin file that a module was loaded from; None for an ordinary module."""
    loader = getattr(getattr(sys.modules.get(module), "__spec__", None), "loader", None)
    return loader.file.path if isinstance(loader, _TextLoader) else None


class _TextLoader(importlib.abc.ExecutionLoader):
    """Executes the text that was read. It writes no bytecode into the user's folder."""

    def __init__(self, file: PluginFile) -> None:
        self.file = file

    def get_filename(self, fullname: str) -> str:
        return str(self.file.path)

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.file.text)
