"""Load pretrained weights into torchvision's and timm's networks.

The key `weights` of these encoders is "none", "imagenet", a file, or "FILE#KEY" for one of several
networks in a file.

Every tensor of the network must be in the file, and every tensor of the file must be used. Only the
file's own classifier is ignored, and what is not under the prefix of the encoder, such as
"backbone.". If the weights can't be loaded, the run stops: it never starts from random weights
unless the configuration asks for them.
"""

from __future__ import annotations

import argparse
import difflib
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from ..errors import MtlError, first_few, nearest
from ..files import expanded, is_file
from ..weights import COUNTERS, load_weights

NONE, IMAGENET = "none", "imagenet"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The training scripts of timm and torchvision store the weights under one of these keys.
_WRAPPERS = ("state_dict", "model")
# What DDP, torch.compile and training scripts put before the names of a network.
_PREFIXES = (
    "module.",
    "_orig_mod.",
    "backbone.",
    "encoder.",
    "model.",
    "net.",
    "encoder_q.",
    "base_encoder.",
    "student.",
    "teacher.",
)
_MOST_PREFIXES = 4  # one after the other
# How names of parameters begin that only one of the two libraries uses.
_OF_TIMM = ("blocks.", "stages.", "conv_stem.", "patch_embed.", "stem.")
_OF_TORCHVISION = ("features.", "encoder.layers.", "conv_proj.")
_SAME_NETWORK = {
    "efficientnet_b0": "timm:efficientnet_b0",
    "efficientnet_b2": "timm:efficientnet_b2",
    "mobilenet_v3_large": "timm:mobilenetv3_large_100",
    "convnext_tiny": "timm:convnext_tiny",
    "vit_b_16": "timm:vit_base_patch16_224",
}
_from_checkpoint: ContextVar[bool] = ContextVar("weights_from_checkpoint", default=False)

T = TypeVar("T")


class WeightsWarning(UserWarning):
    """Something about a file of weights that is not as expected, but can be used."""


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


def read(encoder: str, path: str, net: nn.Module) -> Mapping[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of a `torch.save` file that holds only tensors.

    encoder: the name for messages. path: "FILE#KEY" reads one of several networks in a file.
    net: the network that they are for; prefixes that it lacks are removed from the names.

    Raises MtlError for any other file.
    """
    file, key = expanded(path), ""
    if not is_file(file) and "#" in path:
        name, _, key = path.rpartition("#")
        file = expanded(name)
    if not is_file(file):
        if (file / "config.toml").is_file():
            raise MtlError(
                f'[encoder] {encoder}: weights = "{path}" is the folder of a run, which only an '
                "experiment reads: pass the encoder to mtlcore.Experiment, or set encoder.weights "
                "in a configuration"
            )
        if file.is_dir():
            raise MtlError(
                f'[encoder] {encoder}: weights = "{path}" is a folder; expected a file of weights'
            )
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
    state = _unwrap(encoder, file, content, key)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not state or len(tensors) < len(state):
        raise MtlError(
            f"[encoder] {encoder}: weights: {file} holds no network's state "
            f"(a table of names and tensors)"
        )
    return without_prefix(encoder, file, tensors, net)


def without_prefix(
    encoder: str, file: Path, state: Mapping[str, Tensor], net: nn.Module
) -> Mapping[str, Tensor]:
    """Return the tensors under the prefix where most names of `net` are, without that prefix.

    A warning names the prefix, and the tensors outside of it, which are left out.
    """
    own = set(net.state_dict())

    def shared(prefix: str) -> int:
        return sum(name.removeprefix(prefix) in own for name in state if name.startswith(prefix))

    prefix = max(_prefixes(state), key=shared)  # the first, and shortest, of equal ones
    if not prefix:
        return state
    inside = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    outside = [name for name in state if not name.startswith(prefix)]
    left_out = f"; left out, since they are outside of it: {first_few(outside, 5)}"
    warnings.warn(
        f"[encoder] {encoder}: weights: {file}: read the {len(inside)} tensors whose names begin "
        f'with "{prefix}"{left_out if outside else ""}',
        WeightsWarning,
        stacklevel=2,
    )
    return inside


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return the sequences of `_PREFIXES` with which a name begins, the shortest first."""
    found, names = [""], list(names)
    longest = [""]
    for _ in range(_MOST_PREFIXES):
        longer = [known + prefix for known in longest for prefix in _PREFIXES]
        longest = [prefix for prefix in longer if any(name.startswith(prefix) for name in names)]
        found += longest
    return found


def _unwrap(
    encoder: str, file: Path, content: Mapping[str, object], key: str
) -> Mapping[str, object]:
    """Return the state of the network, without the dict that a training script puts around it.

    key: the state to choose, "" for `_WRAPPERS`. Raises MtlError if there is no such state.
    """
    states = {name: inner for name, inner in content.items() if _is_state(inner)}
    where = f"[encoder] {encoder}: weights: {file}"
    if key:
        if key not in states:
            raise MtlError(f"{where} has no network named {key!r}; {nearest(key, states)}")
        return states[key]
    chosen = next((name for name in _WRAPPERS if isinstance(content.get(name), dict)), None)
    others = ", ".join(f'weights = "{file}#{name}"' for name in states if name != chosen)
    if chosen is None:
        if others:
            raise MtlError(f"{where} holds networks by name: set {others}")
        return content
    if others:
        warnings.warn(
            f"{where}: read {chosen!r}; the file also holds others: {others}",
            WeightsWarning,
            stacklevel=3,
        )
    inner = content[chosen]
    assert isinstance(inner, dict)
    return inner


def _is_state(value: object) -> TypeGuard[dict[str, object]]:
    """Whether this is a table of names and tensors."""
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(inner, Tensor) for inner in value.values())


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
        # timm's checkpoints hold the arguments of its command line.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message is long and advises to run the code in the file.
        held = re.search(r"GLOBAL (\S+)", str(error))
        reason = "it is damaged, or no file of torch.save"
        if held:
            reason = (
                f"it also holds a Python object ({held[1]}), which could run code: save the "
                "tensors alone, torch.save(net.state_dict(), FILE)"
            )
        raise MtlError(
            f"[encoder] {encoder}: weights: {file} can't be read as a file of tensors: {reason}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
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
    try:
        load_weights(net, state, f"[encoder] {encoder}", ignore=tuple(classifier), counters=False)
    except MtlError as error:
        fit = _what_fits(net, state, tuple(classifier))
        hint = _other_library(encoder, state)
        raise MtlError(f"{error}. {fit}{hint}") from error


def _what_fits(net: nn.Module, state: Mapping[str, Tensor], classifier: tuple[str, ...]) -> str:
    """Return how many tensors of a network are in a file, by name and by shape."""
    own = {k: v.shape for k, v in net.state_dict().items() if not k.endswith(COUNTERS)}
    given = {k: v.shape for k, v in state.items() if not k.endswith(COUNTERS)}
    given = {k: v for k, v in given.items() if k in own or not k.startswith(classifier)}
    by_name = sum(given.get(name) == shape for name, shape in own.items())
    by_shape = (Counter(own.values()) & Counter(given.values())).total()
    text = f"Of its {len(own)} tensors, {by_name} fit by name and shape, {by_shape} by shape alone"
    # The file's own classifier may follow, under a name that is unknown here.
    if list(own.values()) != list(given.values())[: len(own)]:
        return text
    other = next((pair for pair in zip(given, own) if pair[0] != pair[1]), None)
    if other is None:  # all are there, with further ones
        return text
    return (
        f"{text}: the file has the same shapes in the same order, under other names "
        f"({other[0]} for {other[1]}): rename its tensors, as docs/finetuning.md shows"
    )


def _other_library(encoder: str, state: Mapping[str, Tensor]) -> str:
    """Return the end of a message about a file with the names of the other library, or ""."""
    is_timm, base = encoder.startswith("timm:"), encoder.partition(".")[0]
    spelled = _OF_TORCHVISION if is_timm else _OF_TIMM
    if not any(name.startswith(spelled) for name in state):
        return ""
    same = _SAME_NETWORK
    if is_timm:
        same = {timm_name: name for name, timm_name in _SAME_NETWORK.items()}
    library = "torchvision" if is_timm else "timm"
    fix = f'set encoder.name = "{same[base]}"' if base in same else f"use an encoder of {library}"
    return f". Its parameter names are written as in {library}: {fix}"
