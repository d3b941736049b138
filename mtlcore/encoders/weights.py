"""Weights that were trained elsewhere, for torchvision's and timm's nets: `weights = "none" | "imagenet" | <file>`.

Nothing is skipped in silence. The classifier of the file is not used, whatever its classes; every other tensor must
find its place, and every place its tensor. Where weights can't be had the run stops: it never starts from random
weights unasked.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import MtlError

NONE, IMAGENET = "none", "imagenet"
_coming: ContextVar[bool] = ContextVar("coming", default=False)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_WRAPPERS = (
    "state_dict",
    "model",
)  # timm's and torchvision's training scripts put the weights under one of these
_SHOWN = 5
Found = TypeVar("Found")


@contextmanager
def weights_from_checkpoint() -> Iterator[None]:
    """Networks built here get their weights from a checkpoint: no file and no download is asked for them."""
    token = _coming.set(True)
    try:
        yield
    finally:
        _coming.reset(token)


def to_load(weights: str) -> str:
    """What `weights` of an encoder means now: "none" while they will come from a checkpoint."""
    return NONE if _coming.get() else weights


def published(encoder: str, get: Callable[[], Found]) -> Found:
    """What `get` (a state, a network) finds in the library's cache or downloads. Raises MtlError without either."""
    try:
        return get()
    except (OSError, RuntimeError, HTTPException) as error:
        reason = str(error).partition("\n")[0]
        raise MtlError(
            f'[encoder] {encoder}: weights = "{IMAGENET}": the published weights are not in the cache and can\'t be '
            f'downloaded ({reason}). Give a file of them, weights = "<file>", or start from random ones, "{NONE}"'
        ) from error


def read(encoder: str, path: str) -> Mapping[str, Tensor]:
    """A `.safetensors` file, or one of `torch.save` that holds tensors only. Raises MtlError for any other."""
    file = Path(path).expanduser()
    if not file.is_file():
        close = difflib.get_close_matches(path, (NONE, IMAGENET), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise MtlError(
            f'[encoder] {encoder}: weights = "{path}": no such file; expected "{NONE}", "{IMAGENET}" or a file{hint}'
        )
    state = (
        _safetensors(encoder, file) if file.suffix == ".safetensors" else _pickled(encoder, file)
    )
    state = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)), state)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise MtlError(
            f"[encoder] {encoder}: weights: {file} holds no network's state (a table of names and tensors)"
        )
    return state


def _safetensors(encoder: str, file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise MtlError(
            f"[encoder] {encoder}: weights: {file} is no safetensors file: {error}"
        ) from error


def _pickled(encoder: str, file: Path) -> dict[str, Any]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise MtlError(
            f"[encoder] {encoder}: weights: {file} can't be read as a file of tensors: {reason}"
        ) from error
    return state if isinstance(state, dict) else {}


def load(
    encoder: str, net: nn.Module, state: Mapping[str, Tensor], classifier: Iterable[str]
) -> None:
    """Every tensor of `net` from `state`. Raises MtlError telling which are missing, unexpected or of another shape.

    classifier: how the names of the file's own classifier begin; those that `net` lacks are left aside. Counters of
    batches (old files have none) may be absent: nothing reads them.
    """
    wanted, prefixes = net.state_dict(), tuple(classifier)
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in wanted and not k.startswith(prefixes)]
    shared = [k for k in wanted if k in state]
    shapes = [
        f"{k} {_shape(state[k])}, not {_shape(wanted[k])}"
        for k in shared
        if state[k].shape != wanted[k].shape
    ]
    wrong = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(wrong.values()):
        told = "; ".join(
            f"{len(names)} {what}: {_first(names)}" for what, names in wrong.items() if names
        )
        raise MtlError(f"[encoder] {encoder}: the weights do not fit this network. {told}")
    net.load_state_dict({k: state[k] for k in shared}, strict=False)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
