"""`mtl data check`: a table or JSON, a sheet, exit codes."""

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
IMAGES = (
    ("train", "cat", (1, 2)),
    ("train", "dog", (2, 3)),
    ("test", "cat", (1,)),
    ("test", "dog", (4,)),
)
"""Split, class, gray levels. Equal levels are pixel-identical images."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for split, name, grays in IMAGES:
        folder = tmp_path / "photos" / split / name
        folder.mkdir(parents=True)
        for gray in grays:
            Image.new("L", (16, 16), 50 * gray).save(folder / f"{gray}.png")
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def words(config: Path, *more: str | Path) -> list[str]:
    """The command, with the root of the images."""
    root = f"data.own.root={config.parent / 'photos'}"
    return ["data", "check", "own", str(config), "--set", root, *map(str, more)]


def test_json_has_exactly_the_counts(config, capsys) -> None:
    assert main(words(config, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found.pop("fingerprint")) == 32
    assert found == {
        "counts": {"test": {"cat": 1, "dog": 1}, "train": {"cat": 2, "dog": 2}},
        "missing": 0,
        "unreadable": 0,
        "malformed": 0,
        "duplicate_groups": 2,
        "conflicting_groups": 1,
        "one_class": 0,
        "shared_between_splits": 1,
    }


def test_text_has_the_counts_the_faults_and_what_to_type(config, capsys) -> None:
    (config.parent / "photos" / "train" / "cat" / "9.png").write_bytes(b"x")
    assert main(words(config)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 unreadable" in out
    assert "1 of these groups with conflicting labels: train/cat/2.png = train/dog/2.png" in out
    assert "1 images of other splits that are also in train: test/cat/1.png" in out
    assert 'data.own.exclude_duplicates = "train" or "test"' in out
    assert main(words(config, "--set", 'data.own.exclude_duplicates="test"')) == 0
    assert "exclude them" not in capsys.readouterr().out


def test_the_sheet_is_a_png(config, capsys) -> None:
    sheet = config.parent / "sheet.png"
    assert main(words(config, "--sheet", sheet)) == 0
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        assert image.height == 3 * (128 + 4) + 4
    assert main(words(config, "--sheet", config.parent / "no" / "x.png")) == 2
    assert "can't write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ("sheet.jpg", "--sheet sheet.jpg: expected a PNG file, such as sheet.png"),
        (".png/x.png", "is not a folder"),
    ],
)
def test_a_sheet_that_cannot_be_written_is_an_error_before_any_image_is_read(
    config, sheet, message, capsys
) -> None:
    # The root of the configuration does not exist: reading an image would be another error.
    assert main(["data", "check", "own", str(config), "--sheet", sheet]) == 2
    assert message in capsys.readouterr().err


def test_labels_and_files_that_look_like_markup_are_printed_as_they_are(config, capsys) -> None:
    photos = config.parent / "photos" / "train"
    (photos / "cat").rename(photos / "[b]cat")
    (photos / "[b]cat" / "[red]x.txt").write_text("x")
    (photos / "[b]cat" / "[").write_text("x")
    (photos / "dog").rename(photos / ":dog: [")
    assert main(words(config)) == 0
    out = capsys.readouterr().out
    for text in ("[b]cat", ":dog: [", "[red]x.txt"):
        assert text in out


PLUGIN = """
import numpy as np
from attrs import frozen
from mtlcore import Dataset, Index, Sample, hookimpl
@frozen
class Mine(Dataset):
    def index(self):
        labels = np.array(['x', '[/b]'])
        return Index(np.array(['a', 'b']), {'kind': labels}, split=np.array(['train', '[/i]']))
    def decode(self, index, i):
        return Sample(np.full((8, 8, 3), i, dtype=np.uint8))
@hookimpl
def mtl_components():
    return [Mine]
"""


def test_the_dataset_of_a_plugin_file_is_checked_too(tmp_path, capsys) -> None:
    plugin, config = tmp_path / "mine.py", tmp_path / "run.toml"
    plugin.write_text(PLUGIN)
    config.write_text('[task.kind]\nname = "classification"\n[data.mine]\n[train]\nsteps = 1\n')
    tokens = ["data", "check", "mine", str(config)]
    assert main(tokens) == 2
    assert main([*tokens, "--plugin", str(plugin)]) == 0
    out = capsys.readouterr().out
    assert "[/b]" in out
    assert "[/i]" in out


def test_an_error_of_the_user_is_one_message_and_exits_2(config, capsys) -> None:
    assert main(["data", "check", "own", str(config)]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
    assert main(["data", "check", "owm", str(config)]) == 2
    assert "there is no table [data.owm]; did you mean 'own'?" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_as_a_process(config) -> None:
    command = [sys.executable, "-m", "mtlcore", *words(config, "--json")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["duplicate_groups"] == 2
    assert "Traceback" not in done.stderr


def test_a_root_one_folder_too_high_is_named(config, capsys) -> None:
    for name in ("train", "test"):
        (config.parent / "photos" / name).rename(config.parent / "photos" / f"my {name}")
    images = config.parent / "photos" / "my test"
    images.rename(config.parent / "photos" / "my train" / "more")
    assert main(words(config)) == 0
    line = "all labels 'kind' are 'my train': no task can learn from one class. Is root one folder"
    assert line in capsys.readouterr().out
    assert main(words(config, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["one_class"] == 1


# ------------------------------------------------------------ `mtl data pack`


def test_a_pack_trains_as_its_source(config, capsys) -> None:
    out = config.parent / "pack"
    root = f"data.own.root={config.parent / 'photos'}"
    command = ["data", "pack", "own", str(config), "--set", root, "--out", str(out)]
    assert main([*command, "--quality", "raw", "--size", "8"]) == 0
    printed = capsys.readouterr().out
    assert f"{out}: 6 samples of 8 x 8 pixels, 0.0 MB, 1 shard" in printed
    assert f'[data.own] name = "packed", root = "{out}"' in printed
    packed = ["--set", "data.own.name=packed", "--set", f"data.own.root={out}"]
    bare = config.with_name("packed.toml")
    bare.write_text(CONFIG.replace('annotation = "kind"\n', ""))
    assert main(["data", "check", "own", str(bare), "--json", *packed]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"test": {"cat": 1, "dog": 1}, "train": {"cat": 2, "dog": 2}}


def test_wrong_options_of_pack_are_named(config, capsys, subtests) -> None:
    wrong = {
        ("--size", "8x"): "--size 8x: expected pixels such as 112",
        ("--part", "3/2"): "--part 3/2: expected i/n with i from 1 to n",
        ("--quality", "101"): "--quality 101: expected a whole number from 1 to 100",
        ("--shard-mb", "0"): "--shard-mb 0: expected a whole number from 1 to 4096",
    }
    for options, message in wrong.items():
        with subtests.test(message):
            out = config.parent / "pack"
            assert main(["data", "pack", "own", str(config), "--out", str(out), *options]) == 2
            assert message in capsys.readouterr().err
            assert not out.exists()
