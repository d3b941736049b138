"""What the catalog records: where each component comes from, and why a plugin is missing."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from typing import Literal

from attrs import frozen

from ..errors import MtlError
from .plugin_file import PluginFile
from .torch_version_hint import torch_version_hint

Status = Literal["ok", "failed", "blocked", "shadowed"]


@frozen
class Provider:
    """Where components come from: an entry point or a plugin file.

    name: of the entry point, or the stem of the file.
    distribution, version: of the installed package; None for a file.
    origin: the module of the entry point, or the path of the file.
    file: the plugin file; None for an entry point.
    """

    name: str
    distribution: str | None
    version: str | None
    origin: str
    file: PluginFile | None = None

    @classmethod
    def of(cls, point: EntryPoint) -> Provider:
        """The provider behind an entry point."""
        if point.dist is None:
            return cls(point.name, None, None, point.value)
        return cls(point.name, point.dist.name, point.dist.version, point.value)

    @classmethod
    def of_file(cls, file: PluginFile) -> Provider:
        """The provider behind a plugin file."""
        return cls(file.path.stem, None, None, str(file.path), file)

    @classmethod
    def of_class(cls, component: type) -> Provider:
        """The provider of a class that was registered in this process."""
        module = component.__module__
        return cls(module, None, None, f"{module}.{component.__qualname__}")

    def __str__(self) -> str:
        owner = f" of {self.distribution} {self.version}" if self.distribution else ""
        return f"{self.name!r}{owner} ({self.origin})"

    def named_in(self, names: set[str]) -> bool:
        """Whether these names contain the entry point or its distribution."""
        distributions = {_canonical(name) for name in names}
        return self.name in names or _canonical(self.distribution or "") in distributions


@frozen(eq=False)
class Record:
    """One component, or one plugin that failed or was blocked before it returned any.

    status: "shadowed" marks an installed component that a plugin file has replaced.
    name: of the component, or of the plugin where no component is known.
    kind: None where no component is known.
    reason: why the status is not "ok".
    error: the original exception of a failure.
    """

    provider: Provider
    status: Status
    name: str
    kind: str | None = None
    reason: str = ""
    error: BaseException | None = None

    def as_json(self) -> dict[str, str | None]:
        """One row of `mtl plugins --json`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "distribution": self.provider.distribution,
            "version": self.provider.version,
            "status": self.status,
            "origin": self.provider.origin,
            "reason": self.reason,
        }


def one_line(error: BaseException) -> str:
    """The text of an exception on one line: "ValueError: no luck". An MtlError has no prefix."""
    hint = torch_version_hint(error)
    text = " ".join(str(hint or error).split())
    if hint or isinstance(error, MtlError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _canonical(distribution: str) -> str:
    """The name of a distribution as package indexes compare it: "My_Dist" -> "my-dist"."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
