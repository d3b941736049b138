"""`mtl preview`: it writes a PNG file, or reports why it can't."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mtlcore.cli import main

CONFIG = """
[encoder]
name = "resnet_small"
width = 2
depths = [1, 1]

[task.fer]

[pretext.puzzling]
grid = 2

[pretext.inpainting]

[data.synthfaces]
train = 80
test = 4
size = 32

[input]
size = 32
batch_size = 8

[train]
steps = 2
"""


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def test_it_writes_a_sheet_of_an_experiment(config, tmp_path, capsys) -> None:
    out = tmp_path / "sheet.png"
    assert main(["preview", str(config), "--out", str(out)]) == 0
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.size[1] == 6 * 100 + 4
    assert f"x {6 * 100 + 4} pixels" in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.glob("*.tmp"))


def test_a_run_adds_a_row_of_predictions_for_each_head(config, tmp_path) -> None:
    run, out = tmp_path / "run", tmp_path / "sheet.png"
    assert main(["train", str(config), "--out", str(run)]) == 0
    assert main(["preview", "--run", str(run), "--out", str(out)]) == 0
    with Image.open(out) as sheet:
        assert sheet.size[1] == 8 * 100 + 4
    other_model = ["--set", "encoder.width=4", "--out", str(out)]
    assert main(["preview", str(config), "--run", str(run), *other_model]) == 2


def test_it_draws_six_augmentations_with_their_labels(config, tmp_path) -> None:
    out = tmp_path / "sheet.png"
    assert main(["preview", str(config), "--augment", "--out", str(out)]) == 0
    with Image.open(out) as sheet:
        assert sheet.size[1] == 7 * (192 + 4) + 4


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--out", "x.png"], "needs CONFIG, or --run RUN"),
        (["CONFIG", "--out", "."], "can't write .: it is a folder"),
        (["CONFIG", "--run", "r", "--augment", "--out", "x.png"], "--augment does not read --run"),
        (["CONFIG", "--out", "x.jpg"], "expected a PNG file, such as x.png"),
        (
            ["CONFIG", "--out", "no/such/folder/x.png"],
            "can't write no/such/folder/x.png: no/such/folder is not a folder",
        ),
        (["--run", "nowhere", "--out", "x.png"], "nowhere is not a run"),
        (["CONFIG", "--set", "pretext.puzzling.grid=7", "--out", "x.png"], "pretext.puzzling.grid"),
    ],
)
def test_an_error_of_the_user_is_one_message_and_exits_2(
    config, tokens, message, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(config) if token == "CONFIG" else token for token in tokens]
    assert main(["preview", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.tmp"))
