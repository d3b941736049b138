"""`mtl sweep` as a user meets it: real processes, a table or JSON, one that is killed and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtlcore.cli import main
from mtlcore.runs import RunFolder

CONFIG = """
[encoder]
name = "resnet_small"
width = 2
depths = [1, 1]
[task.gender]
by = []
[pretext.puzzling]
grid = 2
[data.synthfaces]
train = 60
test = 4
size = 32
[input]
size = 32
cache_size = 32
batch_size = 8
validation = 0.25
[schedule]
warmup = 0

[train]
steps = 3
tensorboard = false
"""
LISTEN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
MTL = [sys.executable, "-c", LISTEN + "import sys; from mtlcore.cli import main; sys.exit(main())"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def words(config: Path, *more: str) -> list[str]:
    over = ["--over", "pretext.puzzling.weight=0,0.3"]
    return ["sweep", str(config), *over, "--out", str(config.parent / "sweep"), *more]


def test_a_person_reads_a_table_and_what_to_do_next(config, capsys) -> None:
    assert main(words(config, "--seeds", "0", "1")) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "run 4 of 4: weight=0.3_seed=1 begins" in out
    assert "gender/accuracy on validation, last step (higher is" in out
    assert out.count("chosen │") == 1
    chosen = config.parent / "sweep" / "chosen.toml"
    assert f"mtl train {chosen}" in "".join(out.split("train what was chosen: ")[1])
    assert main(["train", str(chosen), "--out", str(config.parent / "again")]) == 0
    best = json.loads((config.parent / "sweep" / "sweep.json").read_text())["chosen"][
        "pretext.puzzling.weight"
    ]
    first = RunFolder(config.parent / "sweep" / f"weight={best}_seed=0")
    assert (
        RunFolder(config.parent / "again").provenance()["validation"]
        == first.provenance()["validation"]
    )


def test_json_is_all_that_goes_to_stdout_and_a_second_call_only_reads(config, capsys) -> None:
    assert main(words(config, "--json")) == 0
    first = json.loads(capsys.readouterr().out)
    assert [s["values"] for s in first["settings"]] == [
        {"pretext.puzzling.weight": w} for w in (0, 0.3)
    ]
    assert (first["split"], first["metric"]) == ("validation", "gender/accuracy")
    assert [(s["n"], s["sd"]) for s in first["settings"]] == [(1, None)] * 2
    assert first["toml"] == str(config.parent / "sweep" / "chosen.toml")
    assert main(words(config, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == first  # CPU seconds too: nothing was trained


def test_without_a_folder_the_configurations_name_gives_one_in_the_current_folder(
    config, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(config.parent)
    assert (
        main(["sweep", "run.toml", "--over", "pretext.puzzling.weight=0,0.3", "--seeds", "0", "1"])
        == 0
    )
    out = " ".join(capsys.readouterr().out.split())
    assert "4 runs; they lie in run-sweep" in out
    assert "mtl train run-sweep/chosen.toml" in out
    runs = {f"weight={weight}_seed={seed}" for weight in ("0", "0.3") for seed in (0, 1)}
    assert {p.name for p in Path("run-sweep").glob("weight=*")} == runs


def test_a_setting_that_diverges_is_shown_as_such_and_the_others_are_chosen_among(
    config, capsys
) -> None:
    more = ["--set", "train.max_skipped=2", "--set", "train.log_every=1", "--set", "train.steps=8"]
    more += [
        "--set",
        "train.clip=1e30",
        "--set",
        "optimizer.name=sgd",
        "--out",
        str(config.parent / "sweep"),
    ]
    command = ["sweep", str(config), "--over", "optimizer.lr=1e30,0.001", *more]
    assert main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "│ - │ - │ 1 │ diverged │" in out
    assert out.count("chosen │") == 1
    assert "lr=1e30_seed=0 has diverged" in out
    assert main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "run 1 of 2: lr=1e30_seed=0 diverged before" in out
    assert "diverged │" in out


def test_what_a_user_got_wrong_is_one_message_and_code_2(config, capsys) -> None:
    assert main(words(config, "--over", "pretext.puzzling.girid=2")) == 2
    assert "did you mean 'grid'" in capsys.readouterr().err
    assert main(words(config, "--set", "train.steps=0")) == 2
    assert "train.steps" in capsys.readouterr().err
    assert not (config.parent / "sweep").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("signals", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_sweep_goes_on_where_it_was_and_comes_to_the_same_figures(
    config, signals, code, capsys
) -> None:
    """Stopped in the second run, after a checkpoint of it; the uninterrupted sweep lies beside it."""
    more = [
        "--set",
        "train.steps=120",
        "--set",
        "train.save_every=5",
        "--set",
        "train.eval_every=0",
        "--json",
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*MTL, *words(config, *more)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    second = RunFolder(config.parent / "sweep" / "weight=0.3_seed=0")
    while not second.checkpoint() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signals)
    told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert b"Traceback" not in told[1]
    first = RunFolder(config.parent / "sweep" / "weight=0_seed=0").provenance()
    assert first["finished"]
    assert "finished" not in second.provenance()
    went = subprocess.run([*MTL, *words(config, *more)], env=env, capture_output=True, text=True)
    assert went.returncode == 0, went.stderr
    found = json.loads(went.stdout)
    assert found["settings"][0]["runs"][0]["cpu_s"] == first["cpu_s"]  # read, not trained again
    if code == 130:
        return
    straight = subprocess.run(
        [*MTL, "train", str(second.path / "config.toml"), "--out", str(config.parent / "straight")],
        env=env,
        capture_output=True,
        text=True,
    )
    assert straight.returncode == 0, straight.stderr
    whole = RunFolder(config.parent / "straight").provenance()["validation"]
    assert found["settings"][1]["runs"][0]["validation"] == whole
