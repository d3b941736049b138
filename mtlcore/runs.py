"""What a run leaves on disk: written by training, read by all that comes after.

    RUN/config.toml      the complete, resolved configuration: training it again reproduces the run
    RUN/run.json         versions, threads, device, data fingerprint, final figures
    RUN/metrics.jsonl    one line a logged step or evaluation
    RUN/tensorboard/     the same, for TensorBoard
    RUN/plugins/         copies of the one-file plugins
    RUN/checkpoints/last-<step>/, best-<step>/     model.safetensors, ema.safetensors (with EMA), state.pt

A checkpoint is written to a temporary folder, flushed, and renamed: it is complete, or it is not there. Older ones go only after.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from attrs import frozen
from safetensors import SafetensorError
from torch import Tensor, nn

from .errors import MtlError

Which = Literal["last", "best"]


@frozen
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    step: int

    def weights(self) -> dict[str, Tensor]:
        """The whole model by parameter name."""
        return _tensors(self.path / "model.safetensors")

    def ema(self) -> dict[str, Tensor] | None:
        """The averaged weights of the network that is kept, where the run keeps an average."""
        file = self.path / "ema.safetensors"
        return _tensors(file) if file.exists() else None

    def inference_weights(self) -> dict[str, Tensor]:
        """The weights that are evaluated: the average where there is one, else the model's own."""
        ema = self.ema()
        return self.weights() if ema is None else ema

    def load(self, net: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Put these weights of this checkpoint into a network; MtlError where one is missing or of another shape."""
        own = net.state_dict()
        wrong = [k for k in own if k not in weights or weights[k].shape != own[k].shape]
        if wrong:
            raise MtlError(
                f"{self.path}: weights of another configuration; missing or of another shape: "
                f"{', '.join(wrong[:5])} ({len(wrong)})"
            )
        net.load_state_dict({k: weights[k] for k in own})

    def state(self) -> dict[str, Any]:
        """Optimizers, counters: what resuming needs."""
        file = self.path / "state.pt"
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise MtlError(f"{file} can't be read: {error}") from error
        return state


@frozen
class RunFolder:
    """One run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @classmethod
    def create(cls, path: Path, config: str, plugins: Mapping[str, Path]) -> RunFolder:
        """A new folder with its resolved configuration. Raises MtlError where a run lies there already."""
        cls.refuse_existing(path)
        run = cls(path)
        with write_errors_as_mtl_error(path):
            path.mkdir(parents=True, exist_ok=True)
            for name, file in plugins.items():
                (path / "plugins").mkdir(exist_ok=True)
                shutil.copyfile(file, path / "plugins" / name)
            write_whole(run.config, config.encode())
        return run

    @classmethod
    def refuse_existing(cls, path: Path) -> None:
        """Raises MtlError where a run lies there already."""
        if cls(path).config.exists():
            raise MtlError(
                f"{path} holds a run already: choose another --out, or go on with it: mtl train --resume {path}"
            )

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run. Raises MtlError where there is none."""
        run = cls(path)
        if not run.config.is_file():
            raise MtlError(f"{path} is no run: it holds no config.toml")
        return run

    def note(self, provenance: Mapping[str, Any]) -> None:
        """Add provenance to run.json."""
        file = self.path / "run.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        with write_errors_as_mtl_error(self.path):
            write_whole(file, json.dumps(known | dict(provenance), indent=2).encode())

    def provenance(self) -> dict[str, Any]:
        """What run.json says."""
        file = self.path / "run.json"
        provenance: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return provenance

    def log(self, row: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""
        with (
            write_errors_as_mtl_error(self.path, self.checkpoint()),
            self.metrics.open("a") as file,
        ):
            file.write(json.dumps(row) + "\n")

    def cut_log(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them anew."""
        if self.metrics.exists():
            rows = [
                line for line in self.metrics.read_text().splitlines() if _step_of(line) <= step
            ]
            with write_errors_as_mtl_error(self.path):
                write_whole(self.metrics, "".join(f"{line}\n" for line in rows).encode())

    def rows(self) -> list[dict[str, Any]]:
        """All complete lines of metrics.jsonl."""
        if not self.metrics.exists():
            return []
        return [
            json.loads(line)
            for line in self.metrics.read_text().splitlines()
            if _step_of(line) < _NEVER
        ]

    # ------------------------------------------------------------------------------------------------ checkpoints

    def checkpoint(self, which: Which = "last") -> Checkpoint | None:
        """The newest complete checkpoint of this kind."""
        found = [p for p in (self.path / "checkpoints").glob(f"{which}-*") if p.suffix != ".tmp"]
        steps = {int(p.name.split("-")[1]): p for p in found}
        return Checkpoint(steps[max(steps)], max(steps)) if steps else None

    def require(self, which: Which = "last") -> Checkpoint:
        """The newest checkpoint of this kind, or MtlError."""
        found = self.checkpoint(which)
        if found is None:
            raise MtlError(f"{self.path} holds no {which!r} checkpoint yet")
        return found

    def save(
        self,
        which: Which,
        step: int,
        model: Mapping[str, Tensor],
        ema: Mapping[str, Tensor] | None,
        state: Mapping[str, Any],
    ) -> Checkpoint:
        """Write a checkpoint, then drop the older ones of its kind. On any failure the older ones stay, and MtlError says so."""
        folder = self.path / "checkpoints"
        done, temporary = folder / f"{which}-{step:08d}", folder / f"{which}-{step:08d}.tmp"
        with write_errors_as_mtl_error(self.path, self.checkpoint(which), temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write_whole(temporary / "model.safetensors", _packed(model))
            if ema is not None:
                write_whole(temporary / "ema.safetensors", _packed(ema))
            buffer = io.BytesIO()
            torch.save(dict(state), buffer)
            write_whole(temporary / "state.pt", buffer.getbuffer())
            if done.exists():  # the same step again: after a resume, or as the last one
                shutil.rmtree(done)
            temporary.rename(done)
            _flush_folder(folder)
        for old in folder.glob(f"{which}-*"):
            if old != done:
                shutil.rmtree(old, ignore_errors=True)
        return Checkpoint(done, step)


class write_errors_as_mtl_error:  # noqa: N801 - a context manager, used like a function
    """What the disk refuses becomes one clear message; a half-written folder goes."""

    def __init__(
        self, path: Path, good: Checkpoint | None = None, temporary: Path | None = None
    ) -> None:
        self.path, self.good, self.temporary = path, good, temporary

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            if self.temporary:
                shutil.rmtree(self.temporary, ignore_errors=True)
            kept = (
                f"; the checkpoint of step {self.good.step} is intact: {self.good.path}"
                if self.good
                else ""
            )
            where = error.filename or self.path
            raise MtlError(f"can't write {where}: {error.strerror or error}{kept}") from error


def write_whole(file: Path, data: bytes | memoryview) -> None:
    """To a temporary name, flushed, renamed."""
    temporary = file.with_name(file.name + ".tmp")
    try:
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors takes neither channels_last nor views of other tensors."""
    return safetensors.torch.save(
        {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    )


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except (OSError, SafetensorError) as error:
        raise MtlError(f"{file} can't be read: {error}") from error


_NEVER = 2**62


def _step_of(line: str) -> int:
    """The step of a log line; a line cut short by a crash belongs to no step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return _NEVER


def finite(value: Any) -> Any:
    """What is no finite number becomes None, in any nesting: JSON knows none."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
