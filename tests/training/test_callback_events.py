"""The callbacks of a run: the order of events, the log file, TensorBoard, the terminal."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import asdict, evolve
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtlcore import Diverged, Interrupted, MtlError
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.callbacks.untouched import restored_generators
from mtlcore.checkpoints import Saved
from mtlcore.config import load
from mtlcore.config.experiment import Experiment
from mtlcore.runs import RunFolder
from mtlcore.sealed import seal_json
from mtlcore.training.trainer import train

HANG_S = 1800  # only ends a process that hangs
pytestmark = pytest.mark.timeout(2 * HANG_S)

HERE = Path(__file__).resolve().parent
MAIN = "import sys; from mtlcore.cli import main; sys.exit(main())"
BODY = """
[encoder]
width = 4

[task.quarter]
name = "classification"

[data.dots]

[input]
size = 16
batch_size = 16
validation = 0.2

[augment]
name = "weak"

[schedule]
warmup = 2

[train]
steps = 8
eval_every = 8
save_every = 8
log_every = 4
"""  # 77 training samples: an epoch is 5 steps


def config(folder: Path, tables: str, *plugins: Path) -> Path:
    """Write an experiment with these further tables."""
    paths = [HERE.parent / "dots.py", HERE / "reporters.py", *plugins]
    listed = ", ".join(f'"{path}"' for path in paths)
    file = folder / "run.toml"
    file.write_text(f"plugins = [{listed}]\n{BODY}{tables}")
    return file


def experiment(folder: Path, tables: str, *overrides: str) -> Experiment:
    return load(config(folder, tables), overrides)


def journal(run: Path, file: str = "journal.jsonl") -> list[dict]:
    return [json.loads(line) for line in (run / file).read_text().splitlines()]


def events(run: Path, file: str = "journal.jsonl") -> list[str]:
    return [entry["event"] for entry in journal(run, file)]


# ---------------------------------------------------------------------------- the order of events

BEFORE_THE_END = [
    ("on_train_start", 0),
    ("on_log", 4),
    ("on_epoch_end", 5),
    ("on_log", 8),
    ("on_validation_end", 8),
    ("on_log", 8),  # the metrics
    ("on_checkpoint", 8),  # best
    ("on_checkpoint", 8),  # last
]


def test_a_complete_run_sends_every_event_but_on_exception(tmp_path):
    train(experiment(tmp_path, "[callback.journal]\n"), tmp_path / "run")
    found = [(entry["event"], entry["step"]) for entry in journal(tmp_path / "run")]
    assert found == [*BEFORE_THE_END, ("on_train_end", 8), ("teardown", 8)]
    names = [e["name"] for e in journal(tmp_path / "run") if e["event"] == "on_checkpoint"]
    assert names == ["best-00000008", "last-00000008"]


@pytest.mark.slow
def test_a_run_that_gets_sigterm_is_saved_then_reported_then_torn_down(tmp_path):
    """A real process."""
    file = config(tmp_path, "[callback.journal]\nsignal_at = 4\n")
    run = tmp_path / "run"
    words = ["train", str(file), "--out", str(run)]
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *words], capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert events(run) == ["on_train_start", "on_log", "on_checkpoint", "on_exception", "teardown"]
    assert journal(run)[-2]["error"] == Interrupted.__name__
    assert RunFolder(run).require().step == 4

    # The resumed run is complete. It has its own start and its own handles.
    train(load(run / "config.toml"), run, resume=True)
    assert events(run)[5:] == [e for e, step in BEFORE_THE_END if (e, step) != ("on_log", 4)] + [
        "on_train_end",
        "teardown",
    ]


def test_a_run_in_which_a_plugin_raises_is_reported_and_torn_down(tmp_path):
    failing = HERE / "failing.py"
    file = config(tmp_path, "[pretext.raises]\n[callback.journal]\n", failing)
    with pytest.raises(ZeroDivisionError, match="a bug of a plugin"):
        train(load(file), tmp_path / "run")
    last = ["on_train_start", "on_log", "on_epoch_end", "on_exception", "teardown"]
    assert events(tmp_path / "run") == last
    assert journal(tmp_path / "run")[-2]["error"] == "ZeroDivisionError"


def test_a_run_that_diverges_is_reported_and_torn_down(tmp_path):
    hot = ["optimizer.lr=1000", "optimizer.weight_decay=1000", "schedule.warmup=0"]
    hot += ["train.max_skipped=2", "train.log_every=1", "train.steps=20"]
    with pytest.raises(Diverged):
        train(experiment(tmp_path, "[callback.journal]\n", *hot), tmp_path / "run")
    assert events(tmp_path / "run")[-2:] == ["on_exception", "teardown"]
    assert "on_train_end" not in events(tmp_path / "run")
    assert journal(tmp_path / "run")[-2]["error"] == Diverged.__name__


def test_a_run_that_a_callback_ends_with_an_mtl_error_is_reported_to_all(tmp_path):
    two = "[callback.journal]\nrefuses_in = 'on_epoch_end'\n"
    two += "[callback.other]\nname = 'journal'\nfile = 'other.jsonl'\n"
    with pytest.raises(MtlError, match=r"callback\.journal: not with me"):
        train(experiment(tmp_path, two), tmp_path / "run")
    last = ["on_epoch_end", "on_exception", "teardown"]
    assert events(tmp_path / "run")[-3:] == last
    assert events(tmp_path / "run", "other.jsonl")[-2:] == last[1:]


# ---------------------------------------------------------------------------- teardown


def test_teardown_follows_a_start_that_failed(tmp_path):
    tables = "[callback.journal]\nfails_in = 'on_train_start'\n"
    train(experiment(tmp_path, tables), tmp_path / "run")  # the run continues
    assert events(tmp_path / "run")[-2:] == ["on_train_end", "teardown"]
    failures = RunFolder(tmp_path / "run").provenance()["callback_failures"]
    assert failures == {"journal": {"times": 1, "last": "on_train_start: OSError: connection lost"}}


def test_teardown_follows_a_start_that_ended_the_run(tmp_path):
    tables = "[callback.journal]\nrefuses_in = 'on_train_start'\n"
    with pytest.raises(MtlError, match="not with me"):
        train(experiment(tmp_path, tables), tmp_path / "run")
    assert events(tmp_path / "run") == ["on_train_start", "on_exception", "teardown"]


@pytest.mark.parametrize("how", ["fails_in", "refuses_in"])
@pytest.mark.parametrize("event", ["on_exception", "teardown"])
def test_a_callback_that_fails_at_the_end_hides_no_error_and_stops_no_other(tmp_path, event, how):
    two = f"[callback.journal]\n{how} = '{event}'\n"
    two += "[callback.other]\nname = 'journal'\nfile = 'other.jsonl'\nrefuses_at = 4\n"
    notes = Notes()
    with pytest.raises(MtlError, match=r"callback\.other: not with me"):
        train(experiment(tmp_path, two), tmp_path / "run", reporter=notes)
    for file in ("journal.jsonl", "other.jsonl"):
        assert events(tmp_path / "run", file)[-2:] == ["on_exception", "teardown"]
    failures = RunFolder(tmp_path / "run").provenance()["callback_failures"]
    assert (list(failures), failures["journal"]["times"]) == (["journal"], 1)
    assert failures["journal"]["last"].startswith(f"{event}: ")
    assert [n for n in notes.texts if n.startswith(f"callback.journal failed in {event}: ")]


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


# ---------------------------------------------------------------------------- what they see


def test_handles_are_kept_between_calls_and_in_no_checkpoint(tmp_path):
    train(experiment(tmp_path, "[callback.journal]\n"), tmp_path / "run")
    assert journal(tmp_path / "run")[-1]["handles"] == ["lock"]
    saved = RunFolder(tmp_path / "run").require().state()["callbacks"]["states"]
    assert saved["journal"] == {}


def test_the_confusion_matrix_reaches_callbacks_and_survives_a_resume(tmp_path):
    tables = "[callback.journal]\nrefuses_in = 'on_train_end'\n"
    run = tmp_path / "run"
    with pytest.raises(MtlError, match="not with me"):
        train(experiment(tmp_path, tables), run)
    seen = [e["tables"] for e in journal(run) if e["event"] == "on_validation_end"]
    confusion = np.asarray(seen[-1]["quarter/confusion"])
    assert confusion.shape == (4, 4)
    assert confusion.sum() == RunFolder(run).provenance()["samples"]["validation"]

    # The run is at its last step: only its end is repeated, with the tables of the checkpoint.
    train(load(run / "config.toml", ["callback.journal.refuses_in="]), run, resume=True)
    assert events(run)[-3:] == ["on_train_start", "on_train_end", "teardown"]
    assert journal(run)[-2]["tables"] == seen[-1]


@pytest.mark.parametrize("what", ["network", "features"])
def test_a_callback_without_reads_network_cannot_reach_the_network(tmp_path, what):
    tables = f"[callback.blind]\nwhat = '{what}'\n"
    with pytest.raises(MtlError, match=rf"callback\.blind: run\.{what}: Blind has reads_network"):
        train(experiment(tmp_path, tables), tmp_path / "run")


def test_the_random_generators_are_restored_without_a_look_at_the_weights():
    def draws() -> tuple[float, ...]:
        return (float(torch.rand(())), float(np.random.rand()), random.random())

    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    expected = draws()
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    with restored_generators(torch.device("cpu")):
        draws()
        assert not torch.is_grad_enabled()
    assert draws() == expected
    assert torch.is_grad_enabled()


UNKNOWN_BUFFER = """
import torch
from attrs import frozen

from mtlcore import Classification, hookimpl


@frozen
class Quarters(Classification):
    def build(self, context):
        head = super().build(context)
        head.register_buffer("unknown", torch.full((2,), float("nan")))
        return head


@hookimpl
def mtl_components():
    return [Quarters]
"""


@pytest.mark.parametrize("vandal", ["", "[callback.vandal]\nhow = 'data'\n"])
def test_a_callback_is_not_blamed_for_a_buffer_that_was_nan_before(tmp_path, vandal):
    plugin = tmp_path / "unknown_buffer.py"
    plugin.write_text(UNKNOWN_BUFFER)
    file = config(tmp_path, f"[callback.journal]\n{vandal}", plugin)
    file.write_text(file.read_text().replace('"classification"', '"quarters"'))
    if vandal:  # another weight still counts
        with pytest.raises(MtlError, match=r"callback\.vandal changed the network"):
            train(load(file), tmp_path / "run")
    else:
        assert train(load(file), tmp_path / "run").steps == 8


# ---------------------------------------------------------------------------- metrics.jsonl


@pytest.mark.slow
def test_a_log_that_cannot_be_written_ends_the_run_and_nothing_is_lost(tmp_path):
    """A real process whose limit of file sizes is just above the size of metrics.jsonl."""
    run = tmp_path / "run"
    train(experiment(tmp_path, "[callback.journal]\n"), run)
    folder = RunFolder(run)
    good = folder.require()
    largest = max(path.stat().st_size for path in good.path.iterdir())
    rows = [*folder.log.rows(), {"step": 8, "long": "x" * 2 * largest}]
    folder.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    limit = folder.metrics.stat().st_size + 20
    # The checkpoint must cover the long log.
    manifest = evolve(good.manifest(), log=Saved.of(folder.metrics.read_bytes()))
    (good.path / "checkpoint.json").write_bytes(seal_json(asdict(manifest)))

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = [sys.executable, "-c", MAIN, "train", "--resume", str(run), "--set", "train.steps=16"]
    full = subprocess.run(
        words, capture_output=True, text=True, timeout=HANG_S, preexec_fn=limit_files
    )
    assert full.returncode == 2, full.stdout + full.stderr
    error = full.stderr.replace("\n", "")
    assert f"can't write {folder.metrics}" in error
    assert f"the checkpoint of step 8 is intact: {good.path}" in error
    assert events(run)[-2:] == ["on_exception", "teardown"]
    assert folder.require() == good

    done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert folder.log.rows()[: len(rows)] == rows
    assert [row["step"] for row in folder.log.rows()[len(rows) :]] == [12, 16, 16]


def file_of(descriptor: int) -> str:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name


def test_the_log_is_on_disk_before_the_checkpoint_that_covers_it(tmp_path, monkeypatch):
    run = tmp_path / "run"
    flushed: list[tuple[str, int]] = []

    def spied(descriptor: int, original=os.fsync) -> None:
        original(descriptor)
        if file_of(descriptor) == "metrics.jsonl":
            flushed.append(("log", len(RunFolder(run).log.rows())))
        if file_of(descriptor).startswith("state.pt."):  # under a temporary name
            flushed.append(("checkpoint", 0))

    monkeypatch.setattr(os, "fsync", spied)
    train(experiment(tmp_path, "", "train.save_every=4"), run)
    # Rows: step 4; step 8 before its evaluation; its metrics, in the best and the last checkpoint.
    before = [("log", 1), ("checkpoint", 0), ("log", 2), ("checkpoint", 0)]
    last = [("log", 3), ("checkpoint", 0)]
    assert flushed == [*before, *last, *last]


def test_a_log_that_cannot_be_flushed_ends_the_run_before_the_checkpoint(tmp_path, monkeypatch):
    """Some file systems report a full disk only when a file is flushed."""

    def full(descriptor: int, original=os.fsync) -> None:
        if file_of(descriptor) == "metrics.jsonl" and RunFolder(tmp_path / "run").checkpoint():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    message = r"can't write .*metrics\.jsonl: No space.*the checkpoint of step 4 is intact"
    with pytest.raises(MtlError, match=message):
        train(experiment(tmp_path, "", "train.save_every=4"), tmp_path / "run")
    assert RunFolder(tmp_path / "run").require().step == 4


def test_what_a_callback_adds_at_the_end_is_kept_when_the_run_takes_more_steps(tmp_path):
    run, late = tmp_path / "run", ("train.best=late/score", "train.eval_every=0")
    train(experiment(tmp_path, "[callback.late]\n", "train.steps=6", *late), run)
    # As if it was killed before it wrote its result: the end is not repeated.
    RunFolder(run).update_provenance({}, remove=("finished", "validation"))
    train(load(run / "config.toml"), run, resume=True)
    assert RunFolder(run).provenance()["validation"]["late/score"] == 1 / 6
    train(experiment(tmp_path, "[callback.late]\n", "train.steps=12", *late), run, resume=True)
    name = "validation/late/score"
    scores = [(row["step"], row[name]) for row in RunFolder(run).log.rows() if name in row]
    assert scores == [(6, 1 / 6), (12, 1 / 12)]
    best = RunFolder(run).checkpoint("best")
    assert best is not None
    assert best.step == 6


# ---------------------------------------------------------------------------- TensorBoard


def scalars(run: Path, name: str) -> list[tuple[int, float]]:
    """The points of one curve, as TensorBoard shows them."""
    found = EventAccumulator(str(run / "tensorboard")).Reload().Scalars(name)
    return [(point.step, point.value) for point in found]


def test_tensorboard_shows_the_log_and_drops_what_a_resumed_run_writes_again(tmp_path):
    tables = "[callback.tensorboard]\n[callback.journal]\nrefuses_at = 12\n"
    overrides = ("train.steps=16", "train.save_every=8")
    run = tmp_path / "run"
    with pytest.raises(MtlError, match="not with me"):
        train(experiment(tmp_path, tables, *overrides), run)
    assert [step for step, _ in scalars(run, "loss/quarter")] == [4, 8, 12]
    train(load(run / "config.toml"), run, resume=True)
    assert [step for step, _ in scalars(run, "loss/quarter")] == [4, 8, 12, 16]
    for name in ("loss/quarter", "lr", "validation/quarter/accuracy"):
        rows = [row for row in RunFolder(run).log.rows() if name in row]
        expected = [(row["step"], pytest.approx(row[name])) for row in rows]
        assert scalars(run, name) == expected


TURNED = """
from attrs import frozen
from mtl_pretexts.rotation import Rotation
from torchmetrics.classification import MulticlassConfusionMatrix
from mtlcore import hookimpl

@frozen
class Turned(Rotation):
    name = "turned"

    def metrics(self):
        return {"confusion": MulticlassConfusionMatrix(4)}

@hookimpl
def mtl_components():
    return [Turned]
"""


def test_tensorboard_shows_confusion_matrices_and_at_the_end_the_sheet_of_the_pretexts(tmp_path):
    run = tmp_path / "run"
    tables = "[callback.tensorboard]\n[pretext.puzzling]\ngrid = 2\n[pretext.turned]\n"
    plugin = tmp_path / "turned.py"
    plugin.write_text(TURNED)
    train(load(config(tmp_path, tables, plugin), ["train.steps=8", "train.eval_every=4"]), run)
    found = EventAccumulator(str(run / "tensorboard")).Reload()
    for name in ("quarter/confusion", "turned/confusion"):
        assert [image.step for image in found.Images(name)] == [4, 8]
    assert [image.step for image in found.Images("preview")] == [8]
    assert "callback_failures" not in RunFolder(run).provenance()


@pytest.mark.slow
def test_a_run_without_the_callback_imports_no_tensorboard(tmp_path):
    file = config(tmp_path, "")
    code = (
        "import sys; from mtlcore.cli import main; code = main(); "
        "sys.exit(code or 'torch.utils.tensorboard' in sys.modules)"
    )
    words = [sys.executable, "-c", code, "train", str(file), "--out", str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "tensorboard").exists()


# ---------------------------------------------------------------------------- the terminal


class Gone(SilentReporter):
    """A terminal that was closed."""

    def on_log(self, run, row) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def note(self, text: str) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_terminal_that_is_gone_does_not_end_the_run(tmp_path):
    assert train(experiment(tmp_path, ""), tmp_path / "run", reporter=Gone()).steps == 8
    failures = RunFolder(tmp_path / "run").provenance()["callback_failures"]
    assert list(failures) == ["the terminal"]
    assert "Broken pipe" in failures["the terminal"]["last"]


@pytest.fixture(autouse=True)
def default_signals() -> Iterator[None]:
    """A run must leave the handlers of signals as they were."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before
