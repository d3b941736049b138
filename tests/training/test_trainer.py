"""The run, end to end on a toy dataset: its files, stopping, resuming, and what it refuses."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attrs import evolve
from dots_run import BODY, DOTS, PUZZLING, REPORTERS, TRAIN, weights
from safetensors.torch import load_file

from mtlcore import MtlError, Trainer
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.checkpoints import FORMAT
from mtlcore.cli import main
from mtlcore.cli.train import train as train_command
from mtlcore.config import load
from mtlcore.config.experiment import Experiment
from mtlcore.evaluation.evaluate import evaluate
from mtlcore.runs import RunFolder
from mtlcore.training.devices import with_micro_batches
from mtlcore.training.hints import frozen_at_random
from mtlcore.training.provenance import resolved
from mtlcore.training.resume import record_changes
from mtlcore.training.trainer import train

# These tests start real training processes. The limits only end a process that hangs, so they
# leave a slow and busy machine plenty of time.
HANG_S = 1800
pytestmark = pytest.mark.timeout(2 * HANG_S)

FAILING = Path(__file__).with_name("failing.py")
MAIN = "import sys; from mtlcore.cli import main; sys.exit(main())"
AUGMENT = """
[augment]
name = "weak"
crop = [0.9, 1.0]
turn_deg = 5.0

[augment.validation]
crop = 1.0
"""
CONFIG = f'plugins = ["{DOTS}"]\n{BODY}{PUZZLING}{TRAIN}'
CONFIG = CONFIG.replace('\n[augment]\nname = "weak"\n', AUGMENT)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "dots.toml"
    file.write_text(CONFIG)
    return file


def experiment(config: Path, *overrides: str) -> Experiment:
    return load(config, overrides)


class Said(SilentReporter):
    """Keeps all messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def mtl(*words: str | Path, **options) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        **options,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for a condition that the process brings about."""
    until = time.monotonic() + HANG_S
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < until, "the process hangs"
        time.sleep(0.01)


# ---------------------------------------------------------------------------- the files of a run


def test_a_run_learns_and_writes_everything_that_repeating_it_needs(config, tmp_path):
    result = train(experiment(config, "train.steps=60"), tmp_path / "run")
    assert result.steps == 60
    assert result.measured.metrics["quarter/accuracy"] > 0.6  # chance: 0.25
    folder = RunFolder(tmp_path / "run")
    assert {p.name for p in folder.path.iterdir()} == {
        "config.toml", "run.json", "metrics.jsonl", "checkpoints", "plugins", ".lock",
    }  # fmt: skip
    rows = folder.log.rows()
    assert [r["step"] for r in rows if "lr" in r] == list(range(4, 61, 4))
    assert {"loss/quarter", "loss/puzzling", "task_weight/puzzling", "grad_norm", "cpu_s"} <= set(
        rows[0]
    )
    assert rows[-1]["validation/quarter/accuracy"] == pytest.approx(
        result.measured.metrics["quarter/accuracy"]
    )
    assert "validation/puzzling/accuracy" in rows[-1]
    provenance = folder.provenance()
    expected = {"seed": 0, "steps": 60, "finished": True, "skipped": 0}
    assert {key: provenance[key] for key in expected} == expected
    assert provenance["encoded"] == 60 * 16 * 2  # a clean and a puzzled view


def test_the_resolved_configuration_reproduces_the_run_bit_for_bit(config, tmp_path):
    train(experiment(config), tmp_path / "one")
    train(load(tmp_path / "one" / "config.toml"), tmp_path / "two")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[k], two[k]) for k in one)
    text = (tmp_path / "one" / "config.toml").read_text()
    assert 'classes = [\n    "a",\n    "b",\n    "c",\n    "d",\n]' in text
    assert text == (tmp_path / "two" / "config.toml").read_text()


def test_the_test_split_is_never_read_in_training(config, tmp_path):
    """Every test image is unreadable: training does not notice, evaluation does."""
    text = DOTS.read_text()
    unreadable = text.replace("if sample < self.bad:", "if sample >= self.n * 4 // 5:")
    assert unreadable != text
    plugin = tmp_path / "unreadable.py"
    plugin.write_text(unreadable)
    config.write_text(CONFIG.replace(str(DOTS), str(plugin)))
    train(experiment(config), tmp_path / "run")
    with pytest.raises(MtlError, match="dots"):
        evaluate(tmp_path / "run", overrides=["data.dots.max_bad=0"])


def test_a_pretext_of_weight_zero_equals_a_run_without_its_table(config, tmp_path):
    train(experiment(config, "pretext.puzzling.weight=0"), tmp_path / "zero")
    config.write_text(CONFIG.replace("[pretext.puzzling]\ngrid = 2\nweight = 0.3\n", ""))
    train(experiment(config), tmp_path / "none")
    zero, none = weights(tmp_path / "zero"), weights(tmp_path / "none")
    assert zero.keys() == none.keys()
    assert all(torch.equal(zero[k], none[k]) for k in zero)
    configs = [(tmp_path / name / "config.toml").read_text() for name in ("zero", "none")]
    assert configs[0] == configs[1]


def test_evaluation_repeats_the_last_validation_with_and_without_ema(config, tmp_path):
    for name, ema in (("plain", "0"), ("averaged", "0.9")):
        result = train(experiment(config, f"train.ema={ema}"), tmp_path / name)
        found = evaluate(tmp_path / name, split="validation")
        assert found.metrics["quarter/accuracy"] == pytest.approx(
            result.measured.metrics["quarter/accuracy"]
        )
        assert sum(map(sum, found.matrices["quarter/confusion"])) == found.n["quarter"]
    assert RunFolder(tmp_path / "plain").require().ema() is None
    checkpoint = RunFolder(tmp_path / "averaged").require()
    ema, own = checkpoint.ema(), checkpoint.weights()
    assert ema is not None
    assert set(ema) < set(own)
    assert any(not torch.equal(ema[k], own[k]) for k in ema)


def test_eval_uses_the_precision_of_the_run_or_says_that_the_device_lacks_it(config, tmp_path):
    settings = ("train.precision='bf16-mixed'", "train.accelerator='cpu'", "train.steps=8")
    result = train(experiment(config, *settings), tmp_path / "run")
    found = evaluate(tmp_path / "run", split="validation", device="cpu")
    assert (found.precision, found.report) == ("bf16-mixed", ())
    for name, value in found.metrics.items():
        assert result.measured.metrics[name] == value

    fp16, fp32 = (
        evaluate(
            tmp_path / "run",
            overrides=(f"train.precision='{precision}'",),
            split="validation",
            device="cpu",
        )
        for precision in ("16-mixed", "32")
    )
    assert (fp16.metrics, fp16.tables) == (fp32.metrics, fp32.tables)
    assert fp16.precision == fp32.precision == "32"
    (line,) = fp16.report
    assert line == (
        'train.precision = "16-mixed": evaluated in fp32, since it needs a CUDA device, got "cpu"'
    )


def test_a_checkpoint_without_its_ema_weights_is_refused(config, tmp_path):
    """By resuming, evaluation and fine-tuning: none of them uses other weights in silence."""
    run = tmp_path / "run"
    train(experiment(config, "train.ema=0.9", "train.steps=8"), run)
    missing = RunFolder(run).require().path / "ema.safetensors"
    missing.unlink()
    message = r"last-00000008 has no ema\.safetensors, but .*config\.toml has train\.ema > 0"
    with pytest.raises(MtlError, match=message):
        train(experiment(run / "config.toml"), run, resume=True)
    with pytest.raises(MtlError, match=message):
        evaluate(run, split="validation")
    with pytest.raises(MtlError, match=message):
        train(experiment(config, f"train.init_from={run}"), tmp_path / "tuned")

    # What the message offers.
    with pytest.raises(MtlError, match=r"mtl eval .*run --set train\.ema=0"):
        evaluate(run, split="validation")
    assert evaluate(run, overrides=("train.ema=0",), split="validation").n["quarter"] > 0


def test_fine_tuning_starts_from_the_encoder_of_the_pre_training_run(config, tmp_path):
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
    with pytest.raises(
        MtlError,
        match=r"train\.init_from.*the weights do not fit this network\. .* of another shape",
    ):
        train(
            experiment(config, f"train.init_from={tmp_path / 'ssl'}", "encoder.width=8"),
            tmp_path / "wrong",
        )


def test_a_run_as_weights_of_the_encoder_gives_its_ema_weights_bit_for_bit(config, tmp_path):
    run, frozen = tmp_path / "run", tmp_path / "frozen"
    train(experiment(config, "train.steps=2", "train.ema=0.5"), run)
    overrides = (f"encoder.weights={run}", "encoder.freeze=all", "train.steps=2")
    tuned = experiment(config, *overrides)
    assert frozen_at_random(tuned) == []
    train(tuned, frozen)
    assert load(frozen / "config.toml").train.init_from == run

    expected, got = load_file(RunFolder(run).require().path / "ema.safetensors"), weights(frozen)
    encoder = [key for key in expected if key.startswith("encoder.")]
    assert len(encoder) > 50
    assert [key for key in encoder if not torch.equal(got[key], expected[key])] == []


def test_only_the_pretext_encodes_unlabeled_samples(config, tmp_path):
    exp = experiment(
        config,
        "data.dots.labels=0.25",
        'data.dots.unlabeled="keep"',
        'pretext.puzzling.samples="unlabeled"',
        "input.unlabeled_batch=8",
    )
    train(exp, tmp_path / "run")
    assert RunFolder(tmp_path / "run").provenance()["encoded"] == 24 * (16 + 8)


# ---------------------------------------------------------------------------- stopping, resuming


def test_a_killed_run_resumes_to_the_very_weights_of_an_uninterrupted_one(config, tmp_path):
    """A real process, SIGKILL, resumed: bit for bit, with dropout, EMA and a learned weighting."""
    weighting = '[weighting]\nname = "uncertainty"\n\n[train]\nema = 0.9'
    text = CONFIG.replace("[train]", weighting)
    config.write_text(text)
    train(experiment(config), tmp_path / "whole")

    # The process kills itself at step 12, after a checkpoint at step 8 and two more rows of the
    # log. So the test does not depend on the speed of the machine.
    killing = text.replace(f'["{DOTS}"]', f'["{DOTS}", "{REPORTERS}"]')
    config.write_text(f"{killing}\n[callback.killer]\nstep = 12\n")
    folder = RunFolder(tmp_path / "killed")
    killed = mtl("train", config, "--out", folder.path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert folder.require().step == 8
    assert folder.log.rows()[-1]["step"] == 12
    assert main(["train", "--resume", str(folder.path)]) == 0

    whole, resumed = RunFolder(tmp_path / "whole").require(), folder.require()
    assert resumed.step == 24
    for a, b in ((whole.weights(), resumed.weights()), (whole.ema(), resumed.ema())):
        assert all(torch.equal(a[k], b[k]) for k in a)
    learned = [c.state()["loss_weighting"]["log_var.quarter"] for c in (whole, resumed)]
    assert torch.equal(*learned)
    assert without_timings(folder) == without_timings(RunFolder(tmp_path / "whole"))


def without_timings(folder: RunFolder) -> list[dict]:
    """The rows of the log, without values that differ between two equal runs."""
    return [{k: v for k, v in row.items() if k != "cpu_s"} for row in folder.log.rows()]


@pytest.mark.slow
def test_ctrl_c_saves_the_run_and_prints_how_to_resume_it(config, tmp_path):
    words = ["train", str(config), "--set", "train.steps=100000", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = RunFolder(tmp_path / "run")
    wait_until(folder.metrics.exists, process)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert "--resume" in out
    assert "Traceback" not in error
    assert folder.require().step >= folder.log.rows()[-1]["step"]


@pytest.mark.slow
def test_a_full_disk_ends_in_one_message_and_leaves_the_last_checkpoint(config, tmp_path):
    """A child process whose file size limit is below the size of a checkpoint."""
    run = tmp_path / "run"
    config.write_text(f"{CONFIG}\n[callback.tensorboard]\n")
    train(experiment(config, "train.steps=16"), run)
    good = RunFolder(run).require()
    largest = max(p.stat().st_size for p in good.path.iterdir())

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))

    done = mtl("train", "--resume", run, "--set", "train.steps=24", preexec_fn=limit_files)
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


def test_resuming_records_the_provenance_that_a_killed_run_could_not_write(config, tmp_path):
    train(experiment(config, "train.steps=2"), tmp_path / "whole")
    complete = load(tmp_path / "whole" / "config.toml")
    folder = RunFolder.create(tmp_path / "run", *resolved(complete))
    assert folder.provenance() == {"format": FORMAT, "run": folder.provenance()["run"]}
    train(load(folder.config), folder.path, resume=True)
    mine, whole = folder.provenance(), RunFolder(tmp_path / "whole").provenance()
    assert mine.keys() == whole.keys()
    for key in ("seed", "data_fingerprint", "samples"):
        assert mine[key] == whole[key]


def test_a_run_needs_its_pre_training_run_no_longer_but_the_same_data(config, tmp_path):
    text = CONFIG.replace('[task.quarter]\nname = "classification"\ndropout = 0.2\n', "")
    config.write_text(text)
    train(experiment(config), tmp_path / "ssl")
    config.write_text(CONFIG)
    train(
        experiment(config, f"train.init_from={tmp_path / 'ssl'}", "train.steps=8"), tmp_path / "run"
    )
    shutil.rmtree(tmp_path / "ssl")
    resolved = tmp_path / "run" / "config.toml"
    longer = load(resolved, ["train.steps=12"])
    assert train(longer, tmp_path / "run", resume=True).steps == 12
    other_data = load(resolved, ["data.dots.n=100", "train.steps=16"])
    with pytest.raises(MtlError, match="data has changed"):
        train(other_data, tmp_path / "run", resume=True)


def test_another_normalization_is_refused_when_fine_tuning(config, tmp_path, monkeypatch):
    from mtlcore.encoders.resnet_small import ResnetSmall

    train(experiment(config, "train.steps=2"), tmp_path / "one")
    tuned = experiment(config, f"train.init_from={tmp_path / 'one'}")
    shifted = type("Shifted", (ResnetSmall,), {"mean": (0.1, 0.1, 0.1)})()
    with pytest.raises(MtlError, match="mean"):
        train(evolve(tuned, encoder=evolve(shifted, width=4)), tmp_path / "two")


def test_weights_that_belong_to_another_image_size_are_refused_with_the_size_to_set(
    config, tmp_path
):
    vit = ("encoder.name=vit_small", "encoder.width=8", "encoder.depth=1", "train.steps=1")
    train(experiment(config, *vit), tmp_path / "one")
    larger = (f"train.init_from={tmp_path / 'one'}", "input.size=24", "pretext.puzzling.weight=0")
    # As many patches fit into an image of 8 x 32 pixels, at other places.
    for size, shown in (("24", "24"), ("[8, 32]", "[8, 32]")):
        with pytest.raises(MtlError, match="pos_embed") as error:
            train(experiment(config, *vit, *larger, f"input.size={size}"), tmp_path / "two")
        hint = f"That run has input.size = 16, but this one {shown}: set input.size = 16"
        assert str(error.value).splitlines()[-1] == hint
    with pytest.raises(MtlError, match="do not fit") as error:
        train(experiment(config, *vit, *larger, "encoder.width=16"), tmp_path / "two")
    assert "set input.size" not in str(error.value)


def test_a_resumed_run_accepts_another_number_of_devices_and_no_other_key(config, tmp_path):
    run = tmp_path / "run"
    train(experiment(config, "train.steps=4", "train.micro_batches=4"), run)
    assert load(run / "config.toml").train.micro_batches == 4
    with pytest.raises(MtlError) as error:
        train_command(
            resume=run, set_=("optimizer.lr=1", "train.devices=2", "train.micro_batches=2")
        )
    first, *changes = str(error.value).splitlines()
    assert f"a resumed run can't change these settings of {run}" in first
    assert "train.devices" in first
    assert changes == [
        "  optimizer.lr: 0.003 in the run, 1.0 here",
        "  train.micro_batches: 4 in the run, 2 here",
    ]
    assert train_command(resume=run, set_=("train.devices=1",)) == 0
    with pytest.raises(MtlError, match=r"micro_batches = 4 .* 3 devices.* 1, 2, 4$"):
        with_micro_batches(load(run / "config.toml"), 3)


def test_a_loss_that_compares_samples_is_named_when_the_number_of_devices_changes(config, tmp_path):
    run = tmp_path / "run"
    alone = ("train.micro_batches=2", "train.steps=1")
    told = []
    for pretext in ("barlow_twins", "puzzling"):
        text = CONFIG.replace("[pretext.puzzling]\ngrid = 2", f"[pretext.{pretext}]")
        config.write_text(text)
        shutil.rmtree(run, ignore_errors=True)
        trainer = Trainer(experiment(config, *alone), run, progress=(said := Said()))
        trainer.save()
        two = evolve(trainer.experiment, train=evolve(trainer.experiment.train, devices=2))
        record_changes(trainer.parts.checkpoints, two)
        assert "train.devices: 1 before, 2 now" in said.lines
        told.append([line for line in said.lines if "another number of samples" in line])
    assert told == [
        [
            "from now on, the loss of barlow_twins compares another number of samples: those of "
            "one micro-batch of all devices"
        ],
        [],
    ]


# ---------------------------------------------------------------------------- what it refuses


def test_an_existing_run_is_not_overwritten(config, tmp_path):
    train(experiment(config, "train.steps=4"), tmp_path / "run")
    with pytest.raises(MtlError, match="--resume"):
        train(experiment(config), tmp_path / "run")


def test_a_config_that_was_edited_in_the_run_folder_is_refused_by_its_keys(config, tmp_path):
    run = tmp_path / "run"
    train(experiment(config, "train.steps=4"), run)
    text = (run / "config.toml").read_text()
    text = text.replace("grid = 2", "grid = 3").replace("width = 4", "width = 8")
    (run / "config.toml").write_text(text)
    for use in (lambda: train_command(resume=run), lambda: evaluate(run)):
        with pytest.raises(MtlError, match=r"config\.toml was changed or damaged") as error:
            use()
        assert str(error.value).splitlines()[1:] == [
            "  encoder.width: 4 in the checkpoint, 8 in config.toml",
            "  pretext.puzzling.grid: 2 in the checkpoint, 3 in config.toml",
        ]


def test_a_truncated_checkpoint_is_refused_by_its_file_name(config, tmp_path):
    train(experiment(config, "train.steps=4"), tmp_path / "run")
    file = RunFolder(tmp_path / "run").require().path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(MtlError, match=r"model\.safetensors"):
        evaluate(tmp_path / "run")


def test_bad_steps_are_skipped_and_counted_and_too_many_in_a_row_end_the_run(config, tmp_path):
    """A pretext whose loss is NaN in some steps, then in all."""
    text = CONFIG.replace("[data.dots]", "[pretext.nan]\nevery = 5\n\n[data.dots]")
    config.write_text(text.replace(f'["{DOTS}"]', f'["{DOTS}", "{FAILING}"]'))
    result = train(experiment(config), tmp_path / "some")
    assert result.skipped == 5
    assert all(bool(torch.isfinite(w).all()) for w in weights(tmp_path / "some").values())
    with pytest.raises(MtlError, match="6 steps in a row"):
        train(experiment(config, "pretext.nan.every=1", "train.max_skipped=6"), tmp_path / "always")


def test_unreadable_images_are_reported_and_end_the_run_above_max_bad(config, tmp_path):
    notes: list[str] = []

    class Notes(SilentReporter):
        def note(self, text):
            notes.append(text)

    train(experiment(config, "data.dots.bad=3"), tmp_path / "run", reporter=Notes())
    assert any("3" in n and "dot0" in n for n in notes)
    with pytest.raises(MtlError, match="max_bad"):
        train(experiment(config, "data.dots.bad=3", "data.dots.max_bad=2"), tmp_path / "no")


def test_eval_prints_its_documented_json(config, tmp_path, capsys):
    run = str(tmp_path / "run")
    train(experiment(config), tmp_path / "run")
    capsys.readouterr()
    assert main(["eval", run, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"run", "data", "split", "precision", "n", "metrics"} <= set(printed)
    assert (printed["data"], printed["split"], printed["n"]) == ("dots", "test", {"quarter": 24})
    assert set(printed["metrics"]) == {
        "quarter/accuracy",
        "quarter/macro_f1",
        "quarter/mean_class_accuracy",
    }
    assert main(["eval", run, "--split", "tset"]) == 2
    assert "test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.precision='16-mixed'", "bf16-mixed"),
        ("input.batch_size=15", "micro_batches"),
        ("task.quarter.reads='quater'", "quarter"),
        ("train.best='quarter/acuracy'", "quarter/accuracy"),
        ("train.best='quarter/confusion'", "no such metric"),
        ("task.quarter.class_weights=[1.0, 2.0]", r"task\.quarter"),
        ("pretext.puzzling.samples='unlabeled'", "keep"),
        ("input.unlabeled_batch=8", "keep"),
        ("train.ema=1.0", r"train\.ema"),
        ("schedule.milestones=[0.5, 1.5]", r"schedule\.milestones"),
        ("views.supervised='pretext'", ""),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(config, tmp_path, override, message):
    extra = ("train.micro_batches=2",) if "batch_size" in override else ()
    if not message:
        train(experiment(config, override, "train.steps=2"), tmp_path / "fine")
        return
    with pytest.raises(MtlError, match=message):
        train(experiment(config, override, *extra), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_dry_run_refuses_a_view_that_the_encoder_cannot_read(config, tmp_path):
    text = CONFIG.replace("width = 4", 'name = "vit_b_16"')
    config.write_text(text.replace("grid = 2", "grid = 2\nscales = [[0.5, 0.5]]"))
    with pytest.raises(MtlError, match="dry run"):
        train(experiment(config), tmp_path / "run")


@pytest.mark.slow
def test_bf16_and_accumulation_train(config, tmp_path):
    result = train(
        experiment(
            config, "train.precision='bf16-mixed'", "train.micro_batches=2", "train.steps=8"
        ),
        tmp_path / "run",
    )
    assert result.skipped == 0
    assert os.path.exists(tmp_path / "run" / "run.json")
