"""`mtl preview`: a PNG file, and clear words where there can't be one."""

from __future__ import annotations

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
tensorboard = false
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def test_it_writes_a_sheet_of_an_experiment(config, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["preview", str(config), "--out", str(out)]) == 0
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.size[1] == 6 * 100 + 4
    assert f"x {6 * 100 + 4} pixels" in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.glob("*.tmp"))


def test_a_run_adds_a_row_for_each_answer_of_the_model(config, tmp_path):
    run, out = tmp_path / "run", tmp_path / "sheet.png"
    assert main(["train", str(config), "--out", str(run)]) == 0
    assert main(["preview", "--run", str(run), "--out", str(out)]) == 0
    with Image.open(out) as sheet:
        assert sheet.size[1] == 8 * 100 + 4
    assert (
        main(
            [
                "preview",
                str(config),
                "--run",
                str(run),
                "--set",
                "encoder.width=4",
                "--out",
                str(out),
            ]
        )
        == 2
    )


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (["--out", "x.png"], "needs CONFIG, or --run RUN"),
        (["CONFIG", "--out", "x.jpg"], "expected a PNG file, such as x.png"),
        (
            ["CONFIG", "--out", "no/such/folder/x.png"],
            "can't write no/such/folder/x.png: no/such/folder is no folder",
        ),
        (["--run", "nowhere", "--out", "x.png"], "nowhere is no run"),
        (["CONFIG", "--set", "pretext.puzzling.grid=7", "--out", "x.png"], "pretext.puzzling.grid"),
    ],
)
def test_what_a_user_can_mend_is_told_in_one_message(
    config, tokens, told, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["preview", *(str(config) if t == "CONFIG" else t for t in tokens)]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.tmp"))
