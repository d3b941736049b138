"""One checkpoint on disk: its files, their checksums, and the run that it belongs to.

    last-<step>/checkpoint.json    `Manifest`: which run saved it, and the checksum of each file
                model.safetensors, ema.safetensors (if the run uses EMA), state.pt

Every file is compared with its checksum whenever it is read.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import cattrs
import safetensors.torch
import torch
from attrs import asdict, frozen
from cattrs.errors import CattrsError
from safetensors import SafetensorError
from torch import Tensor

from .errors import MtlError
from .files import in_shell, read_file, write_atomically
from .sealed import damaged, digest, parse_json, seal_json, unseal_json

FORMAT = 3
"""The format of run folders that this version writes, and the only one that it reads."""

Which = Literal["last", "best"]

State = dict[str, Any]
"""Contents of state.pt: tensors, numbers and strings, in lists and dicts."""

MANIFEST = "checkpoint.json"
LARGEST = 1 << 40  # bytes of a file of a checkpoint
REPLACED = ".old"
"""The end of a folder's name while a checkpoint of the same step takes its place."""
MODEL, EMA, STATE = "model.safetensors", "ema.safetensors", "state.pt"

# What `torch.load` raises for a file that it did not write, or that holds other objects.
_UNREADABLE = (
    pickle.UnpicklingError,
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
)


@frozen
class Saved:
    """Size in bytes and checksum of a file, or of its first bytes."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes | memoryview) -> Saved:
        """Size and checksum of these bytes."""
        return cls(len(data), digest(data))


@frozen
class Manifest:
    """The contents of checkpoint.json.

    run: id of the run that saved it. which, step: as in the name of the folder.
    steps: optimizer steps of the whole run, as configured at this time.
    config: the configuration of the run at this time, as TOML.
    log: the bytes of metrics.jsonl up to this checkpoint.
    files: name -> size and checksum of each other file of the folder.
    """

    format: int
    run: str
    which: str
    step: int
    steps: int
    config: str
    log: Saved
    files: dict[str, Saved]


@frozen
class Contents:
    """What a checkpoint stores. model, ema: weights by name. state: the contents of state.pt.

    run, steps, config: as in `Manifest`.
    """

    run: str
    step: int
    steps: int
    config: str
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    state: Mapping[str, Any]


@frozen
class Checkpoint:
    """A complete checkpoint on disk. path: its folder. step: optimizer steps that were done."""

    path: Path
    step: int

    def manifest(self) -> Manifest:
        """Return the contents of checkpoint.json.

        Raises MtlError if the file is missing or damaged, has another format, or if the folder was
        renamed.
        """
        file = self.path / MANIFEST
        content = parse_json(_bytes(file), file)
        require_format(content, file)
        content = unseal_json(content, file)
        try:
            manifest = cattrs.structure(content, Manifest)
        except (CattrsError, ExceptionGroup, ValueError, TypeError, LookupError) as error:
            raise damaged(file, "it lacks what mtlcore writes there") from error
        own = folder_name(manifest.which, manifest.step)
        if self.path.name.removesuffix(REPLACED) != own:
            raise MtlError(
                f"{self.path} holds the checkpoint {own}: the folder was renamed or copied. "
                f"Remove it, or rename it to {own}"
            )
        return manifest

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the whole model, by parameter name."""
        return self._tensors(MODEL)

    def ema(self) -> dict[str, Tensor] | None:
        """Return the EMA weights of the inference network, or None if there are none."""
        return self._tensors(EMA) if (self.path / EMA).exists() else None

    def require_ema(self) -> dict[str, Tensor]:
        """Return the EMA weights of a run that uses EMA. Raises MtlError if they are missing."""
        ema = self.ema()
        if ema is None:
            run = self.path.parent.parent
            raise MtlError(
                f"{self.path} has no ema.safetensors, but {run / 'config.toml'} has train.ema > 0: "
                f"the EMA weights are missing. Copy the file from a backup of the run. To evaluate "
                f"the weights without averaging: mtl eval {in_shell(run)} --set train.ema=0"
            )
        return ema

    def inference_weights(self, *, uses_ema: bool) -> dict[str, Tensor]:
        """Return the weights for evaluation and prediction: EMA if there are any.

        uses_ema: whether the configuration of the run has train.ema > 0. Raises MtlError if the EMA
        weights are then missing.
        """
        ema = self.require_ema() if uses_ema else self.ema()
        return self.weights() if ema is None else ema

    def state(self) -> State:
        """Return what resuming needs in addition to the weights: optimizer states and counters.

        Raises MtlError if the file is missing or damaged, or holds something else.
        """
        file, data = self.path / STATE, self._read(STATE)
        try:
            # weights_only: a pickle from an unknown author could run code.
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            raise _not_ours(file) from error
        if not isinstance(state, dict):
            raise _not_ours(file)
        return state

    def _tensors(self, name: str) -> dict[str, Tensor]:
        try:
            return safetensors.torch.load(self._read(name))
        except (SafetensorError, ValueError, LookupError) as error:
            raise _not_ours(self.path / name) from error

    def _read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises MtlError if they do not have their checksum."""
        saved = self.manifest().files.get(name)
        file = self.path / name
        if saved is None:
            raise damaged(self.path / MANIFEST, f"it does not list {name}")
        data = _bytes(file)
        if len(data) != saved.size:
            raise damaged(file, f"it has {len(data)} bytes, expected {saved.size}")
        if digest(data) != saved.sha256:
            raise damaged(file, "its bytes do not match the checksum in checkpoint.json")
        return data


def folder_name(which: str, step: int) -> str:
    """Return the name of the folder of a checkpoint."""
    return f"{which}-{step:08d}"


def step_of(which: Which, name: str) -> int | None:
    """Return the step in the name of a checkpoint's folder. None for any other name."""
    step = name.removeprefix(f"{which}-")
    if step == name or not (step.isascii() and step.isdigit()):
        return None
    return int(step) if folder_name(which, int(step)) == name else None


def without_ending(name: str) -> str:
    """Return the name of a checkpoint without ".tmp" (not completed) or ".old" (replaced)."""
    return name.removesuffix(".tmp").removesuffix(REPLACED)


def is_checkpoint(name: str) -> bool:
    """Whether this is the name of a checkpoint, complete, not completed or replaced."""
    name = without_ending(name)
    return any(step_of(which, name) is not None for which in get_args(Which))


def write_checkpoint(folder: Path, which: Which, contents: Contents, log: Saved) -> None:
    """Write the files of a checkpoint into an empty folder, and flush them to disk.

    Raises OSError if they can't be written.
    """
    saved: dict[str, Saved] = {}
    # The checksums are computed while the disk writes: they take CPU time (about 0.1 s for the
    # 179 MB of a ResNet-18 with EMA and AdamW), but hardly more wall time if a core is free.
    with ThreadPoolExecutor(1) as pool:
        for name, data in _serialized(contents):
            checksum = pool.submit(Saved.of, data)
            write_atomically(folder / name, data)
            saved[name] = checksum.result()
    manifest = Manifest(
        FORMAT, contents.run, which, contents.step, contents.steps, contents.config, log, saved
    )
    write_atomically(folder / MANIFEST, seal_json(asdict(manifest)))


def require_format(saved: Mapping[str, Any], file: Path) -> None:
    """Raise MtlError if this file of a run has another format than `FORMAT`."""
    found = saved.get("format")
    if found == FORMAT:
        return
    has = "no format number" if found is None else f"format {found!r}"
    raise MtlError(
        f"{file} has {has}; this version of mtlcore reads only format {FORMAT}: "
        "use the version of mtlcore that wrote the run, or train it again into a new folder"
    )


def _bytes(file: Path) -> bytes:
    try:
        return read_file(file, LARGEST)
    except OSError as error:
        raise MtlError(f"{file} can't be read: {error.strerror or error}") from error


def _not_ours(file: Path) -> MtlError:
    return MtlError(f"{file} is not a file that mtlcore wrote. Copy it from a backup of the run")


def _serialized(contents: Contents) -> Iterator[tuple[str, bytes | memoryview]]:
    """Yield name and bytes of each file, one after the other to save memory."""
    yield MODEL, _serialize(contents.model)
    if contents.ema is not None:
        yield EMA, _serialize(contents.ema)
    yield STATE, _pickle(contents.state)


def _serialize(tensors: Mapping[str, Tensor]) -> bytes:
    # safetensors accepts neither channels_last tensors nor views of other tensors.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    return safetensors.torch.save(plain)


def _pickle(state: Mapping[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getbuffer()
