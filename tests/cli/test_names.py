"""File names may hold any bytes: a latin-1 name out of a zip file from Windows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mtlcore import MtlError
from mtlcore.cli import main
from mtlcore.config import dump, load
from mtlcore.data.folder import ImageFolder

CONFIG = """
[task.kind]
name = "classification"
[data.own]
name = "image_folder"
annotation = "kind"
root = "images"
[encoder]
name = "resnet_small"
width = 8
[input]
size = 16
batch_size = 4
[schedule]
warmup = 0
[train]
steps = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "here"
    for number, name in enumerate([b"caf\xe9", b"caf\xe8"]):
        classes = here / "images" / os.fsdecode(name)
        try:
            classes.mkdir(parents=True)
        except OSError:
            pytest.skip("this file system takes names in UTF-8 alone")
        for i in range(8):
            image = Image.new("L", (16, 16), 100 * number + 9 * i)
            image.save(classes / os.fsdecode(b"\xff%d.png" % i))
        (classes / os.fsdecode(b"not\xe9s.txt")).write_bytes(b"")
        (classes / os.fsdecode(b"\xfe.png")).write_bytes(b"broken")
    (here / "run.toml").write_text(CONFIG)
    monkeypatch.chdir(here)
    return here


def test_class_folders_keep_their_names_apart(folder):
    index = ImageFolder(Path("images")).index()
    assert set(index.annotations["label"].tolist()) == {r"caf\xe9", r"caf\xe8"}
    assert ImageFolder(Path("images")).decode(index, 1).image.shape == (16, 16, 3)


@pytest.mark.slow
def test_no_command_fails_on_names_that_are_no_text(folder, capfd):
    run = "run"
    for words in (
        ["data", "check", "own", "run.toml", "--sheet", "sheet.png"],
        ["data", "check", "own", "run.toml", "--json"],
        ["train", "run.toml", "--out", run],
        ["eval", run, "--json"],
        ["eval", run],
        ["preview", "run.toml", "--out", "preview.png"],
        ["preview", "--run", run, "--out", "preview.png"],
    ):
        assert main(words) == 0, (words, capfd.readouterr())
    # Only a process of its own has the stdout that escapes names.
    command = [sys.executable, "-m", "mtlcore", "data", "check", "own", "run.toml"]
    checked = subprocess.run(command, capture_output=True, check=True)
    assert rb"caf\udce9/not" in checked.stdout
    capfd.readouterr()
    assert main(["train", "run.toml", "--out", os.fsdecode(b"r\xfcn")]) == 2
    assert "name of the run folder is not UTF-8" in capfd.readouterr().err
    for row in (folder / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(row)
    assert main(["train", "nowh\udce9re.toml", "--out", "other"]) == 2
    assert "re.toml can't be read" in capfd.readouterr().err


def test_a_path_that_a_configuration_can_t_hold_is_an_error_that_names_it(folder):
    with pytest.raises(MtlError, match=r"can't save root = .*\\udce9.*is not UTF-8"):
        dump(load("run.toml", {"data.own.root": "h\udce9re"}))
