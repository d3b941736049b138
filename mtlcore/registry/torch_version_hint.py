"""One clear line for the most common broken installation: torchvision built for another torch.

Importing such a torchvision raises `RuntimeError: operator torchvision::nms does not exist`, which
does not name the cause.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from ..errors import MtlError

_SYMPTOM = re.compile(r"operator torchvision::\w+ does not exist|Couldn't load custom C\+\+ ops")


def torch_version_hint(error: BaseException) -> MtlError | None:
    """The error that says what to install; None where `error` has another cause.

    It also searches the exceptions that caused `error`.
    """
    if not any(_SYMPTOM.search(str(e)) for e in _chain(error)):
        return None
    return MtlError(
        f"torch {_installed('torch')} and torchvision {_installed('torchvision')} "
        f"do not match{_required_torch()}: install a matching pair: "
        "`uv pip install --upgrade torch torchvision`, "
        "or `pip install --upgrade torch torchvision`"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and its causes. A chain may contain a cycle, so each one comes once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _required_torch() -> str:
    """The torch that the installed torchvision was built for, from its metadata."""
    try:
        required = [r for r in requires("torchvision") or [] if re.match(r"torch\b", r)]
    except PackageNotFoundError:
        return ""
    return f" (this torchvision requires {required[0]})" if required else ""
