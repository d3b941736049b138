"""`mtl data check` as a user meets it: a process, a table or JSON, a sheet, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mtlcore.cli import main

CONFIG = """
[task.kind]
name = "classification"
[data.own]
name = "image_folder"
annotation = "kind"
root = "nowhere"
[train]
steps = 1
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for split, name, greys in (
        ("train", "cat", (1, 2)),
        ("train", "dog", (2, 3)),
        ("test", "cat", (1,)),
        ("test", "dog", (4,)),
    ):
        for grey in greys:
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 50 * grey).save(folder / f"{grey}.png")
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path / "run.toml"


def root(config: Path) -> str:
    return f"data.own.root={config.parent / 'photos'}"


def test_json_holds_exactly_the_figures(config, capsys):
    assert main(["data", "check", "own", str(config), "--set", root(config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found.pop("fingerprint")) == 32
    assert found == {
        "counts": {"test": {"cat": 1, "dog": 1}, "train": {"cat": 2, "dog": 2}},
        "missing": 0,
        "unreadable": 0,
        "malformed": 0,
        "duplicate_groups": 2,
        "conflicting_groups": 1,
        "shared_between_splits": 1,
    }


def test_a_person_reads_counts_faults_and_what_to_do(config, capsys):
    (config.parent / "photos" / "train" / "cat" / "9.png").write_bytes(b"x")
    assert main(["data", "check", "own", str(config), "--set", root(config)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 unreadable" in out
    assert "1 of them with conflicting labels: train/cat/2.png = train/dog/2.png" in out
    assert "1 pictures outside of train that also stand in train: test/cat/1.png" in out
    assert 'data.own.exclude_duplicates = "train" or "test"' in out


def test_the_sheet_is_a_png(config, capsys):
    sheet = config.parent / "sheet.png"
    assert main(["data", "check", "own", str(config), "--set", root(config), "--sheet", str(sheet)]) == 0
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        assert image.height == 3 * (128 + 4) + 4
    assert (
        main(
            ["data", "check", "own", str(config), "--set", root(config), "--sheet", str(config.parent / "no" / "x.png")]
        )
        == 2
    )
    assert "can't be written" in capsys.readouterr().err


def test_what_a_user_got_wrong_is_one_message_and_code_2(config, capsys):
    assert main(["data", "check", "own", str(config)]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    assert main(["data", "check", "owm", str(config)]) == 2
    assert "there is no table [data.owm]; did you mean 'own'?" in capsys.readouterr().err


def test_it_runs_as_a_process(config):
    code = "import sys; from mtlcore.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "check", "own", str(config), "--set", root(config), "--json"],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["duplicate_groups"] == 2
    assert "Traceback" not in done.stderr
