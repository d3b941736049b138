"""The folder of a run: training writes it, everything else reads it.

    RUN/config.toml      the complete, resolved configuration: training it again reproduces the run
    RUN/run.json         provenance: versions, threads, device, data fingerprint, final metrics
    RUN/metrics.jsonl    one line for each logged step or evaluation
                         In both, null stands for a number that is not finite
    RUN/tensorboard/     the same, for TensorBoard (if the run has [callback.tensorboard])
    RUN/plugins/         copies of the one-file plugins
    RUN/checkpoints/last-<step>/, best-<step>/
                         weights and training state, see `checkpoints`
    RUN/.lock            held by the process that trains the run

A checkpoint is written to a temporary folder, flushed to disk, and renamed. So it is either
complete or absent. Older checkpoints are removed only afterwards.

config.toml, run.json and all files of a checkpoint have checksums, which are compared whenever the
files are read. A checkpoint also knows its run, its configuration, and the lines of the log that it
covers. run.json and checkpoint.json hold the number `FORMAT`. Opening a run of another format
raises MtlError.
"""

from __future__ import annotations

import os
import shutil
import tomllib
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_args

from attrs import frozen

from .checkpoints import (
    FORMAT,
    REPLACED,
    Checkpoint,
    Contents,
    Manifest,
    Saved,
    Which,
    folder_name,
    is_checkpoint,
    require_format,
    step_of,
    without_ending,
    write_checkpoint,
)
from .config import load
from .config.experiment import Experiment
from .config.overrides import Overrides, Table
from .config.same import changed_keys
from .errors import MtlError, first_few
from .files import (
    exists,
    flush_folder,
    in_shell,
    is_file,
    is_folder,
    read_file,
    write_atomically,
    write_errors_as_mtl_error,
)
from .registry.lookup import missing_component
from .run_log import RunLog, with_nan
from .sealed import (
    JsonObject,
    has_seal,
    parse_json,
    seal_json,
    seal_toml,
    unseal_json,
)

T = TypeVar("T")


WRITTEN = ("checkpoints", "metrics.jsonl")
"""What a run writes into its folder once it has a config.toml."""
BEGUN = {"format", "run"}
"""The entries of run.json before that."""


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

    @property
    def log(self) -> RunLog:
        """The log. If it can't be written, the message names the last checkpoint."""
        return RunLog(self.metrics, lambda: _intact(self.checkpoint()))

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
            run._copy(plugins)
            run.update_provenance({"format": FORMAT, "run": uuid.uuid4().hex})
            # The configuration makes a folder a run, so it is written last.
            write_atomically(run.config, seal_toml(config).encode())
        return run

    def change_config(self, config: str, plugins: Mapping[str, Path]) -> None:
        """Replace the configuration of a run that resumes with other settings, as in `create`."""
        with write_errors_as_mtl_error(self.path):
            self._copy(plugins)
            write_atomically(self.config, seal_toml(config).encode())

    def _copy(self, plugins: Mapping[str, Path]) -> None:
        """Copy one-file plugins. Raises MtlError before a file of something else is replaced."""
        for name, file in plugins.items():
            copy, data = self.path / "plugins" / name, file.read_bytes()
            if exists(copy) and not exists(self.config) and copy.read_bytes() != data:
                raise MtlError(
                    f"{copy} is another file than the plugin {file}, which a run would copy "
                    "there: choose another --out, or move it"
                )
            if file.resolve() != copy.resolve():
                copy.parent.mkdir(exist_ok=True)
                write_atomically(copy, data)

    @classmethod
    def refuse_existing(cls, path: Path) -> None:
        """Raise MtlError if the folder holds a run or parts of one, or can't have this name."""
        if "\0" in str(path):
            raise MtlError(f"out = {str(path)!r}: a path can't contain the character \\0")
        if os.fsencode(path).decode(errors="ignore") != str(path):
            shown = str(path).encode(errors="backslashreplace").decode()
            raise MtlError(  # safetensors opens no such file
                f"the name of the run folder is not UTF-8: {shown}; choose another --out"
            )
        if exists(cls(path).config):
            raise MtlError(
                f"{path} already holds a run: choose another --out, "
                f"or resume it: mtl train --resume {in_shell(path)} (in Python: resume=True)"
            )
        # Without config.toml: a copy of a run that was interrupted, or files of something else. A
        # run that was killed before it wrote that file has a run.json, too, but with less in it.
        found = [name for name in WRITTEN if exists(path / name)]
        if not set(cls(path).provenance()) <= BEGUN:
            found.append("run.json")
        if found:
            raise MtlError(
                f"{path} has no config.toml, so it holds no run, but it has {', '.join(found)}, "
                "which a run would replace: choose another --out, or move them"
            )

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return an existing run. Raises MtlError if the folder holds none, or another format."""
        run = cls(path)
        if not is_file(run.config):
            what = "it has no config.toml" if is_folder(path) else "there is no such folder"
            raise MtlError(
                f"{path} is not a run folder: {what}. "
                "Expected the `out` folder of `mtl train` or mtlcore.train"
            )
        provenance = run.path / "run.json"
        if not exists(provenance):
            raise MtlError(f"{provenance} is missing: restore it from a backup of the run")
        require_format(run.provenance(), provenance)
        return run

    def experiment(self, overrides: Overrides = (), plugins: Sequence[Path] = ()) -> Experiment:
        """Return the resolved experiment of the run, with these overrides and plugin files.

        Raises MtlError if config.toml was changed by hand, or if the experiment can't be loaded. It
        then says where missing components come from.
        """
        self.config_tables()
        try:
            return load(self.config, overrides, plugins)
        except MtlError as error:
            recorded = self.provenance().get("components", {})
            hints = [line for origin in recorded.values() if (line := missing_component(origin))]
            if not hints:
                raise
            raise MtlError("\n  ".join([str(error), *hints])) from error.__cause__

    def config_tables(self) -> Table:
        """Return the tables of config.toml.

        Raises MtlError if they are not those that mtlcore wrote, with the keys that differ from the
        last checkpoint.
        """
        try:
            text = self.config.read_text(encoding="utf-8")
            tables = tomllib.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise MtlError(f"{self.config} can't be read: {error}") from error
        if has_seal(text, tables):
            return tables
        found = [f"\n  {line}" for line in self._changes_by_hand(tables)]
        run = in_shell(self.path)
        raise MtlError(
            f"{self.config} was changed or damaged after the run wrote it: its values do not have "
            "the checksum of its first line. Restore it. To change a setting, pass it: "
            f"mtl train --resume {run} --set KEY=VALUE, or mtl eval {run} --set "
            f"KEY=VALUE{''.join(found)}"
        )

    def _changes_by_hand(self, tables: Table) -> list[str]:
        """A line for each key that differs from the newest checkpoint that can be read."""
        for which in get_args(Which):
            checkpoint = self.checkpoint(which)
            if checkpoint is None:
                continue
            try:
                saved = _tables(checkpoint.manifest())
            except MtlError:
                continue
            return changed_keys(tables, saved, "in the checkpoint", f"in {self.config.name}")
        return []

    def update_provenance(self, provenance: Mapping[str, Any], remove: Sequence[str] = ()) -> None:
        """Add entries to run.json, or replace them. remove: names of entries to remove."""
        merged = self.provenance() | dict(provenance)
        left = {name: value for name, value in merged.items() if name not in remove}
        with write_errors_as_mtl_error(self.path):
            write_atomically(self.path / "run.json", seal_json(left))

    def provenance(self) -> JsonObject:
        """Return the contents of run.json, empty if there is no such file.

        A metric in "validation" that was not finite is NaN.
        Raises MtlError if it is not what mtlcore wrote, or has another format.
        """
        file = self.path / "run.json"
        if not file.exists():
            return {}
        try:
            data = read_file(file)
        except OSError as error:
            raise MtlError(f"{file} can't be read: {error.strerror or error}") from error
        content = parse_json(data, file)
        require_format(content, file)
        provenance = unseal_json(content, file)
        if isinstance(provenance.get("validation"), dict):
            provenance["validation"] = with_nan(provenance["validation"])
        return provenance

    # ----------------------------------------------------------------------------- checkpoints

    def checkpoint(self, which: Which = "last") -> Checkpoint | None:
        """Return the newest complete checkpoint of a kind, or None."""
        complete = self._complete(which)
        return complete[-1] if complete else None

    def require(self, which: Which = "last") -> Checkpoint:
        """Return the newest complete checkpoint of a kind.

        Raises MtlError if there is none, or if it belongs to another run.
        """
        found = self.checkpoint(which)
        if found is None:
            raise MtlError(f"{self.path} has no {which!r} checkpoint{self._instead_of(which)}")
        self.require_own(found.manifest(), found.path)
        return found

    def read(self, which: Which, read: Callable[[Checkpoint], T]) -> tuple[Checkpoint, T]:
        """Return the newest complete checkpoint of a kind, and what `read` returns for it.

        A process that trains the run removes a checkpoint once it has saved the next one. Then the
        next one is read. Raises MtlError as `require` and `read` do.
        """
        for _ in range(3):
            with suppress(MtlError):
                checkpoint = self.require(which)
                return checkpoint, read(checkpoint)
        checkpoint = self.require(which)
        return checkpoint, read(checkpoint)

    def require_own(self, manifest: Manifest, path: Path) -> None:
        """Raise MtlError if this is the manifest of a checkpoint of another run.

        path: the folder of the checkpoint. The message names the settings that differ. Settings
        that a resumed run may change can differ.
        """
        found = changed_keys(
            self.config_tables(), _tables(manifest), "in the checkpoint", "in config.toml"
        )
        if manifest.run == self.provenance().get("run") and not found:
            return
        lines = [f"\n  {line}" for line in found]
        raise MtlError(
            f"{path} is a checkpoint of another run than {self.path}: restore the files of the "
            f"run{''.join(lines)}"
        )

    def passed_over(self) -> str:
        """Return a note about entries of checkpoints/ that are no checkpoints, or ""."""
        strange = [path.name for path in self._in_checkpoints() if not is_checkpoint(path.name)]
        if not strange:
            return ""
        names = first_few([repr(name) for name in strange], 3)
        return f"{self.path / 'checkpoints'}: passed over {names}: not the name of a checkpoint"

    def _in_checkpoints(self) -> list[Path]:
        folder = self.path / "checkpoints"
        try:
            return sorted(folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise MtlError(f"{folder} can't be read: {error.strerror or error}") from error

    def _instead_of(self, which: Which) -> str:
        """Return what to do if this checkpoint is missing, as the end of a message."""
        if which == "best" and self.checkpoint("last") is not None:
            return ' yet: use "last"'
        if which == "last" and self.provenance().get("saved"):
            best = self.checkpoint("best")
            instead = "" if best is None else f', or use "best", of step {best.step}'
            return f", although it has saved one: restore it from a backup of the run{instead}"
        command = f"mtl train --resume {in_shell(self.path)}"
        return f" yet: train the run to its first checkpoint: {command}"

    def save(self, which: Which, contents: Contents, keep_older: bool = False) -> Checkpoint:
        """Write a checkpoint, then remove the older ones of its kind, unless `keep_older`.

        A new best checkpoint leaves one of before in place, until the last checkpoint is as new: a
        run that is killed in between resumes without the new one.

        The rows of metrics.jsonl before it are flushed to disk first, since a resumed run does not
        write them again. Raises MtlError if it can't be written. Older checkpoints then remain.
        """
        self.log.flush()
        log = Saved.of(self.log.read())
        folder = self.path / "checkpoints"
        done = folder / folder_name(which, contents.step)
        temporary = done.with_name(f"{done.name}.tmp")
        with write_errors_as_mtl_error(self.path, _intact(self.checkpoint(which)), temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            # Without parents: a run folder that was moved or deleted is not created again.
            folder.mkdir(exist_ok=True)
            temporary.mkdir()
            write_checkpoint(temporary, which, contents, log)

            # The same step can be saved twice: before and after its evaluation. A process that is
            # killed here leaves one of the two under a name from which a run resumes.
            if done.exists():
                replaced = done.with_name(f"{done.name}{REPLACED}")
                shutil.rmtree(replaced, ignore_errors=True)
                done.rename(replaced)
            temporary.rename(done)
            flush_folder(folder)
        if which == "last" and not self.provenance().get("saved"):
            # From now on, a run without a checkpoint has lost it.
            self.update_provenance({"saved": True})

        saved = Checkpoint(done, contents.step)
        if not keep_older:
            self._prune(which, saved)
        return saved

    def forget_best_after(self, step: int) -> None:
        """Remove best checkpoints of later steps, if there is one of before.

        They belong to steps that a resumed run takes again, maybe to another result.
        """
        bests = self._complete("best")
        if bests and bests[0].step <= step:
            for best in bests:
                if best.step > step:
                    shutil.rmtree(best.path, ignore_errors=True)

    def _prune(self, which: Which, saved: Checkpoint) -> None:
        """Remove what `saved` makes superfluous."""
        keep = {saved.path}
        bests = self._complete("best")
        if which == "best":
            # A run that is killed now resumes from `last`, with the best step up to that one.
            last = self.checkpoint("last")
            resumes_at = -1 if last is None else min(last.step, saved.step - 1)
            bests = [best for best in bests if best.step <= resumes_at]
        keep |= {best.path for best in bests[-1:]}
        kinds: tuple[Which, ...] = ("best",) if which == "best" else ("best", "last")
        for old in self._in_checkpoints():
            ours = any(step_of(kind, without_ending(old.name)) is not None for kind in kinds)
            if ours and old not in keep:
                shutil.rmtree(old, ignore_errors=True)

    def _complete(self, which: Which) -> list[Checkpoint]:
        """Return all complete checkpoints of a kind, by step."""
        found: dict[int, Checkpoint] = {}
        # By name, so last-00000008 comes before last-00000008.old, which it replaced.
        for folder in self._in_checkpoints():
            step = step_of(which, folder.name.removesuffix(REPLACED))
            if step is not None and folder.is_dir():
                found.setdefault(step, Checkpoint(folder, step))
        return [found[step] for step in sorted(found)]


def _tables(manifest: Manifest) -> Table:
    """The configuration of the run when the checkpoint was saved."""
    try:
        return tomllib.loads(manifest.config)
    except ValueError as error:
        raise MtlError(f"a checkpoint's configuration is not TOML: {error}") from error


def _intact(checkpoint: Checkpoint | None) -> str:
    """Return the end of a message that names a checkpoint, "" if there is none."""
    if checkpoint is None:
        return ""
    return f"; the checkpoint of step {checkpoint.step} is intact: {checkpoint.path}"
