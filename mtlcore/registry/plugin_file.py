"""A plugin that is a single Python file: read once, hashed, and run as a module of its own."""

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


@frozen
class PluginFile:
    """The text of the file as it was read: the hash is that of what runs."""

    path: Path
    text: bytes

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PluginFile:
        """Raises MtlError where there is no readable .py file."""
        file = Path(path).expanduser().resolve()
        if file.suffix != ".py":
            raise MtlError(f"plugin file {file}: expected a Python file, NAME.py")
        try:
            return cls(file, file.read_bytes())
        except OSError as error:
            raise MtlError(
                f"plugin file {file} can't be read: {error.strerror or error}"
            ) from error

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text).hexdigest()

    def require(self, sha256: str) -> None:
        """Raises MtlError where the text is not the one with this hash."""
        if sha256.lower() != self.sha256:
            raise MtlError(
                f"plugin file {self.path} has changed: its SHA-256 is {self.sha256}, the configuration wants {sha256}: "
                "bring the old file back, or take '#sha256=...' off its path to run the new one"
            )

    @property
    def module_name(self) -> str:
        """Unique for the text; a legal name, and the same in every process, so that pickles of its classes travel."""
        return f"mtlcore_file_{self.sha256[:16]}_{re.sub(r'[^0-9A-Za-z_]', '_', self.path.stem)}"

    def is_text_of(self, module: str) -> bool:
        """Was this loaded module made from the same text? False where its file can't be read."""
        source = getattr(sys.modules.get(module), "__file__", None)
        try:
            return source is not None and Path(source).read_bytes() == self.text
        except OSError:
            return False

    def module(self) -> ModuleType:
        """Run it. The same text is the same module, with the same classes, wherever a copy of the file lies."""
        name = self.module_name
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_loader(name, _Text(self), origin=str(self.path))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = (
            module  # BEFORE it runs: annotations are looked up there, and so are pickled classes
        )
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


class _Text(importlib.abc.ExecutionLoader):
    """Runs the text that was read, and leaves no bytecode beside the user's file."""

    def __init__(self, file: PluginFile) -> None:
        self.file = file

    def get_filename(self, fullname: str) -> str:
        return str(self.file.path)

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.file.text)
