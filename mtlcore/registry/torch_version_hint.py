"""One clear line for the commonest broken installation: a torchvision that was built for another torch.

Importing such a torchvision raises `RuntimeError: operator torchvision::nms does not exist`, far from the cause.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from ..errors import MtlError

_SYMPTOM = re.compile(r"operator torchvision::\w+ does not exist|Couldn't load custom C\+\+ ops")


def torch_version_hint(error: BaseException) -> MtlError | None:
    """What to install, where `error` (or what caused it) comes of a torch / torchvision torch_version_hint; else None."""
    if not any(_SYMPTOM.search(str(e)) for e in _chain(error)):
        return None
    return MtlError(
        f"torch {_installed('torch')} and torchvision {_installed('torchvision')} do not match{_wants()}: install a "
        "matching pair: `uv pip install --upgrade torch torchvision`, or `pip install --upgrade torch torchvision`"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
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


def _wants() -> str:
    """What the installed torchvision says of the torch it was built for."""
    try:
        wanted = [r for r in requires("torchvision") or [] if re.match(r"torch\b", r)]
    except PackageNotFoundError:
        return ""
    return f" (this torchvision wants {wanted[0]})" if wanted else ""
