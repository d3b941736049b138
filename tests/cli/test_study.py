"""`mtl study`: a study that is written, run and read; real processes that share and stop one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from study_toys import MTL, faces_run

from mtlcore.cli import main

CONFIG = faces_run()


@pytest.fixture
def study(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(CONFIG)
    words = ["study", "new", "run.toml", "--vary", "pretext=puzzling", "--seeds", "2"]
    assert main([*words, "--out", "s.toml"]) == 0
    return tmp_path / "s.toml"


def rows_of(study: Path) -> list[dict]:
    file = study.with_suffix("") / "runs.jsonl"
    return [json.loads(x) for x in file.read_text().splitlines()] if file.exists() else []


def test_a_study_is_written_planned_run_and_read(study, capsys) -> None:
    assert main(["study", "plan", "s.toml"]) == 0
    assert (
        "4 runs are left; CPU seconds are estimated after the first run" in capsys.readouterr().out
    )
    study.write_text(study.read_text().replace("equal_compute = true", ""))
    assert main(["study", "run", "s.toml"]) == 0
    out = capsys.readouterr().out
    assert "run 4 of 4: main-puzzling-0-1-3 (puzzling, seed 1)" in out
    assert "| puzzling | supervised | 2 |" in out
    assert main(["study", "plan", "s.toml"]) == 0
    assert capsys.readouterr().out == "all 4 runs are done\n"
    assert main(["study", "table", "s.toml", "--format", "csv", "--plot", "plot.svg"]) == 0
    assert capsys.readouterr().out.startswith("arm,seeds,steps,encoder forwards,")
    assert Path("plot.svg").read_text().startswith("<?xml")
    assert main(["study", "table", "s.toml", "--format", "latex", "--test"]) == 0
    assert "test, last step" in capsys.readouterr().out
    assert main(["study", "again", "s.toml", "main-puzzling-0-1-3"]) == 0
    assert "the same, bit for bit" in capsys.readouterr().out


def test_an_error_of_the_user_is_one_message_and_exits_2(study, capsys) -> None:
    for words, message in [
        (["run", "t.toml"], "mtl study new"),
        (["run", "s.toml", "--arms", "puzling"], "did you mean 'puzzling'"),
        (["run", "s.toml", "--jobs", "0"], "jobs = 0"),
        (["again", "s.toml", "main-sl"], "there is no finished run 'main-sl'"),
        (["table", "s.toml", "--arms", "puzzling"], "add --test"),
        (["table", "s.toml", "--test"], "runs are left, so the test split is not read"),
        (["table", "s.toml", "--plot", "p.gif"], "p.gif: can't write"),
    ]:
        assert main(["study", *words]) == 2, words
        assert message in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert not study.with_suffix("").exists()


@pytest.mark.slow
def test_processes_share_a_study_stop_together_and_resume(study) -> None:
    study.write_text(study.read_text().replace("[0, 1]", "[0, 1, 2]"))
    text = CONFIG.replace("steps = 3", "steps = 150\nsave_every = 5\neval_every = 0")
    Path("run.toml").write_text(text)
    command = [*MTL, "study", "run", "s.toml", "--jobs", "2"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ)
    while len(rows_of(study)) < 2 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    ended = len(rows_of(study))
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    rows = rows_of(study)
    keys = {(row["arm"], row["seed"]) for row in rows}
    assert len(rows) == len(keys) == 9  # two arms, and the baseline with twice the steps
    assert 2 <= ended < 9
    # A run that was stopped and resumed is the run that was not.
    again = [*MTL, "study", "again", "s.toml", f"main-puzzling-0-{rows[-1]['seed']}-150"]
    assert subprocess.run(again, capture_output=True, env=os.environ, check=False).returncode == 0
