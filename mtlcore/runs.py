"""The folder of a run: training writes it, everything else reads it.

    RUN/config.toml      the complete, resolved configuration: training it again reproduces the run
    RUN/run.json         provenance: versions, threads, device, data fingerprint, final metrics
    RUN/metrics.jsonl    one line for each logged step or evaluation
                         In both, null stands for a number that is not finite
    RUN/tensorboard/     the same, for TensorBoard (if the run has [callback.tensorboard])
    RUN/plugins/         copies of the one-file plugins
    RUN/checkpoints/last-<step>/, best-<step>/
                         model.safetensors, ema.safetensors (if the run uses EMA), state.pt

A checkpoint is written to a temporary folder, flushed to disk, and renamed. So it is either
complete or absent. Older checkpoints are removed only afterwards.

run.json and state.pt hold the number `FORMAT`. Opening a run of another format raises MtlError.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from attrs import frozen
from safetensors import SafetensorError
from torch import Tensor

from .config import load
from .config.experiment import Experiment
from .config.overrides import Overrides
from .errors import MtlError
from .files import flush_folder, to_json, write_atomically, write_errors_as_mtl_error
from .registry.lookup import missing_component

FORMAT = 2
"""The format of run folders that this version writes, and the only one that it reads."""

Which = Literal["last", "best"]

JsonObject = dict[str, Any]
State = dict[str, Any]
"""Contents of state.pt: tensors, numbers and strings, in lists and dicts."""


@frozen
class Checkpoint:
    """A complete checkpoint on disk. path: its folder. step: optimizer steps that were done."""

    path: Path
    step: int

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the whole model, by parameter name."""
        return _tensors(self.path / "model.safetensors")

    def ema(self) -> dict[str, Tensor] | None:
        """Return the EMA weights of the inference network, or None if there are none."""
        file = self.path / "ema.safetensors"
        return _tensors(file) if file.exists() else None

    def require_ema(self) -> dict[str, Tensor]:
        """Return the EMA weights of a run that uses EMA. Raises MtlError if they are missing."""
        ema = self.ema()
        if ema is None:
            run = self.path.parent.parent
            raise MtlError(
                f"{self.path} has no ema.safetensors, but {run / 'config.toml'} has train.ema > 0: "
                f"the EMA weights are missing. Copy the file from a backup of the run. To evaluate "
                f"the weights without averaging: mtl eval {run} --set train.ema=0"
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

        Raises MtlError if the file can't be read or has another format.
        """
        file = self.path / "state.pt"
        try:
            # weights_only: a pickle from an unknown author could run code.
            state: State = torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise MtlError(f"{file} can't be read: {error}") from error
        require_format(state, file)
        return state


@frozen
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """Path of the resolved configuration."""
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        """Path of the log."""
        return self.path / "metrics.jsonl"

    @classmethod
    def create(cls, path: Path, config: str, plugins: Mapping[str, Path]) -> RunFolder:
        """Create a run folder with its configuration.

        config: the text of config.toml.
        plugins: file name -> one-file plugin to copy.

        Raises MtlError if the folder already holds a run.
        """
        cls.refuse_existing(path)
        run = cls(path)
        with write_errors_as_mtl_error(path):
            path.mkdir(parents=True, exist_ok=True)
            for name, file in plugins.items():
                (path / "plugins").mkdir(exist_ok=True)
                shutil.copyfile(file, path / "plugins" / name)

            run.update_provenance({"format": FORMAT})
            # The configuration makes a folder a run, so it is written last.
            write_atomically(run.config, config.encode())
        return run

    @classmethod
    def refuse_existing(cls, path: Path) -> None:
        """Raise MtlError if the folder already holds a run, or if it can't have this name."""
        if "\0" in str(path):
            raise MtlError(f"out = {str(path)!r}: a path can't contain the character \\0")
        if os.fsencode(path).decode(errors="ignore") != str(path):
            shown = str(path).encode(errors="backslashreplace").decode()
            raise MtlError(  # safetensors opens no such file
                f"the name of the run folder is not UTF-8: {shown}; choose another --out"
            )
        if cls(path).config.exists():
            raise MtlError(
                f"{path} already holds a run: choose another --out, "
                f"or resume it: mtl train --resume {path} (in Python: resume=True)"
            )

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return an existing run. Raises MtlError if the folder holds none, or another format."""
        run = cls(path)
        if not run.config.is_file():
            what = "it has no config.toml" if path.is_dir() else "there is no such folder"
            raise MtlError(
                f"{path} is not a run folder: {what}. "
                "Expected the `out` folder of `mtl train` or mtlcore.train"
            )
        require_format(run.provenance(), run.path / "run.json")
        return run

    def experiment(self, overrides: Overrides = (), plugins: Sequence[Path] = ()) -> Experiment:
        """Return the resolved experiment of the run, with these overrides and plugin files.

        Raises MtlError if it can't be loaded, and says where missing components come from.
        """
        try:
            return load(self.config, overrides, plugins)
        except MtlError as error:
            recorded = self.provenance().get("components", {})
            hints = [line for origin in recorded.values() if (line := missing_component(origin))]
            if not hints:
                raise
            raise MtlError("\n  ".join([str(error), *hints])) from error.__cause__

    def update_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Add entries to run.json, or replace them."""
        merged = self.provenance() | dict(provenance)
        with write_errors_as_mtl_error(self.path):
            write_atomically(self.path / "run.json", to_json(merged, indent=2).encode())

    def provenance(self) -> JsonObject:
        """Return the contents of run.json, empty if there is no such file.

        A metric in "validation" that was not finite is NaN.
        Raises MtlError if it is not a JSON object.
        """
        file = self.path / "run.json"
        if not file.exists():
            return {}
        try:
            provenance = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise MtlError(f"{file} can't be read: {error}") from error
        if not isinstance(provenance, dict):
            raise MtlError(f"{file} can't be read: expected a JSON object")
        if isinstance(provenance.get("validation"), dict):
            provenance["validation"] = _with_nan(provenance["validation"])
        return provenance

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        # If the disk is full, the message names the checkpoint from which the run can resume.
        with (
            write_errors_as_mtl_error(self.metrics, _intact(self.checkpoint())),
            self.metrics.open("a") as file,
        ):
            file.write(to_json(row) + "\n")

    def _flush_log(self) -> None:
        """Flush metrics.jsonl to disk. Some file systems report a full disk only here."""
        if not self.metrics.exists():
            return
        with (
            write_errors_as_mtl_error(self.metrics, _intact(self.checkpoint())),
            self.metrics.open("ab") as file,
        ):
            os.fsync(file.fileno())
            flush_folder(self.path)

    def truncate_log(self, step: int, evaluated: bool = True) -> None:
        """Remove the log lines after `step`, since a resumed run writes them again.

        evaluated: False removes the metrics of `step`, too: the run evaluates this step again.
        """
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text().splitlines()
        remaining = [line for line in lines if _step_of(line) <= step]
        if not evaluated:
            remaining = [x for x in remaining if _step_of(x) < step or "lr" in json.loads(x)]
        text = "".join(f"{line}\n" for line in remaining)
        with write_errors_as_mtl_error(self.path):
            write_atomically(self.metrics, text.encode())

    def rows(self) -> list[JsonObject]:
        """Return all complete lines of metrics.jsonl. A number that was not finite is NaN."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text().splitlines()
        return [_with_nan(json.loads(line)) for line in lines if _step_of(line) < _INCOMPLETE]

    # ----------------------------------------------------------------------------- checkpoints

    def checkpoint(self, which: Which = "last") -> Checkpoint | None:
        """Return the newest complete checkpoint of a kind, or None."""
        folders = (self.path / "checkpoints").glob(f"{which}-*")
        complete = [folder for folder in folders if folder.suffix != ".tmp"]
        by_step = {int(folder.name.split("-")[1]): folder for folder in complete}
        if not by_step:
            return None
        newest = max(by_step)
        return Checkpoint(by_step[newest], newest)

    def require(self, which: Which = "last") -> Checkpoint:
        """Return the newest complete checkpoint of a kind. Raises MtlError if there is none."""
        found = self.checkpoint(which)
        if found is None:
            raise MtlError(f"{self.path} has no {which!r} checkpoint yet{self._instead_of(which)}")
        return found

    def _instead_of(self, which: Which) -> str:
        """Return what to do if this checkpoint is missing, as the end of a message."""
        if which == "best" and self.checkpoint("last") is not None:
            return ': use "last"'
        return f": train the run to its first checkpoint: mtl train --resume {self.path}"

    def save(
        self,
        which: Which,
        step: int,
        model: Mapping[str, Tensor],
        ema: Mapping[str, Tensor] | None,
        state: Mapping[str, Any],
        keep_older: bool = False,
    ) -> Checkpoint:
        """Write a checkpoint, then remove the older ones of its kind, unless `keep_older`.

        The rows of metrics.jsonl before it are flushed to disk first, since a resumed run does not
        write them again. Raises MtlError if it can't be written. Older checkpoints then remain.
        """
        self._flush_log()
        folder = self.path / "checkpoints"
        done = folder / f"{which}-{step:08d}"
        temporary = folder / f"{which}-{step:08d}.tmp"
        with write_errors_as_mtl_error(self.path, _intact(self.checkpoint(which)), temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write_atomically(temporary / "model.safetensors", _serialize(model))
            if ema is not None:
                write_atomically(temporary / "ema.safetensors", _serialize(ema))
            buffer = io.BytesIO()
            torch.save(dict(state), buffer)
            write_atomically(temporary / "state.pt", buffer.getbuffer())

            # The same step can be saved twice: after resuming, or as the last step of a run.
            if done.exists():
                shutil.rmtree(done)
            temporary.rename(done)
            flush_folder(folder)

        for old in folder.glob(f"{which}-*"):
            if old != done and not keep_older:
                shutil.rmtree(old, ignore_errors=True)
        return Checkpoint(done, step)


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


def _intact(checkpoint: Checkpoint | None) -> str:
    """Return the end of a message that names a checkpoint, "" if there is none."""
    if checkpoint is None:
        return ""
    return f"; the checkpoint of step {checkpoint.step} is intact: {checkpoint.path}"


def _serialize(tensors: Mapping[str, Tensor]) -> bytes:
    # safetensors accepts neither channels_last tensors nor views of other tensors.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    return safetensors.torch.save(plain)


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except (OSError, SafetensorError) as error:
        raise MtlError(f"{file} can't be read: {error}") from error


def _with_nan(numbers: Mapping[str, Any]) -> JsonObject:
    """Return the numbers that `to_json` wrote, with NaN for null."""
    return {name: math.nan if value is None else value for name, value in numbers.items()}


_INCOMPLETE = 2**62  # above the step of any run


def _step_of(line: str) -> int:
    """Return the step of a log line, or _INCOMPLETE for a line that a crash cut short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return _INCOMPLETE
