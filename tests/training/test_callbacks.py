"""Callbacks in real runs: their events, metrics and stops; they change nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import dots_run
import pytest
import torch
from dots_run import DOTS, REPORTERS, TRAIN, weights
from PIL import Image

from mtlcore import MtlError
from mtlcore.callbacks import guard
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.config import dump, load
from mtlcore.config.experiment import Experiment
from mtlcore.runs import RunFolder
from mtlcore.training import loop
from mtlcore.training.trainer import train

HANG_S = 1800  # only ends a process that hangs
pytestmark = pytest.mark.timeout(2 * HANG_S)

PLUGINS = f'plugins = ["{DOTS}", "{REPORTERS}"]\n'
BODY = dots_run.BODY + TRAIN


class Noting(SilentReporter):
    """Keeps the messages of a run."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def note(self, text: str) -> None:
        self.notes.append(text)


def experiment(
    tmp_path: Path, callbacks: str = "", *overrides: str, body: str = BODY
) -> Experiment:
    file = tmp_path / "run.toml"
    file.write_text(PLUGINS + body + callbacks)
    return load(file, overrides)


def diary(run: Path, *events: str) -> list[dict]:
    """The entries of the `Diary` callback: all, or those of some events."""
    entries = [json.loads(line) for line in (run / "diary.jsonl").read_text().splitlines()]
    return [e for e in entries if not events or e["event"] in events]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def losses(run: Path) -> list[dict]:
    """The training rows of the log, without the CPU time."""
    rows = [row for row in RunFolder(run).log.rows() if "lr" in row]
    return [{k: v for k, v in row.items() if k != "cpu_s"} for row in rows]


# ---------------------------------------------------------------------------- events and metrics


def test_a_callback_gets_every_event_in_order(tmp_path):
    train(experiment(tmp_path, "[callback.diary]\n"), tmp_path / "run")
    events = diary(tmp_path / "run")
    main = diary(tmp_path / "run", "start", "epoch", "evaluation", "end")
    assert [(e["event"], e["step"]) for e in main] == [
        ("start", 0), ("epoch", 5), ("evaluation", 8), ("epoch", 10), ("epoch", 15),
        ("evaluation", 16), ("epoch", 20), ("evaluation", 24), ("end", 24),
    ]  # fmt: skip
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [1, 2, 3, 4]
    saved = [e for e in events if e["event"] == "checkpoint"]
    assert [e["name"] for e in saved if e["name"].startswith("last")] == [
        f"last-{s:08d}" for s in (8, 16, 24)
    ]
    assert all(e["there"] for e in saved)
    assert [e["row"] for e in events if e["event"] == "log"] == RunFolder(
        tmp_path / "run"
    ).log.rows()


def test_added_metrics_are_in_the_log_and_in_the_final_provenance(tmp_path):
    result = train(experiment(tmp_path, "[callback.diary]\n"), tmp_path / "run")
    rows = {r["step"]: r for r in RunFolder(tmp_path / "run").log.rows() if "lr" not in r}
    name = "validation/diary/score"
    scores = {step: row[name] for step, row in rows.items() if name in row}
    assert scores == {5: -7, 10: -2, 15: -3, 20: -8}
    seen = {step: row["validation/diary/seen"] for step, row in rows.items() if step % 8 == 0}
    assert seen == {8: 0, 16: 1, 24: 2}
    provenance = RunFolder(tmp_path / "run").provenance()
    assert provenance["validation"] == result.measured.metrics
    assert provenance["validation"]["diary/score"] == -8
    assert provenance["validation"]["diary/seen"] == 2
    evaluations = diary(tmp_path / "run", "evaluation")
    assert [e["metrics"]["diary/score"] for e in evaluations] == [-7, -3, -8]
    assert all("quarter/accuracy" in e["metrics"] for e in evaluations)


def test_a_metric_of_a_callback_can_name_the_best_checkpoint(tmp_path):
    train(experiment(tmp_path, "[callback.diary]\n", "train.best='diary/score'"), tmp_path / "run")
    best = RunFolder(tmp_path / "run").require("best")
    assert best.step == 10  # the end of the epoch nearest to step 12
    with pytest.raises(MtlError, match=r"train\.best.*'diary/score'"):
        train(
            experiment(tmp_path, "[callback.diary]\n", "train.best='diary/seen'"),
            tmp_path / "other",
        )


def test_callbacks_are_part_of_the_resolved_configuration(tmp_path):
    exp = experiment(
        tmp_path, "[callback.diary]\nstop_at = 3\n[callback.patience]\nname = 'early_stopping'\n"
    )
    assert list(exp.callbacks) == ["diary", "patience"]
    text = dump(exp)
    assert '[callback.patience]\nname = "early_stopping"\nmetric = ""\npatience = 5\n' in text
    (tmp_path / "again.toml").write_text(text)
    assert load(tmp_path / "again.toml") == exp
    for label, message in (
        ("quarter", "task.quarter has the same label"),
        ("train", "can't be a label"),
    ):
        with pytest.raises(MtlError, match=message):
            experiment(tmp_path, f"[callback.{label}]\nname = 'diary'\n")
    with pytest.raises(MtlError, match="did you mean 'probe'"):
        experiment(tmp_path, "[callback.prob]\n")


# ---------------------------------------------------------------------------- nothing else changes


@pytest.mark.parametrize(
    ("callbacks", "overrides"),
    [
        pytest.param("[callback.probe]\n", (), marks=pytest.mark.slow),
        pytest.param("[callback.probe]\n", ("train.ema=0.9",), marks=pytest.mark.slow),
        ("[callback.diary]\n[callback.vandal]\n", ()),
        pytest.param("[callback.early_stopping]\npatience = 9\n", (), marks=pytest.mark.slow),
    ],
)
def test_a_run_with_callbacks_has_the_weights_and_losses_of_one_without_bit_for_bit(
    tmp_path, callbacks, overrides
):
    train(experiment(tmp_path, "", *overrides), tmp_path / "plain")
    train(experiment(tmp_path, callbacks, *overrides), tmp_path / "watched")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "watched"))
    assert losses(tmp_path / "plain") == losses(tmp_path / "watched")
    assert "callback_failures" not in RunFolder(tmp_path / "watched").provenance()


@pytest.mark.parametrize("how", ["weights", "data", "statistics"])
def test_a_callback_that_changes_the_network_is_an_error(tmp_path, how):
    with pytest.raises(MtlError, match=r"callback\.vandal changed the network"):
        train(experiment(tmp_path, f"[callback.vandal]\nhow = '{how}'\n"), tmp_path / "run")


def test_generators_modes_and_gradients_are_restored(tmp_path, monkeypatch):
    """Checked right after the call, before the next step seeds or zeros anything."""
    seen = []

    def spied(self, event, *arguments, original=guard.Callbacks.call):
        model = self.train_state.model
        before = torch.get_rng_state()
        original(self, event, *arguments)
        if event == "on_epoch_end":
            same_generator = torch.equal(before, torch.get_rng_state())
            no_gradient = all(p.grad is None for p in model.parameters())
            in_training = all(m.training for m in model.modules())
            seen.append((same_generator, no_gradient, in_training))

    monkeypatch.setattr(guard.Callbacks, "call", spied)
    train(experiment(tmp_path, "[callback.vandal]\n", "train.steps=10"), tmp_path / "run")
    assert seen == [(True, True, True)] * 2


# ---------------------------------------------------------------------------- failures


def test_a_callback_that_raises_is_reported_and_counted_and_the_run_continues(tmp_path):
    notes: list[str] = []

    class Notes(SilentReporter):
        def note(self, text):
            notes.append(text)

    train(
        experiment(tmp_path, "[callback.vandal]\nhow = 'raise'\n"),
        tmp_path / "run",
        reporter=Notes(),
    )
    assert [n for n in notes if "vandal" in n] == [
        "callback.vandal failed in on_epoch_end; the run continues: "
        "ConnectionError: no route to host"
    ]
    provenance = RunFolder(tmp_path / "run").provenance()
    assert provenance["finished"]
    assert provenance["callback_failures"]["vandal"] == {
        "times": 4,
        "last": "on_epoch_end: ConnectionError: no route to host",
    }


def test_an_mtl_error_of_a_callback_ends_the_run(tmp_path):
    with pytest.raises(MtlError, match=r"callback\.vandal: enough of this"):
        train(experiment(tmp_path, "[callback.vandal]\nhow = 'refuse'\n"), tmp_path / "run")


def test_a_state_that_a_checkpoint_cannot_restore_is_refused(tmp_path):
    with pytest.raises(MtlError, match=r"callback\.vandal keeps state\['kept'\] of type float64"):
        train(experiment(tmp_path, "[callback.vandal]\nhow = 'state'\n"), tmp_path / "run")


@pytest.mark.parametrize(
    ("callbacks", "overrides", "message"),
    [
        ("[callback.vandal]\nhow = 'check'\n", (), r"callback\.vandal: this run is not for me"),
        (
            "[callback.early_stopping]\nmetric = 'quarter/acuracy'\n",
            (),
            "did you mean 'quarter/accuracy'",
        ),
        ("[callback.early_stopping]\n", ("input.validation=0",), r"input\.validation"),
        ("[callback.early_stopping]\n", ("train.eval_every=0",), r"train\.eval_every = 0"),
        ("[callback.probe]\nreads = ['quatrer']\n", (), r"callback\.probe.*'quarter'"),
    ],
)
def test_a_callback_that_cannot_serve_the_run_is_refused_before_anything_is_written(
    tmp_path, callbacks, overrides, message
):
    with pytest.raises(MtlError, match=message):
        train(experiment(tmp_path, callbacks, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------- stopping


def test_a_run_that_is_stopped_is_evaluated_saved_and_marked(tmp_path):
    result = train(
        experiment(tmp_path, "[callback.diary]\n[callback.quitter]\nepoch = 2\n"), tmp_path / "run"
    )
    folder = RunFolder(tmp_path / "run")
    provenance = folder.provenance()
    assert result.steps == provenance["steps"] == folder.require().step == 10
    assert provenance["finished"]
    assert provenance["stopped_early"] == {
        "by": "quitter",
        "reason": "2 epochs are enough",
        "of": 24,
    }
    assert folder.log.rows()[-1]["step"] == 10
    assert (
        provenance["validation"]["quarter/accuracy"] == result.measured.metrics["quarter/accuracy"]
    )
    assert [(e["event"], e["step"]) for e in diary(tmp_path / "run")[-1:]] == [("end", 10)]


def test_resuming_a_stopped_run_changes_nothing(tmp_path):
    exp = experiment(tmp_path, "[callback.quitter]\nepoch = 1\n")
    first = train(exp, tmp_path / "run")
    provenance = RunFolder(tmp_path / "run").provenance()
    again = train(load(tmp_path / "run" / "config.toml"), tmp_path / "run", resume=True)
    assert (again.steps, again.measured.metrics) == (first.steps, first.measured.metrics)
    assert RunFolder(tmp_path / "run").provenance() == provenance


# No accuracy ever improves by 1.0.
STALLED = "[callback.early_stopping]\npatience = 3\nmin_delta = 1.0\n"


def test_early_stopping_waits_as_long_as_its_patience(tmp_path):
    result = train(experiment(tmp_path, STALLED, "train.eval_every=4"), tmp_path / "run")
    assert (
        result.steps == 16
    )  # the first evaluation sets the best value, three more do not improve it
    early = RunFolder(tmp_path / "run").provenance()["stopped_early"]
    assert early["by"] == "early_stopping"
    assert "of step 4 in 3 evaluations" in early["reason"]
    metric = "metric = 'quarter/macro_f1'\n"
    other = experiment(tmp_path, STALLED + metric, "train.eval_every=5")
    assert train(other, tmp_path / "other").steps == 20


def test_a_run_that_ran_out_of_patience_goes_on_with_more_of_it(tmp_path):
    """More steps alone are refused, and change nothing."""
    run = tmp_path / "run"
    train(experiment(tmp_path, STALLED, "train.eval_every=3", "train.save_every=100"), run)
    folder = RunFolder(run)
    assert (folder.provenance()["steps"], folder.provenance()["skipped"]) == (12, 0)
    # The run ended between two logged steps. They are in the log, before the last evaluation's row.
    assert [row["step"] for row in losses(run)] == [4, 8, 12]

    before = (run / "config.toml").read_text(), folder.provenance()
    with pytest.raises(MtlError, match=r"early_stopping ended .* at step 12 of 24"):
        train(load(run / "config.toml", ["train.steps=40"]), run, resume=True)
    assert ((run / "config.toml").read_text(), folder.provenance()) == before

    patient = load(run / "config.toml", ["callback.early_stopping.patience=6"])
    assert train(patient, run, resume=True).steps == 21
    early = folder.provenance()["stopped_early"]
    assert "of step 3 in 6 evaluations" in early["reason"]


def test_another_metric_starts_to_wait_anew(tmp_path):
    run = tmp_path / "run"
    train(experiment(tmp_path, STALLED, "train.eval_every=3"), run)
    other = load(run / "config.toml", ["callback.early_stopping.metric='quarter/macro_f1'"])
    assert train(other, run, resume=True).steps == 24
    state = RunFolder(run).require().state()["callbacks"]["states"]["early_stopping"]
    assert (state["metric"], state["step"], state["waited"]) == ("quarter/macro_f1", 15, 3)


def test_a_metric_that_is_never_measured_is_said_and_nothing_waits_for_it(tmp_path):
    """No validation image has a label of the first task."""
    rows = ["path,first,second,part"]
    for i in range(24):
        part, first = ("train", "ab"[i % 2]) if i < 16 else ("val", "")
        Image.new("RGB", (16, 16), (10 * i, 0, 0)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{first},{'cd'[i % 2]},{part}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    body = f"""
[encoder]
width = 4
[task.first]
name = "classification"
[task.second]
name = "classification"
[data.t]
name = "csv"
file = "{tmp_path / "t.csv"}"
columns = {{ first = "first", second = "second" }}
attributes = ["part"]
split = "part"
[input]
size = 16
batch_size = 8
[train]
steps = 1
"""
    notes: list[str] = []
    noted = Noting(notes)
    train(experiment(tmp_path, body=body), tmp_path / "run", reporter=noted)
    assert any("'first/accuracy' is never measured" in note for note in notes)
    with pytest.raises(MtlError, match=r"early_stopping.*no validation image has a label of task"):
        train(experiment(tmp_path, STALLED, body=body), tmp_path / "other")
    second = STALLED + "metric = 'second/accuracy'\n"
    notes.clear()
    train(
        experiment(tmp_path, second, "train.best='second/accuracy'", body=body),
        tmp_path / "third",
        reporter=noted,
    )
    assert not [note for note in notes if "never measured" in note]


@pytest.mark.slow
def test_patience_survives_a_kill_and_a_resume(tmp_path):
    """A process is killed after its second evaluation; it stops where an undisturbed run stops."""
    overrides = ("train.steps=400", "train.eval_every=40", "train.save_every=4")
    callbacks = STALLED + "[callback.diary]\n"
    train(experiment(tmp_path, callbacks, *overrides), tmp_path / "whole")

    # It kills itself at the log row of step 100, so the last checkpoint is that of step 96.
    exp = experiment(tmp_path, callbacks + "[callback.killer]\nstep = 100\n", *overrides)
    (tmp_path / "killing.toml").write_text(dump(exp))
    code = "import sys; from mtlcore.cli import main; sys.exit(main())"
    words = ["train", str(tmp_path / "killing.toml"), "--out", str(tmp_path / "killed")]
    process = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=HANG_S
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    checkpoint = RunFolder(tmp_path / "killed").require()
    assert checkpoint.step == 96
    assert checkpoint.state()["callbacks"]["states"]["early_stopping"]["waited"] == 1

    result = train(load(tmp_path / "killed" / "config.toml"), tmp_path / "killed", resume=True)
    assert result.steps == 160
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    resumed, whole = (RunFolder(tmp_path / name) for name in ("killed", "whole"))
    assert resumed.provenance()["stopped_early"] == whole.provenance()["stopped_early"]
    for folder in (resumed, whole):
        assert folder.require().state()["callbacks"]["states"]["diary"]["epoch"] == 32
    assert losses(resumed.path) == losses(whole.path)


def test_resuming_finishes_a_run_that_was_killed_after_its_last_checkpoint(tmp_path, monkeypatch):
    exp = experiment(tmp_path, "[callback.diary]\n")
    with monkeypatch.context() as patched:
        patched.setattr(loop.RunLoop, "_finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(exp, tmp_path / "run")
    assert "finished" not in RunFolder(tmp_path / "run").provenance()
    result = train(load(tmp_path / "run" / "config.toml"), tmp_path / "run", resume=True)
    assert RunFolder(tmp_path / "run").provenance()["validation"] == result.measured.metrics
    assert "quarter/accuracy" in result.measured.metrics


@pytest.mark.slow
def test_two_ranks_stop_at_the_step_at_which_the_callback_asks(tmp_path):
    """Real processes: only one has the callback; the other neither hangs nor trains further."""
    experiment(tmp_path, "[callback.diary]\n[callback.quitter]\nepoch = 1\n")
    code = tmp_path / "mtl.py"
    code.write_text("import sys\nfrom mtlcore.cli import main\nsys.exit(main())\n")
    words = [str(code), "train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "two")]
    words += ["--set", "train.log_every=100", "--set", "train.accelerator=cpu"]
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(two, capture_output=True, text=True, timeout=HANG_S, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    provenance = RunFolder(tmp_path / "two").provenance()
    assert (provenance["world"], provenance["steps"]) == (2, 5)
    assert provenance["stopped_early"]["by"] == "quitter"
    assert [e["step"] for e in diary(tmp_path / "two", "start", "end")] == [0, 5]
