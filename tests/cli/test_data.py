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
    for split, name, grays in (
        ("train", "cat", (1, 2)),
        ("train", "dog", (2, 3)),
        ("test", "cat", (1,)),
        ("test", "dog", (4,)),
    ):
        for gray in grays:
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 50 * gray).save(folder / f"{gray}.png")
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
    assert "1 images outside of train that also stand in train: test/cat/1.png" in out
    assert 'data.own.exclude_duplicates = "train" or "test"' in out


def test_the_sheet_is_a_png(config, capsys):
    sheet = config.parent / "sheet.png"
    assert (
        main(["data", "check", "own", str(config), "--set", root(config), "--sheet", str(sheet)])
        == 0
    )
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        assert image.height == 3 * (128 + 4) + 4
    assert (
        main(
            [
                "data",
                "check",
                "own",
                str(config),
                "--set",
                root(config),
                "--sheet",
                str(config.parent / "no" / "x.png"),
            ]
        )
        == 2
    )
    assert "can't write" in capsys.readouterr().err


def test_a_sheet_that_cannot_be_written_is_refused_before_any_image_is_read(config, capsys):
    for sheet, told in (
        ("sheet.jpg", "--sheet sheet.jpg: expected a PNG file, such as sheet.png"),
        (".png/x.png", "is no folder"),
    ):
        assert (
            main(["data", "check", "own", str(config), "--sheet", sheet]) == 2
        )  # the root is wrong, too
        assert told in capsys.readouterr().err


def test_labels_and_files_that_look_like_markup_are_shown_as_they_are(config, capsys):
    photos = config.parent / "photos" / "train"
    (photos / "cat").rename(photos / "[b]cat")
    (photos / "[b]cat" / "[red]x.txt").write_text("x")
    (photos / "[b]cat" / "[").write_text("x")
    (photos / "dog").rename(photos / ":dog: [")
    assert main(["data", "check", "own", str(config), "--set", root(config)]) == 0
    out = capsys.readouterr().out
    assert "[b]cat" in out
    assert ":dog: [" in out
    assert "[red]x.txt" in out


def test_a_plugins_source_is_checked_too(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "from attrs import frozen\n"
        "from mtlcore import Dataset, Index, hookimpl\n"
        "@frozen\n"
        "class Mine(Dataset):\n"
        "    def index(self):\n"
        "        return Index(np.array(['a', 'b']), {'kind': np.array(['x', '[/b]'])}, split=np.array(['train', '[/i]']))\n"
        "    def decode(self, index, row):\n"
        "        return np.full((8, 8, 3), row, dtype=np.uint8)\n"
        "@hookimpl\n"
        "def mtl_components():\n"
        "    return [Mine]\n"
    )
    (tmp_path / "run.toml").write_text(
        '[task.kind]\nname = "classification"\n[data.mine]\n[train]\nsteps = 1\n'
    )
    tokens = ["data", "check", "mine", str(tmp_path / "run.toml")]
    assert main(tokens) == 2
    assert main([*tokens, "--plugin", str(tmp_path / "mine.py")]) == 0
    out = capsys.readouterr().out
    assert "[/b]" in out
    assert "[/i]" in out


def test_what_a_user_got_wrong_is_one_message_and_code_2(config, capsys):
    assert main(["data", "check", "own", str(config)]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    assert main(["data", "check", "owm", str(config)]) == 2
    assert "there is no table [data.owm]; did you mean 'own'?" in capsys.readouterr().err


def test_it_runs_as_a_process(config):
    code = "import sys; from mtlcore.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "data",
            "check",
            "own",
            str(config),
            "--set",
            root(config),
            "--json",
        ],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["duplicate_groups"] == 2
    assert "Traceback" not in done.stderr
