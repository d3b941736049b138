"""Resuming: what is noticed, what may change, and that nothing of the log is lost."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import asdict, evolve
from dots_run import DOTS, tiny_toml
from safetensors.torch import save_file

import mtlcore
from mtlcore import Input, MtlError, Train, component
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.checkpoints import Checkpoint, Saved
from mtlcore.config import load
from mtlcore.config.experiment import Experiment
from mtlcore.config.same import differences, with_resumable
from mtlcore.evaluation.evaluate import evaluate
from mtlcore.report.about import headline
from mtlcore.runs import RunFolder
from mtlcore.sealed import seal_json, seal_toml
from mtlcore.training.result import RESULT
from mtlcore.training.resume import experiment_to_resume
from mtlcore.training.trainer import Trainer, train

FAILING = Path(__file__).with_name("failing.py")
TABLES = """
[pretext.nan]
every = 5

[weighting]
name = "uncertainty"
"""
TRAIN = """
steps = 4
ema = 0.5
eval_every = 2
log_every = 3
accelerator = "cpu"
"""
CONFIG = tiny_toml(TRAIN, plugins=(DOTS, FAILING), tables=TABLES)


class Notes(SilentReporter):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dots.toml, and a run of 4 steps whose log has rows of the steps 2, 3 and 4."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "dots.toml").write_text(CONFIG)
    train(load(folder / "dots.toml"), folder / "run")
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test can change."""
    return shutil.copytree(trained / "run", tmp_path / "run")


def resume(run: Path, *overrides: str, reporter: SilentReporter | None = None) -> None:
    """Resume with overrides, as `mtl train --resume RUN --set ...`."""
    given = RunFolder.open(run).experiment(overrides)
    train(experiment_to_resume(given, run), run, resume=True, reporter=reporter)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(MtlError) as error:
        call()
    return str(error.value)


def fine_tune(run: Path) -> None:
    config = load(run / "config.toml", [f"train.init_from={run}"])
    train(config, run.parent / "tuned")


def rewrite(run: Path, name: str, write: Callable[[Path], object], **changes: Any) -> None:
    """Replace a file of the last checkpoint, or entries of its manifest, with right checksums."""
    checkpoint = RunFolder(run).require()
    manifest = checkpoint.manifest()
    file = checkpoint.path / name
    write(file)
    listed = manifest.files | {name: Saved.of(file.read_bytes())}
    changed = evolve(manifest, files=listed, **changes)
    (checkpoint.path / "checkpoint.json").write_bytes(seal_json(asdict(changed)))


# ------------------------------------------------------------------------------ damaged files


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        pytest.param("ema.safetensors", marks=pytest.mark.slow),
        pytest.param("state.pt", marks=pytest.mark.slow),
        "checkpoint.json",
    ],
)
def test_a_flipped_bit_of_a_checkpoint_is_noticed_by_everything_that_reads_it(run, name):
    file = RunFolder(run).require().path / name
    good = file.read_bytes()
    for place in (0.001, 0.3, 0.6, 0.999):
        bad = bytearray(good)
        bad[int(place * len(good))] ^= 4
        file.write_bytes(bad)
        assert name in refused(lambda: resume(run, "train.steps=5"))
        if name not in ("state.pt", "model.safetensors"):
            assert name in refused(lambda: evaluate(run))
            assert name in refused(lambda: fine_tune(run))
    file.unlink()
    assert name in refused(lambda: resume(run, "train.steps=5"))


@pytest.mark.parametrize("name", ["config.toml", "run.json"])
def test_a_changed_value_of_a_run_is_noticed_by_everything_that_reads_it(run, name):
    read = {"config.toml": lambda run: run.experiment, "run.json": lambda run: run.summary}
    file = run / name
    text = file.read_text()
    changed = text.replace("dots", "spots", 1)
    assert text != changed
    for bad in (changed.encode(), text.encode()[:-40], b"\xff\x00", b"[" * 100_000):
        file.write_bytes(bad)
        for use in (
            lambda: resume(run),
            lambda: evaluate(run),
            lambda: read[name](mtlcore.load_run(run)),
        ):
            assert name in refused(use)
        assert name in refused(lambda: mtlcore.Run(run).evaluate())


def test_lines_of_the_log_that_are_missing_or_changed_are_noticed(run):
    log = run / "metrics.jsonl"
    good = log.read_bytes()
    first, *rest = good.splitlines(keepends=True)
    log.write_bytes(b"".join(rest))
    assert "metrics.jsonl is damaged: lines are missing" in refused(lambda: resume(run))
    log.write_bytes(first.replace(b"2", b"1") + b"".join(rest))
    assert "lines from before the checkpoint were changed" in refused(lambda: resume(run))
    log.write_bytes(good + b'{"step": 5, "lr')
    assert len(RunFolder(run).log.rows()) == len(rest) + 1  # a crash may cut the last line
    log.write_bytes(good + b'\x80\x00\n{"step": 5}\n')
    assert f"line {len(rest) + 2} is not" in refused(lambda: RunFolder(run).log.rows())


def other_shape(state):
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1)


def other_dtype(state):
    state["optimizer"]["state"][0]["exp_avg_sq"] = state["optimizer"]["state"][0][
        "exp_avg_sq"
    ].double()


def other_key(state):
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(1)


def other_parameter(state):
    state["optimizer"]["state"][10_000] = state["optimizer"]["state"][0]


def other_groups(state):
    state["optimizer"]["param_groups"][0]["params"] = [0]


def other_hyperparameter(state):
    state["optimizer"]["param_groups"][0]["betas"] = "high"


def other_learned_weight(state):
    state["loss_weighting"]["log_var.quarter"] = torch.zeros(7)


def other_learned_moment(state):
    state["loss_weighting_optimizer"]["state"][0]["exp_avg"] = torch.zeros(9)


def other_record(state):
    state["record"]["pending"] = torch.zeros(2, 1)


def without_callbacks(state):
    del state["callbacks"]


def text_as_best(state):
    state["best"] = "0.5"


MADE = (
    other_shape, other_dtype, other_key, other_parameter, other_groups, other_hyperparameter,
    other_learned_weight, other_learned_moment, other_record, without_callbacks, text_as_best,
)  # fmt: skip


def test_a_made_state_is_refused_before_an_optimizer_reads_it(run):
    trainer = Trainer(load(run / "config.toml"), run, resume=True, progress=False)
    checkpoints = trainer.parts.checkpoints
    assert checkpoints is not None
    torch.save(RunFolder(run).require().state(), run.parent / "good.pt")
    for change in MADE:
        state = torch.load(run.parent / "good.pt", weights_only=True)
        change(state)
        rewrite(run, "state.pt", lambda file, state=state: torch.save(state, file))
        found = refused(lambda: checkpoints._load(RunFolder(run).require()))
        assert "fit this" in found, change.__name__
        assert "last-00000004" in found


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"garbage", b"PK\x03\x04" + b"\0" * 90])
def test_a_state_that_is_no_state_is_one_message(run, data):
    rewrite(run, "state.pt", lambda file: file.write_bytes(data))
    found = refused(lambda: resume(run, "train.steps=5"))
    assert "state.pt is not a file that mtlcore wrote" in found
    assert "\n" not in found


def test_weights_of_another_dtype_are_refused(run):
    weights = RunFolder(run).require().weights()
    name = "encoder.net.stem.0.weight"
    changed = weights | {name: weights[name].double()}
    rewrite(run, "model.safetensors", lambda file: save_file(changed, file))
    assert "1 of another dtype" in refused(lambda: resume(run, "train.steps=5"))


# ------------------------------------------------------------------------------ another run


def test_a_checkpoint_of_another_run_is_refused_with_the_settings_that_differ(trained, run):
    other = run.parent / "other"
    train(load(trained / "dots.toml", ["seed=1", "optimizer.lr=0.1"]), other)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")
    for use in (lambda: resume(run), lambda: evaluate(run)):
        first, *lines = refused(use).splitlines()
        assert "is a checkpoint of another run" in first
        assert "  seed: 1 in the checkpoint, 0 in config.toml" in lines
        assert "  optimizer.lr: 0.1 in the checkpoint, 0.001 in config.toml" in lines


def test_the_same_configuration_does_not_make_it_the_same_run(trained, run):
    train(load(trained / "dots.toml"), run.parent / "other")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(run.parent / "other" / "checkpoints", run / "checkpoints")
    assert "is a checkpoint of another run" in refused(lambda: resume(run))


def test_a_renamed_checkpoint_is_refused(run):
    folder = RunFolder(run).require().path
    folder.rename(folder.with_name("last-00000005"))
    assert "holds the checkpoint last-00000004" in refused(lambda: resume(run, "train.steps=6"))
    assert "holds the checkpoint last-00000004" in refused(lambda: evaluate(run))


def test_a_process_killed_while_it_replaces_a_checkpoint_leaves_one_to_resume_from(run):
    """The last step is saved twice: before and after its evaluation."""
    last = RunFolder(run).require().path
    last.rename(last.with_name(f"{last.name}.old"))
    assert evaluate(run).metrics
    assert not RunFolder(run).passed_over()
    resume(run, "train.steps=5")
    assert {p.name for p in last.parent.glob("last*")} == {"last-00000005"}


def test_a_process_killed_while_it_removes_a_checkpoint_has_a_complete_one(run, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(folder: Path, **_kwargs: object) -> None:
        if folder.exists():
            (folder / "checkpoint.json").unlink()
            raise Killed

    trainer = Trainer(load(run / "config.toml"), run, resume=True, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", kill)
        with pytest.raises(Killed):
            trainer.save()
    assert RunFolder(run).require().state()["step"] == 4


def test_a_checkpoint_that_is_removed_while_it_is_read_gives_way_to_the_next_one(run):
    """A process that trains the run saves while another one evaluates."""
    folder, read = RunFolder(run), []

    def weights(checkpoint: Checkpoint) -> dict[str, Any]:
        read.append(checkpoint.step)
        if len(read) == 1:
            resume(run, "train.steps=5")
        return checkpoint.weights()

    checkpoint, found = folder.read("last", weights)
    assert (read, checkpoint.step) == ([4, 5], 5)
    assert found.keys() == folder.require().weights().keys()


def test_a_run_folder_that_was_deleted_is_not_created_again(run):
    trainer = Trainer(load(run / "config.toml"), run, resume=True, progress=False)
    shutil.rmtree(run)
    assert "No such file or directory" in refused(trainer.save)
    assert not run.exists()


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "model.safetensors"])
def test_a_file_of_a_run_that_is_a_pipe_is_refused_and_blocks_nothing(run, name):
    (file,) = [*run.glob(name), *run.glob(f"checkpoints/last*/{name}")]
    file.unlink()
    os.mkfifo(file)
    assert "it is a pipe, a socket or a device" in refused(lambda: resume(run, "train.steps=5"))


def test_folders_that_are_not_ours_are_passed_over_with_a_note_and_kept(run):
    folder = RunFolder(run).require().path
    copy = shutil.copytree(folder, folder.with_name(f"{folder.name} (copy)"))
    (folder.parent / "last-9").write_text("a file")
    notes = Notes()
    resume(run, "train.steps=5", reporter=notes)
    (line,) = [note for note in notes.notes if "passed over" in note]
    assert "'last-00000004 (copy)', 'last-9'" in line
    assert RunFolder(run).require().step == 5
    assert copy.is_dir()
    assert any("passed over" in line for line in evaluate(run).report)


def test_a_run_that_lost_its_checkpoint_does_not_start_again(run):
    shutil.rmtree(RunFolder(run).require().path)
    for steps in (4, 6):
        found = refused(lambda steps=steps: resume(run, f"train.steps={steps}"))
        assert "has saved checkpoints, but the last one is missing" in found


# ------------------------------------------------------------------------------ what may change


def test_a_resumed_run_takes_more_steps_and_other_periods_and_keeps_them(run):
    notes = Notes()
    changes = ("train.steps=6", "train.log_every=1", "train.save_every=5", "train.eval_every=6")
    resume(run, *changes, "input.prefetch=0", reporter=notes)
    folder = RunFolder(run)
    assert "input.prefetch: 2 before, 0 now" in notes.notes
    assert "train.steps: 4 before, 6 now" in notes.notes
    assert any("the learning-rate schedule is that of a run of 6 steps" in n for n in notes.notes)
    assert [row["step"] for row in folder.log.rows() if "lr" in row] == [3, 4, 5, 6]
    provenance = folder.provenance()
    assert (provenance["finished"], provenance["steps"]) == (True, 6)
    assert provenance["changed"][0]["step"] == 4
    assert "train.steps: 4 before, 6 now" in provenance["changed"][0]["changes"]
    # The next time, they need not be repeated.
    assert load(folder.config).train.steps == 6
    assert load(folder.config).input.prefetch == 0
    resume(run)
    assert folder.provenance() == provenance
    assert "4 steps, now" not in refused(lambda: resume(run, "train.steps=5"))
    assert "can take more steps, not fewer" in refused(lambda: resume(run, "train.steps=5"))


class Quits(SilentReporter):
    """Ends a run at its first checkpoint."""

    def on_checkpoint(self, *_: object) -> None:
        raise MtlError("that is enough")


def test_a_resumed_run_that_is_interrupted_has_no_result_of_before(run):
    folder = RunFolder(run)
    changes = ("train.steps=9", "train.log_every=1", "train.save_every=1", "train.eval_every=0")
    assert "that is enough" in refused(lambda: resume(run, *changes, reporter=Quits()))
    assert not set(RESULT) & set(folder.provenance())
    last = folder.log.rows()[-1]
    assert last["step"] == 5
    assert headline(folder.provenance(), folder.log.rows(), None)[0] == ("steps", "5")
    package = mtlcore.load_run(run).package(run.parent / "package")
    card = (package / "README.md").read_text()
    assert "Weights of step 5" in card
    assert "Compute of the training" not in card


def test_callbacks_may_change_when_a_run_resumes(run):
    resume(run, "train.steps=6", 'callback.early_stopping.metric="quarter/accuracy"')
    assert list(mtlcore.load_run(run).experiment.callbacks) == ["early_stopping"]


@pytest.mark.parametrize(
    "override",
    ["seed=1", "optimizer.lr=0.1", "input.batch_size=4", "train.ema=0", "data.dots.n=50"],
)
def test_every_other_setting_is_refused_by_its_name(run, override):
    key = override.partition("=")[0]
    found = refused(lambda: resume(run, "train.steps=6", override))
    assert found.splitlines()[1].startswith(f"  {key}: ")
    assert len(found.splitlines()) == 2


def test_the_paths_of_the_data_may_change(tmp_path):
    def reading(file: str) -> Experiment:
        table = component("dataset", "csv", file=file, categorical=["mood"])
        return Experiment(
            tasks={"mood": mtlcore.Classification()},
            data={"people": table},
            input=Input(size=16),
            train=Train(steps=1),
        )

    moved = with_resumable(reading("old/a.csv"), reading("new/a.csv"))
    assert moved == reading("new/a.csv")
    assert differences(reading("old/a.csv"), reading("new/a.csv")) == []


def test_an_annotation_named_like_a_path_keeps_its_column():
    def reading(file: str, column: str) -> Experiment:
        table = component("dataset", "csv", file=file, columns={"root": column})
        task = component("task", "regression", reads="root")
        return Experiment(tasks={"height": task}, data={"a.b": table})

    found = differences(reading("new/a.csv", "tall"), reading("old/a.csv", "wide"))
    assert found == ["data.\"a.b\".columns.root: 'wide' in the run, 'tall' here"]


# ------------------------------------------------------------------------------ one process


HOLDER = """
import json, os, pathlib, sys, time
from filelock import FileLock

run = pathlib.Path(sys.argv[1])
with FileLock(run / ".lock"):
    (run / ".lock.json").write_text(json.dumps({"pid": os.getpid(), "host": "ants"}))
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_run_that_another_process_trains_is_refused_until_that_process_is_dead(run):
    """A real process, and SIGKILL."""
    words = [sys.executable, "-c", HOLDER, str(run)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        found = refused(lambda: resume(run, "train.steps=5"))
        assert found.startswith(f"can't train {run}: process {holder.pid} on ants trains it")
        assert evaluate(run).metrics  # reading needs no lock
        holder.kill()
    resume(run, "train.steps=5")
    assert RunFolder(run).require().step == 5
    assert not (run / ".lock.json").exists()


def test_a_run_is_locked_from_its_folder_to_its_end(trained, tmp_path):
    config = load(trained / "dots.toml")
    trainer = Trainer(config, tmp_path / "new", progress=False)
    assert "already holds a run" in refused(lambda: Trainer(config, tmp_path / "new"))
    lock = "import sys; from filelock import FileLock; FileLock(sys.argv[1], timeout=0).acquire()"
    words = [sys.executable, "-c", lock, str(tmp_path / "new" / ".lock")]
    assert "Timeout" in subprocess.run(words, capture_output=True, text=True).stderr
    trainer.run()
    assert subprocess.run(words, check=False).returncode == 0


# ------------------------------------------------------------------------------ nothing is lost


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_log_and_counters_survive_stops_at_random_steps(trained, tmp_path, seed):
    """Random periods; the run stops between two rows of the log, and between two checkpoints."""
    rng = random.Random(seed)
    log, save = rng.randint(2, 7), rng.randint(2, 7)
    settings = ["train.steps=14", f"train.log_every={log}", f"train.save_every={save}"]
    experiment = load(trained / "dots.toml", settings)
    train(experiment, tmp_path / "whole")

    stops = set(rng.sample(range(1, 14), 3))
    run = tmp_path / "run"
    for number, stop in enumerate(sorted(stops)):
        trainer = Trainer(experiment, run, resume=number > 0, progress=False)
        while trainer.step_number < stop:
            trainer.step()
            if trainer.step_number % save == 0 or trainer.step_number == stop:
                trainer.save()
    train(load(run / "config.toml"), run, resume=True)

    whole, resumed = RunFolder(tmp_path / "whole"), RunFolder(run)
    for key in ("steps", "encoded", "skipped"):
        assert whole.provenance()[key] == resumed.provenance()[key]
    assert whole.provenance()["skipped"] > 0
    logs = [
        [r | {"cpu_s": 0} for r in folder.log.rows() if "lr" in r] for folder in (whole, resumed)
    ]
    assert logs[0] == logs[1]
    a, b = whole.require().weights(), resumed.require().weights()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_every_damage_to_the_files_of_a_run_is_noticed_or_harmless():
    script = Path(__file__).resolve().parents[1] / "fuzz" / "run_files.py"
    subprocess.run([sys.executable, script, "--damages", "20"], check=True)


@pytest.mark.slow
def test_a_run_that_is_killed_before_any_of_its_file_operations_resumes_to_the_same_result():
    script = Path(__file__).resolve().parents[1] / "fuzz" / "kill_points.py"
    words = ("--set-up", "ended at an epoch", "--every", "9")
    subprocess.run([sys.executable, script, *words], check=True)


def test_a_config_of_another_run_with_a_right_checksum_is_refused(run):
    text = (run / "config.toml").read_text().partition("\n")[2]
    (run / "config.toml").write_text(seal_toml(text.replace("lr = 0.001", "lr = 0.1")))
    assert "optimizer.lr: 0.001 in the checkpoint, 0.1 in" in refused(lambda: resume(run))
