"""`mtl sweep`: a table or JSON, and real processes that are stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from study_toys import MTL, faces_run

from mtlcore.cli import main
from mtlcore.runs import RunFolder

CONFIG = faces_run("[pretext.puzzling]\ngrid = 2\n")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def words(config: Path, *more: str) -> list[str]:
    over = ["--over", "pretext.puzzling.weight=0,0.3"]
    return ["sweep", str(config), *over, "--out", str(config.parent / "sweep"), *more]


def overrides(*values: str) -> list[str]:
    found = []
    for value in values:
        found += ["--set", value]
    return found


def test_text_has_a_table_and_the_next_command(config, capsys) -> None:
    sweep = config.parent / "sweep"
    assert main(words(config, "--seeds", "0", "1")) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "run 4 of 4: main-weight=0.3-0-1-3 (weight=0.3, seed 1)" in out
    assert "gender/accuracy on validation, last step (higher is" in out
    assert out.count("best mean │") == 1
    # Two seeds of three steps decide nothing.
    assert "not decided" in out
    chosen = sweep / "chosen.toml"
    assert f"mtl train {chosen}" in out.split("train the setting with the best mean: ")[1]

    # The chosen file reproduces the first run of its setting.
    again = config.parent / "again"
    assert main(["train", str(chosen), "--out", str(again)]) == 0
    weight = json.loads((sweep / "sweep.json").read_text())["chosen"]["pretext.puzzling.weight"]
    first = RunFolder(sweep / "runs" / f"main-weight={weight}-0-0-3")
    assert RunFolder(again).provenance()["validation"] == first.provenance()["validation"]


def test_stdout_has_json_alone_and_a_second_call_only_reads(config, capsys) -> None:
    assert main(words(config, "--json")) == 0
    first = json.loads(capsys.readouterr().out)
    weights = [setting["values"]["pretext.puzzling.weight"] for setting in first["settings"]]
    assert weights == [0, 0.3]
    assert (first["split"], first["metric"]) == ("validation", "gender/accuracy")
    assert [(s["n"], s["sd"]) for s in first["settings"]] == [(1, None)] * 2
    assert first["toml"] == str(config.parent / "sweep" / "chosen.toml")
    assert main(words(config, "--json")) == 0
    # The CPU seconds are equal, too: nothing was trained.
    assert json.loads(capsys.readouterr().out) == first


def test_the_default_folder_has_the_name_of_the_configuration(config, capsys, monkeypatch) -> None:
    monkeypatch.chdir(config.parent)
    command = ["sweep", "run.toml", "--over", "pretext.puzzling.weight=0,0.3"]
    assert main([*command, "--seeds", "0", "1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "4 runs in run-sweep, 0 are done" in out
    assert "mtl train run-sweep/chosen.toml" in out
    runs = {f"main-weight={weight}-0-{seed}-3" for weight in ("0", "0.3") for seed in (0, 1)}
    assert {p.parent.name for p in Path("run-sweep").glob("runs/*/config.toml")} == runs


def test_a_setting_that_diverges_is_marked_and_another_one_is_chosen(config, capsys) -> None:
    hot = ["train.max_skipped=2", "train.log_every=1", "train.steps=20"]
    hot += ["optimizer.weight_decay=1000", "optimizer.name=sgd"]
    command = ["sweep", str(config), "--over", "optimizer.lr=1000,0.001"]
    command += [*overrides(*hot), "--out", str(config.parent / "sweep")]
    assert main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "│ - │ - │ 1 │ diverged │" in out
    assert out.count("best mean │") == 1
    assert "main-lr=1000-0-0-20 has no result" in out
    assert main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "2 runs in" in out
    assert "2 are done" in out
    assert "diverged │" in out


def test_an_error_of_the_user_is_one_message_and_exits_2(config, capsys) -> None:
    assert main(words(config, "--over", "pretext.puzzling.girid=2")) == 2
    assert "did you mean 'grid'" in capsys.readouterr().err
    assert main(words(config, "--set", "train.steps=0")) == 2
    assert "train.steps" in capsys.readouterr().err
    assert not (config.parent / "sweep").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("signals", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_sweep_resumes_and_has_the_same_metrics(config, signals, code) -> None:
    """It is stopped in the second run, after its first checkpoint."""
    more = overrides("train.steps=120", "train.save_every=5", "train.eval_every=0")
    command = [*MTL, *words(config, *more, "--json")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    second = RunFolder(config.parent / "sweep" / "runs" / "main-weight=0.3-0-0-120")
    while not second.checkpoint() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signals)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    assert b"Traceback" not in err
    first = RunFolder(config.parent / "sweep" / "runs" / "main-weight=0-0-0-120").provenance()
    assert first["finished"]
    assert "finished" not in second.provenance()

    resumed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    found = json.loads(resumed.stdout)
    # The first run was read, not trained again.
    assert found["settings"][0]["runs"][0]["cpu_s"] == round(first["cpu_s"], 1)
    if code == 130:
        return  # one comparison with an uninterrupted run is enough
    straight = config.parent / "straight"
    train = ["train", str(second.path / "config.toml"), "--out", str(straight)]
    done = subprocess.run([*MTL, *train], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = RunFolder(straight).provenance()["validation"]
    rounded = {name: round(value, 6) for name, value in expected.items()}
    assert found["settings"][1]["runs"][0]["validation"] == rounded
