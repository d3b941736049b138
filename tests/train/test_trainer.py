"""The run, end to end on a toy source: what it leaves, stopping, going on, and what it refuses."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from attrs import evolve
from safetensors.torch import load_file

from mtlcore import MtlError
from mtlcore.config import load
from mtlcore.config.experiment import Experiment
from mtlcore.evaluation.evaluate import evaluate
from mtlcore.runs import RunFolder
from mtlcore.train.provenance import resolved
from mtlcore.train.trainer import train

DOTS = Path(__file__).resolve().parents[1] / "dots.py"
CONFIG = f"""
plugins = ["{DOTS}"]

[encoder]
width = 4

[task.quarter]
name = "classification"
dropout = 0.2

[pretext.puzzling]
grid = 2
weight = 0.3

[data.dots]

[input]
size = 16
batch_size = 16
validation = 0.2

[augment]
name = "weak"
crop = [0.9, 1.0]
turn_deg = 5.0

[augment.validation]
crop = 1.0

[optimizer]
lr = 3e-3

[schedule]
warmup = 4

[train]
steps = 24
eval_every = 8
save_every = 8
log_every = 4
tensorboard = false
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "dots.toml"
    file.write_text(CONFIG)
    return file


def experiment(config: Path, *overrides: str) -> Experiment:
    return load(config, overrides)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return RunFolder(run).require().weights()


def mtl(*words: str | Path, **kw) -> subprocess.CompletedProcess[str]:
    code = "import sys; from mtlcore.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        **kw,
    )


# ---------------------------------------------------------------------------------------------------- what it leaves


def test_a_run_learns_and_leaves_all_that_is_needed_to_repeat_it(config, tmp_path):
    result = train(experiment(config, "train.steps=60", "train.tensorboard=true"), tmp_path / "run")
    assert result.steps == 60
    assert result.measured.metrics["quarter/accuracy"] > 0.6  # chance: 0.25
    folder = RunFolder(tmp_path / "run")
    assert {p.name for p in folder.path.iterdir()} == {
        "config.toml", "run.json", "metrics.jsonl", "checkpoints", "plugins", "tensorboard",
    }  # fmt: skip
    rows = folder.rows()
    assert [r["step"] for r in rows if "lr" in r] == list(range(4, 61, 4))
    assert {"loss/quarter", "loss/puzzling", "task_weight/puzzling", "grad_norm", "cpu_s"} <= set(
        rows[0]
    )
    assert rows[-1]["validation/quarter/accuracy"] == pytest.approx(
        result.measured.metrics["quarter/accuracy"]
    )
    assert "validation/puzzling/accuracy" in rows[-1]
    provenance = folder.provenance()
    assert (
        provenance["seed"],
        provenance["steps"],
        provenance["finished"],
        provenance["skipped"],
    ) == (0, 60, True, 0)
    assert provenance["encoded"] == 60 * 16 * 2  # a clean and a puzzled view
    assert list((folder.path / "tensorboard").glob("events*"))


def test_the_resolved_configuration_reproduces_the_run_bit_for_bit(config, tmp_path):
    train(experiment(config), tmp_path / "one")
    train(load(tmp_path / "one" / "config.toml"), tmp_path / "two")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[k], two[k]) for k in one)
    text = (tmp_path / "one" / "config.toml").read_text()
    assert 'classes = [\n    "a",\n    "b",\n    "c",\n    "d",\n]' in text
    assert text == (tmp_path / "two" / "config.toml").read_text()


def test_the_test_split_is_never_read_in_training(config, tmp_path):
    """Ruin every test image: training must not notice, evaluation must."""
    broken = tmp_path / "ruined.py"
    broken.write_text(DOTS.read_text().replace("if row < self.bad:", "if row >= self.n * 4 // 5:"))
    config.write_text(CONFIG.replace(str(DOTS), str(broken)))
    train(experiment(config), tmp_path / "run")
    with pytest.raises(MtlError, match="dots"):
        evaluate(tmp_path / "run", overrides=["data.dots.max_bad=0"])


def test_pretext_weight_zero_is_as_if_the_table_were_not_there(config, tmp_path):
    train(experiment(config, "pretext.puzzling.weight=0"), tmp_path / "zero")
    config.write_text(CONFIG.replace("[pretext.puzzling]\ngrid = 2\nweight = 0.3\n", ""))
    train(experiment(config), tmp_path / "none")
    zero, none = weights(tmp_path / "zero"), weights(tmp_path / "none")
    assert zero.keys() == none.keys()
    assert all(torch.equal(zero[k], none[k]) for k in zero)
    assert (tmp_path / "zero" / "config.toml").read_text() == (
        tmp_path / "none" / "config.toml"
    ).read_text()


def test_evaluation_matches_the_last_validation_and_the_averaged_weights_are_used_when_on(
    config, tmp_path
):
    for arm, ema in (("plain", "0"), ("averaged", "0.9")):
        result = train(experiment(config, f"train.ema={ema}"), tmp_path / arm)
        found = evaluate(tmp_path / arm, split="validation")
        assert found.measured.metrics["quarter/accuracy"] == pytest.approx(
            result.measured.metrics["quarter/accuracy"]
        )
        assert sum(map(sum, found.measured.tables["quarter/confusion"])) == found.measured.n
    assert RunFolder(tmp_path / "plain").require().ema() is None
    checkpoint = RunFolder(tmp_path / "averaged").require()
    ema, own = checkpoint.ema(), checkpoint.weights()
    assert ema is not None
    assert set(ema) < set(own)
    assert any(not torch.equal(ema[k], own[k]) for k in ema)


def test_pre_training_then_fine_tuning_starts_from_the_other_runs_encoder(config, tmp_path):
    text = CONFIG.replace('[task.quarter]\nname = "classification"\ndropout = 0.2\n', "")
    config.write_text(text)
    result = train(experiment(config), tmp_path / "ssl")
    assert set(result.measured.metrics) == {"puzzling/accuracy", "puzzling/loss", "loss"}
    assert RunFolder(tmp_path / "ssl").checkpoint("best") is not None
    config.write_text(CONFIG)
    tuned = experiment(
        config,
        f"train.init_from={tmp_path / 'ssl'}",
        "pretext.puzzling.weight=0",
        "train.steps=1",
        "optimizer.lr=1e-9",
    )
    train(tuned, tmp_path / "tuned")
    before, after = weights(tmp_path / "ssl"), weights(tmp_path / "tuned")
    name = "encoder.net.stem.0.weight"
    torch.testing.assert_close(before[name], after[name], atol=1e-6, rtol=0)
    with pytest.raises(MtlError, match="another network"):
        train(
            experiment(config, f"train.init_from={tmp_path / 'ssl'}", "encoder.width=8"),
            tmp_path / "wrong",
        )


def test_unlabeled_rows_feed_the_pretext_alone(config, tmp_path):
    exp = experiment(
        config,
        "data.dots.labels=0.25",
        'data.dots.unlabeled="keep"',
        'pretext.puzzling.samples="unlabeled"',
        "input.unlabeled_batch=8",
    )
    train(exp, tmp_path / "run")
    assert RunFolder(tmp_path / "run").provenance()["encoded"] == 24 * (16 + 8)


# ---------------------------------------------------------------------------------------------------- stopping, going on


def test_a_run_killed_in_mid_epoch_goes_on_to_the_very_weights_of_an_uninterrupted_one(
    config, tmp_path
):
    """A real process, SIGKILL, --resume: bit for bit, with dropout, averaged weights, a learned weighting."""
    config.write_text(
        CONFIG.replace("[train]", '[weighting]\nname = "uncertainty"\n\n[train]\nema = 0.9')
    )
    train(experiment(config, "train.steps=200"), tmp_path / "whole")
    code = "import sys; from mtlcore.cli import main; sys.exit(main())"
    words = ["train", str(config), "--set", "train.steps=200", "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    folder, until = RunFolder(tmp_path / "killed"), time.monotonic() + 100
    while not (checkpoint := folder.checkpoint()) or checkpoint.step < 16:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.wait()
    stopped = folder.checkpoint()
    assert stopped is not None
    assert stopped.step < 200
    done = mtl("train", "--resume", tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    whole, killed = RunFolder(tmp_path / "whole").require(), folder.require()
    assert killed.step == 200
    for a, b in ((whole.weights(), killed.weights()), (whole.ema(), killed.ema())):
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(
        whole.state()["loss_weighting"]["log_var.quarter"],
        killed.state()["loss_weighting"]["log_var.quarter"],
    )
    steps = [r["step"] for r in folder.rows() if "lr" in r]
    assert steps == sorted(set(steps))
    timings = ("cpu_s",)
    mine, theirs = (
        [{k: v for k, v in r.items() if k not in timings} for r in f.rows()]
        for f in (folder, RunFolder(tmp_path / "whole"))
    )
    assert mine == theirs


def test_ctrl_c_saves_and_says_how_to_go_on(config, tmp_path):
    code = "import sys; from mtlcore.cli import main; sys.exit(main())"
    words = ["train", str(config), "--set", "train.steps=100000", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 100
    while not RunFolder(tmp_path / "run").metrics.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in out
    assert "Traceback" not in error
    checkpoint = RunFolder(tmp_path / "run").require()
    rows = RunFolder(tmp_path / "run").rows()
    assert checkpoint.step >= rows[-1]["step"]


def test_a_full_disk_is_one_message_and_the_last_good_checkpoint_stays(config, tmp_path):
    """A real child process that may write no file beyond the size of its small first checkpoints."""
    run = tmp_path / "run"
    train(experiment(config, "train.steps=16", "train.tensorboard=true"), run)
    good = RunFolder(run).require()
    largest = max(p.stat().st_size for p in good.path.iterdir())
    text = (run / "config.toml").read_text().replace("steps = 16", "steps = 24")
    (run / "config.toml").write_text(text)
    done = mtl(
        "train",
        "--resume",
        run,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2)),
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert str(good.path) in done.stderr.replace("\n", "")
    assert RunFolder(run).require().path == good.path
    assert [p for p in (run / "checkpoints").iterdir() if p.suffix == ".tmp"] == []
    load_file(good.path / "model.safetensors")


def test_resuming_a_finished_run_changes_nothing(config, tmp_path):
    first = train(experiment(config), tmp_path / "run")
    provenance = RunFolder(tmp_path / "run").provenance()
    again = train(load(tmp_path / "run" / "config.toml"), tmp_path / "run", resume=True)
    assert again.measured.metrics == first.measured.metrics
    assert RunFolder(tmp_path / "run").provenance() == provenance


def test_a_run_that_was_killed_before_its_first_note_gets_its_facts_when_it_is_resumed(
    config, tmp_path
):
    folder = RunFolder.create(tmp_path / "run", *resolved(experiment(config, "train.steps=2")))
    assert folder.provenance() == {}
    train(load(folder.config), folder.path, resume=True)
    train(experiment(config, "train.steps=2"), tmp_path / "whole")
    mine, whole = folder.provenance(), RunFolder(tmp_path / "whole").provenance()
    assert mine.keys() == whole.keys()
    assert {k: mine[k] for k in ("seed", "data_fingerprint", "rows")} == {
        k: whole[k] for k in ("seed", "data_fingerprint", "rows")
    }


def test_a_run_stands_alone_once_it_has_begun(config, tmp_path):
    """The pre-training run may go; changed data is refused."""
    text = CONFIG.replace('[task.quarter]\nname = "classification"\ndropout = 0.2\n', "")
    config.write_text(text)
    train(experiment(config), tmp_path / "ssl")
    config.write_text(CONFIG)
    train(
        experiment(config, f"train.init_from={tmp_path / 'ssl'}", "train.steps=8"), tmp_path / "run"
    )
    shutil.rmtree(tmp_path / "ssl")
    resolved = tmp_path / "run" / "config.toml"
    resolved.write_text(resolved.read_text().replace("steps = 8", "steps = 12"))
    assert train(load(resolved), tmp_path / "run", resume=True).steps == 12
    resolved.write_text(
        resolved.read_text().replace("n = 120", "n = 100").replace("steps = 12", "steps = 16")
    )
    with pytest.raises(MtlError, match="data has changed"):
        train(load(resolved), tmp_path / "run", resume=True)


def test_another_normalization_is_refused_when_fine_tuning(config, tmp_path, monkeypatch):
    from mtlcore.encoders.resnet_small import ResnetSmall

    train(experiment(config, "train.steps=2"), tmp_path / "one")
    tuned = experiment(config, f"train.init_from={tmp_path / 'one'}")
    shifted = type("Shifted", (ResnetSmall,), {"mean": (0.1, 0.1, 0.1)})()
    with pytest.raises(MtlError, match="mean"):
        train(evolve(tuned, encoder=evolve(shifted, width=4)), tmp_path / "two")


def test_resume_goes_on_only_where_a_run_lies(tmp_path):
    done = mtl("train", "--resume", tmp_path)
    assert done.returncode == 2
    assert "config.toml" in done.stderr


# ---------------------------------------------------------------------------------------------------- what it refuses


def test_an_existing_run_is_not_overwritten(config, tmp_path):
    train(experiment(config, "train.steps=4"), tmp_path / "run")
    with pytest.raises(MtlError, match="--resume"):
        train(experiment(config), tmp_path / "run")


def test_a_checkpoint_of_another_configuration_is_told_with_the_names_that_differ(config, tmp_path):
    run = tmp_path / "run"
    train(experiment(config, "train.steps=4"), run)
    (run / "config.toml").write_text(
        (run / "config.toml")
        .read_text()
        .replace("grid = 2", "grid = 3")
        .replace("width = 4", "width = 8")
    )
    for act in (lambda: train(load(run / "config.toml"), run, resume=True), lambda: evaluate(run)):
        with pytest.raises(MtlError, match=r"encoder\.net"):
            act()
    assert RunFolder(run).require().step == 4


def test_a_truncated_checkpoint_is_told_by_name(config, tmp_path):
    train(experiment(config, "train.steps=4"), tmp_path / "run")
    file = RunFolder(tmp_path / "run").require().path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(MtlError, match=r"model\.safetensors"):
        evaluate(tmp_path / "run")


def test_steps_that_are_not_finite_are_skipped_counted_and_after_some_the_alarm_is_raised(
    config, tmp_path
):
    """A plugin whose loss is NaN now and then, and one whose loss is always NaN."""
    plugin = tmp_path / "nan.py"
    plugin.write_text(
        "from attrs import frozen\nfrom mtlcore import hookimpl, PretextTask, Head\nimport torch\nfrom torch import nn\n"
        "@frozen\nclass Nan(PretextTask):\n    every: int = 1\n"
        "    def views(self, batch, rng):\n        bad = round(batch.progress * 24) % self.every == 0\n"
        "        return [batch.clean], torch.full((len(batch.clean.images),), float('nan') if bad else 1.0)\n"
        "    def build(self, context):\n        return NanHead(context.info.dim)\n"
        "class NanHead(Head):\n    def __init__(self, dim):\n        super().__init__()\n        self.answer = nn.Linear(dim, 1)\n"
        "    def forward(self, features):\n        return self.answer(features.pooled)[:, 0]\n"
        "    def loss(self, output, target):\n        return (output - target) ** 2\n"
        "@hookimpl\ndef mtl_components():\n    return [Nan]\n"
    )
    config.write_text(
        CONFIG.replace("[data.dots]", "[pretext.nan]\nevery = 5\n\n[data.dots]").replace(
            f'["{DOTS}"]', f'["{DOTS}", "{plugin}"]'
        )
    )
    result = train(experiment(config), tmp_path / "some")
    assert result.skipped == 5
    assert all(bool(torch.isfinite(w).all()) for w in weights(tmp_path / "some").values())
    with pytest.raises(MtlError, match="6 steps in a row"):
        train(experiment(config, "pretext.nan.every=1", "train.max_skipped=6"), tmp_path / "always")


def test_unreadable_images_are_counted_reported_and_stop_the_run_beyond_max_bad(config, tmp_path):
    notes: list[str] = []

    class Noting:
        def progress(self, what, done, total): ...
        def note(self, text):
            notes.append(text)

        def step(self, progress): ...
        def evaluated(self, step, measured): ...

    train(experiment(config, "data.dots.bad=3"), tmp_path / "run", reporter=Noting())
    assert any("3" in n and "dot0" in n for n in notes)
    with pytest.raises(MtlError, match="max_bad"):
        train(experiment(config, "data.dots.bad=3", "data.dots.max_bad=2"), tmp_path / "no")


def test_eval_prints_the_json_that_is_promised(config, tmp_path):
    train(experiment(config), tmp_path / "run")
    done = mtl("eval", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {"run", "data", "split", "n", "metrics"} <= set(said)
    assert (said["data"], said["split"], said["n"]) == ("dots", "test", 24)
    assert set(said["metrics"]) == {
        "quarter/accuracy",
        "quarter/macro_f1",
        "quarter/mean_class_accuracy",
    }
    wrong = mtl("eval", tmp_path / "run", "--split", "tset")
    assert wrong.returncode == 2
    assert "test" in wrong.stderr


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.precision='16-mixed'", "bf16-mixed"),
        ("input.batch_size=15", "accumulate"),
        ("task.quarter.reads='quater'", "quarter"),
        ("train.best='quarter/acuracy'", "quarter/accuracy"),
        ("train.best='quarter/confusion'", "no such metric"),
        ("task.quarter.class_weights=[1.0, 2.0]", r"task\.quarter"),
        ("pretext.puzzling.samples='unlabeled'", "keep"),
        ("input.unlabeled_batch=8", "keep"),
        ("train.ema=1.0", r"train\.ema"),
        ("schedule.milestones=[0.5, 1.5]", r"train\.milestones"),
        ("views.supervised='pretext'", ""),
    ],
)
def test_settings_that_cannot_work_are_told_before_training(config, tmp_path, override, told):
    extra = ("train.accumulate=2",) if "batch_size" in override else ()
    if not told:
        train(experiment(config, override, "train.steps=2"), tmp_path / "fine")
        return
    with pytest.raises(MtlError, match=told):
        train(experiment(config, override, *extra), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_view_that_the_encoder_cannot_read_is_told_by_the_dry_run(config, tmp_path):
    config.write_text(
        CONFIG.replace("width = 4", 'name = "vit_b_16"').replace(
            "grid = 2", "grid = 2\nscales = [[0.5, 0.5]]"
        )
    )
    with pytest.raises(MtlError, match="dry run"):
        train(experiment(config), tmp_path / "run")


def test_bf16_and_accumulation_train_through_the_loop(config, tmp_path):
    result = train(
        experiment(config, "train.precision='bf16-mixed'", "train.accumulate=2", "train.steps=8"),
        tmp_path / "run",
    )
    assert result.skipped == 0
    assert os.path.exists(tmp_path / "run" / "run.json")
