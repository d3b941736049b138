"""How a run begins and ends: trials before the images are read, failures that lose no step."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from dots_run import BODY, DOTS, REPORTERS, TRAIN, weights

from mtlcore import Diverged, MtlError, Trainer, load_run
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.checkpoints import FORMAT
from mtlcore.config import load
from mtlcore.config.experiment import Experiment
from mtlcore.evaluation.evaluate import evaluate
from mtlcore.runs import RunFolder
from mtlcore.training.setup import set_up
from mtlcore.training.stop import STOP_SIGNALS, stop_request
from mtlcore.training.trainer import train

HERE = Path(__file__).parent
CONFIG = f'plugins = ["{DOTS}", "{HERE / "troubles.py"}", "{HERE / "failing.py"}"]\n{BODY}{TRAIN}'


def experiment(folder: Path, tables: str = "", *overrides: str, body: str = CONFIG) -> Experiment:
    file = folder / "dots.toml"
    file.write_text(body + tables)
    return load(file, overrides)


FRAGILE = CONFIG.replace('name = "classification"', 'name = "fragiles"')


class Breaks(SilentReporter):
    """Sets a variable when training starts, after the trial of the run."""

    def __init__(self, patch: pytest.MonkeyPatch, variable: str) -> None:
        self.patch, self.variable = patch, variable

    def on_train_start(self, run) -> None:
        self.patch.setenv(self.variable, "1")


# ---------------------------------------------------------------------------- evaluation fails


@pytest.mark.parametrize("save_every", [100, pytest.param(8, marks=pytest.mark.slow), 5])
def test_a_metric_that_raises_in_an_evaluation_loses_no_saved_step_and_is_named(
    tmp_path, monkeypatch, save_every
):
    """The run resumes with that evaluation. It then equals a run in which nothing failed."""
    overrides = ("train.steps=10", "train.eval_every=10", f"train.save_every={save_every}")
    exp = experiment(tmp_path, "", *overrides, body=FRAGILE)
    train(exp, tmp_path / "whole")
    with pytest.raises(MtlError) as error:
        train(exp, tmp_path / "run", reporter=Breaks(monkeypatch, "BROKEN_METRIC"))
    monkeypatch.delenv("BROKEN_METRIC")
    message = str(error.value)
    assert "the metric quarter/luck failed" in message
    assert "ZeroDivisionError: no luck today" in message
    assert (
        f"step 10 is saved: when this works, resume with: mtl train --resume {tmp_path}" in message
    )

    folder = RunFolder(tmp_path / "run")
    assert folder.require().step == 10
    assert "finished" not in folder.provenance()
    result = train(load(folder.config), folder.path, resume=True)
    assert result.steps == 10
    whole = RunFolder(tmp_path / "whole")
    assert without_timings(folder) == without_timings(whole)
    assert {p.name for p in (folder.path / "checkpoints").iterdir()} == {
        p.name for p in (whole.path / "checkpoints").iterdir()
    }


def without_timings(folder: RunFolder) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "cpu_s"} for row in folder.log.rows()]


def test_a_run_that_ends_in_an_evaluation_between_its_steps_repeats_it(tmp_path, monkeypatch):
    """The rows of that evaluation are written once, and the epoch's callbacks run again."""
    periods = [f"train.{name}_every=5" for name in ("eval", "save", "log")]
    exp = experiment(tmp_path, "", "train.steps=12", "train.ema=0.5", *periods, body=FRAGILE)
    train(exp, tmp_path / "whole")
    with pytest.raises(MtlError, match="step 5 is saved"):
        train(exp, tmp_path / "run", reporter=Breaks(monkeypatch, "BROKEN_METRIC"))
    monkeypatch.delenv("BROKEN_METRIC")
    train(load(tmp_path / "run" / "config.toml"), tmp_path / "run", resume=True)
    one, two = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    assert without_timings(one) == without_timings(two)
    assert one.require("best").step == two.require("best").step
    a, b = weights(one.path), weights(two.path)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_that_a_callback_ended_at_an_epoch_calls_it_once(tmp_path, monkeypatch):
    """Also if the evaluation afterwards fails, and the resumed run repeats it."""
    exp = experiment(tmp_path, "[callback.epochs]\n", "train.eval_every=0", body=FRAGILE)
    with pytest.raises(MtlError, match="step 5 is saved"):
        train(exp, tmp_path / "run", reporter=Breaks(monkeypatch, "BROKEN_METRIC"))
    monkeypatch.delenv("BROKEN_METRIC")
    train(load(tmp_path / "run" / "config.toml"), tmp_path / "run", resume=True)
    assert RunFolder(tmp_path / "run").provenance()["validation"]["epochs/ended"] == 1


def test_a_metric_that_always_raises_is_named_before_any_folder_exists(tmp_path, monkeypatch):
    monkeypatch.setenv("BROKEN_METRIC", "1")
    with pytest.raises(MtlError, match=r"the metric quarter/luck failed .*no luck today"):
        train(experiment(tmp_path, body=FRAGILE), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------- training fails


@pytest.mark.parametrize(
    ("how", "reason"),
    [("norm", "Expected more than 1 value per channel"), ("pairs", "needs two samples")],
)
def test_what_fails_in_train_mode_alone_fails_before_any_folder_exists(tmp_path, how, reason):
    table = f'\n[pretext.trains]\nhow = "{how}"\n'
    exp = experiment(tmp_path, table, "input.batch_size=1")
    with pytest.raises(MtlError) as error:
        train(exp, tmp_path / "run")
    message = str(error.value)
    assert "a trial of the first training step failed (quarter, trains" in message
    assert reason in message
    assert "set input.batch_size to at least 2" in message
    # The corrected command.
    assert not (tmp_path / "run").exists()
    exp = experiment(tmp_path, table, "input.batch_size=2", "train.steps=2")
    assert train(exp, tmp_path / "run").steps == 2


@pytest.mark.parametrize(
    "tables",
    [
        "",
        "[pretext.trains]\n[pretext.byol]\n",
        '[pretext.trains]\n[weighting]\nname = "primary_projection"\n',
        '[pretext.trains]\n[weighting]\nname = "uncertainty"\n',
    ],
)
def test_a_trial_changes_no_weight_no_buffer_no_gradient_and_no_generator(tmp_path, tables):
    exp = experiment(tmp_path, tables, "train.ema=0.5", "train.accelerator='cpu'")
    exp = evolve(exp, train=evolve(exp.train, micro_batches=2))
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    state = set_up(exp, None).train_state
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]

    from mtlcore.training.build import build_train_state

    fresh = build_train_state(state.experiment, state.fabric, state.steps, state.steps_per_epoch)
    for mine, new in (
        (state.model, fresh.model),
        (state.ema, fresh.ema),
        (state.loss_weighting, fresh.loss_weighting),
    ):
        tried, expected = [*mine.parameters(), *mine.buffers()], [*new.parameters(), *new.buffers()]
        assert all(torch.equal(a, b) for a, b in zip(tried, expected, strict=True))
        assert all(p.grad is None for p in mine.parameters())
    assert state.optimizer.optimizer.state_dict()["state"] == {}
    assert state.cached_task_weights == {}
    assert state.model.training
    assert state.model.measuring == fresh.model.measuring


def test_a_run_whose_every_step_was_skipped_says_that_nothing_was_learned(tmp_path):
    """Fewer steps than `max_skipped`."""
    exp = experiment(tmp_path, "\n[pretext.nan]\nevery = 1\n", "train.steps=3")
    with pytest.raises(Diverged, match=r"all 3 steps .* skipped.* nothing was learned"):
        train(exp, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert "finished" not in folder.provenance()
    with pytest.raises(Diverged, match="nothing was learned"):
        train(load(folder.config), folder.path, resume=True)


def test_only_a_second_ctrl_c_stops_at_once():
    """A session that ends sends SIGTERM and SIGHUP: two signals, and one stop."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with stop_request() as stop:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.signal == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


# ---------------------------------------------------------------------------- before the images


def decoded(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def counted(
    folder: Path, log: Path, *overrides: str, tables: str = "", encoder: str = "width = 4"
) -> Experiment:
    body = CONFIG.replace("[data.dots]", f'[data.dots]\nname = "counted"\nlog = "{log}"\nn = 2000')
    body = body.replace("width = 4", encoder)
    return experiment(folder, tables, *overrides, body=body)


def missing_weights(folder: Path) -> str:
    return f'name = "resnet18"\nweights = "{folder / "no.pth"}"'


FEW = 400  # images: to find their size, for two batches, and for one evaluation


def test_what_cannot_work_is_refused_before_the_images_are_read(tmp_path):
    """A network, a run to start from, a metric, a batch size, a callback; there are 2000 images."""
    log = tmp_path / "log"
    attempts = {
        r"no\.pth": counted(tmp_path, log, encoder=missing_weights(tmp_path)),
        "nowhere": counted(tmp_path, log, f"train.init_from={tmp_path / 'nowhere'}"),
        "quarter/luck": counted(tmp_path, log, "train.best='quarter/luck'"),
        "batch_size": counted(tmp_path, log, "input.batch_size=15", "train.micro_batches=2"),
        "sex": counted(tmp_path, log, tables='\n[callback.probe]\nreads = ["sex"]\n'),
    }
    for message, exp in attempts.items():
        log.unlink(missing_ok=True)
        with pytest.raises(MtlError, match=message):
            train(exp, tmp_path / "run")
        assert decoded(log) < FEW, message
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_killed_before_its_config_toml_starts_again_and_replaces_nothing(tmp_path):
    exp, run = experiment(tmp_path, "", "train.steps=1"), tmp_path / "run"
    copy = run / "plugins" / "troubles.py"
    copy.parent.mkdir(parents=True)
    RunFolder(run).update_provenance({"format": FORMAT, "run": "0"})
    copy.write_text("# of something else")
    with pytest.raises(MtlError, match=r"troubles.py is another file than the plugin"):
        train(exp, run)
    assert copy.read_text() == "# of something else"
    copy.write_bytes((HERE / "troubles.py").read_bytes())
    train(exp, run)
    assert RunFolder(run).provenance()["finished"]


class Killed(BaseException):
    pass


def killed_at(last: int, exp: Experiment, run: Path) -> None:
    """Train into `run` until a step is done; then it ends as by SIGKILL, without a last word."""
    trainer = Trainer(exp, run, progress=False)
    take = trainer.step

    def step() -> object:
        if trainer.step_number == last:
            raise Killed
        return take()

    trainer.step = step
    with pytest.raises(Killed):
        trainer.run()


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_weights_it_began_with(tmp_path):
    train(experiment(tmp_path, "", "train.steps=2", "seed=1"), tmp_path / "first")
    origin = f"train.init_from={tmp_path / 'first'}"
    tuned = experiment(tmp_path, "", "train.steps=4", origin, "encoder.freeze='all'")
    train(tuned, tmp_path / "whole")
    killed_at(2, tuned, tmp_path / "killed")
    train(load(tmp_path / "killed" / "config.toml"), tmp_path / "killed", resume=True)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_the_best_checkpoint_is_none_of_a_step_that_a_resumed_run_took_again(tmp_path):
    """The run resumes with more steps, so it does not repeat them exactly."""
    overrides = ("train.eval_every=2", "train.save_every=3", "train.best='planned/score'")
    planned = f'plugins = ["{DOTS}", "{REPORTERS}"]\n{BODY}{TRAIN}[callback.planned]\n'
    run = tmp_path / "run"
    killed_at(5, experiment(tmp_path, "", "train.steps=10", *overrides, body=planned), run)
    folder = RunFolder(run)
    assert [folder.checkpoint(which).step for which in ("best", "last")] == [4, 3]

    train(load(run / "config.toml", ["train.steps=14"]), run, resume=True)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best-00000002", "last-00000014"]


def test_missing_weights_are_refused_before_copies_are_searched(tmp_path):
    log = tmp_path / "log"
    encoder = missing_weights(tmp_path)
    exp = counted(tmp_path, log, "data.dots.exclude_duplicates='train'", encoder=encoder)
    with pytest.raises(MtlError, match=r"no\.pth"):
        train(exp, tmp_path / "run")
    assert decoded(log) == 0


def test_weights_that_do_not_fit_are_refused_before_the_images_are_read(tmp_path):
    """By resuming, and by `mtl eval`."""
    log = tmp_path / "log"
    run = tmp_path / "run"
    train(counted(tmp_path, log, "train.steps=2"), run)
    file = RunFolder(run).require().path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    for attempt in (
        lambda: train(load(run / "config.toml"), run, resume=True),
        lambda: evaluate(run, split="train"),
    ):
        log.unlink()
        with pytest.raises(MtlError, match="safetensors"):
            attempt()
        assert decoded(log) < FEW


def test_unreadable_images_in_the_trial_do_not_end_it(tmp_path):
    exp = experiment(tmp_path, "", "data.dots.bad=30", "data.dots.max_bad=100", "train.steps=2")
    assert train(exp, tmp_path / "run").steps == 2


# ---------------------------------------------------------------------------- valid JSON


def test_a_metric_that_is_not_finite_is_null_in_json_and_nan_in_python(tmp_path, monkeypatch):
    exp = experiment(tmp_path, "", "train.steps=4", body=FRAGILE)
    run = tmp_path / "run"
    train(exp, run, reporter=Breaks(monkeypatch, "NAN_METRIC"))

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=no_constant) for line in lines]
    summary = json.loads((run / "run.json").read_text(), parse_constant=no_constant)
    assert rows[-1]["validation/quarter/luck"] is None
    assert summary["validation"]["quarter/luck"] is None
    assert math.isnan(load_run(run).metrics()[-1]["validation/quarter/luck"])
    assert math.isnan(load_run(run).summary["validation"]["quarter/luck"])
