"""Load pretrained weights into torchvision's and timm's networks.

The key `weights` of these encoders is "none", "imagenet" or a file.

Every tensor of the network must be in the file, and every tensor of the file must be used. Only the
file's own classifier is ignored. If the weights can't be loaded, the run stops: it never starts
from random weights unless the configuration asks for them.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import MtlError
from ..weights import load_weights

NONE, IMAGENET = "none", "imagenet"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The training scripts of timm and torchvision store the weights under one of these keys.
_WRAPPERS = ("state_dict", "model")
_from_checkpoint: ContextVar[bool] = ContextVar("weights_from_checkpoint", default=False)

T = TypeVar("T")


@contextmanager
def weights_from_checkpoint() -> Iterator[None]:
    """Build networks whose weights a checkpoint will replace: no file is read or downloaded."""
    token = _from_checkpoint.set(True)
    try:
        yield
    finally:
        _from_checkpoint.reset(token)


def weights_to_load(weights: str) -> str:
    """Return an encoder's `weights`, or "none" inside of `weights_from_checkpoint`."""
    return NONE if _from_checkpoint.get() else weights


def published(encoder: str, get: Callable[[], T]) -> T:
    """Return `get()`, which loads published weights from the library's cache or downloads them.

    encoder: the name for messages. Raises MtlError if the weights are neither in the cache nor
    available for download.
    """
    try:
        return get()
    except (OSError, RuntimeError, HTTPException) as error:
        reason = str(error).partition("\n")[0]
        raise MtlError(
            f'[encoder] {encoder}: weights = "{IMAGENET}": the published weights are not in the '
            f"cache and can't be downloaded ({reason}). "
            f'Set weights = "<file>" to read a file, or weights = "{NONE}" for random weights'
        ) from error


def read(encoder: str, path: str) -> Mapping[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of a `torch.save` file that holds only tensors.

    encoder: the name for messages. Raises MtlError for any other file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        close = difflib.get_close_matches(path, (NONE, IMAGENET), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise MtlError(
            f'[encoder] {encoder}: weights = "{path}": no such file; '
            f'expected "{NONE}", "{IMAGENET}" or a file{hint}'
        )

    if file.suffix == ".safetensors":
        content = _read_safetensors(encoder, file)
    else:
        content = _read_torch(encoder, file)
    state = _unwrap(content)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not state or len(tensors) < len(state):
        raise MtlError(
            f"[encoder] {encoder}: weights: {file} holds no network's state "
            f"(a table of names and tensors)"
        )
    return tensors


def _unwrap(content: Mapping[str, object]) -> Mapping[str, object]:
    """Return the state of the network, without the dict that a training script puts around it."""
    for key in _WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, dict):
            return inner
    return content


def _read_safetensors(encoder: str, file: Path) -> Mapping[str, object]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise MtlError(
            f"[encoder] {encoder}: weights: {file} is not a safetensors file: {error}"
        ) from error


def _read_torch(encoder: str, file: Path) -> Mapping[str, object]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise MtlError(
            f"[encoder] {encoder}: weights: {file} can't be read as a file of tensors: {reason}"
        ) from error
    return content if isinstance(content, dict) else {}


def load(
    encoder: str, net: nn.Module, state: Mapping[str, Tensor], classifier: Iterable[str]
) -> None:
    """Load every tensor of `net` from the state of a published network.

    encoder: the name for messages.
    classifier: how the names of the file's own classifier begin. Those that `net` lacks are
    ignored. Raises MtlError if the rest does not fit.
    """
    load_weights(net, state, f"[encoder] {encoder}", ignore=tuple(classifier), counters=False)
