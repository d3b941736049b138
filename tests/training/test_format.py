"""Run folders of another format are refused with one message, whatever reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from dots_run import tiny_toml

from mtlcore import MtlError
from mtlcore.checkpoints import FORMAT
from mtlcore.cli import main
from mtlcore.config import dump, load
from mtlcore.runs import RunFolder
from mtlcore.training.trainer import train

CONFIG = tiny_toml("steps = 2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment, experiment.toml, and its run, run/."""
    folder = tmp_path_factory.mktemp("format")
    (folder / "experiment.toml").write_text(CONFIG)
    train(load(folder / "experiment.toml"), folder / "run")
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test can change."""
    return shutil.copytree(trained, tmp_path / "copy")


def test_a_run_and_its_checkpoints_carry_the_format(trained):
    run = RunFolder.open(trained / "run")
    assert run.provenance()["format"] == run.require().manifest().format == FORMAT


def with_format(run: Path, number: int | None) -> None:
    """Change the format of a run, or remove it."""
    file = run / "run.json"
    provenance = json.loads(file.read_text())
    del provenance["format"]
    if number is not None:
        provenance["format"] = number
    file.write_text(json.dumps(provenance))


@pytest.mark.parametrize("number", [None, 1, FORMAT + 1])
@pytest.mark.parametrize("command", ["eval", "preview", "resume", "init_from", "sweep"])
def test_a_run_of_another_format_is_refused_with_one_message(folder, capsys, command, number):
    run, experiment, new = folder / "run", folder / "experiment.toml", folder / "new"
    words: dict[str, list[object]] = {
        "eval": ["eval", run],
        "preview": ["preview", "--run", run, "--out", folder / "sheet.png"],
        "resume": ["train", "--resume", run],
        "init_from": ["train", experiment, "--set", f"train.init_from={run}", "--out", new],
        "sweep": ["sweep", experiment, "--over", "optimizer.lr=0.01", "--out", folder / "sweep"],
    }
    if command == "sweep":
        # As a sweep of another version left it.
        left = folder / "sweep" / "runs" / "main-lr=0.01-0-0-2"
        run = shutil.copytree(run, left)
        started = load(experiment, ["optimizer.lr=0.01"])
        left.with_name(f"{left.name}.toml").write_text(dump(started))
    with_format(run, number)
    # The configuration of another version need not load.
    if command != "init_from":
        (run / "config.toml").write_text("[unknown]\n")

    assert main(list(map(str, words[command]))) == 2
    found = "no format number" if number is None else f"format {number}"
    error = capsys.readouterr().err.replace("\n", "")
    message = f"{run / 'run.json'} has {found}; this version of mtlcore reads only format {FORMAT}"
    assert message in error
    assert "train it again into a new folder" in error
    assert not new.exists()


def test_a_checkpoint_of_another_format_is_refused(folder):
    run = RunFolder(folder / "run")
    file = run.require().path / "checkpoint.json"
    file.write_text(file.read_text().replace(f'"format": {FORMAT}', '"format": 1'))
    message = rf"checkpoint\.json has format 1; this version .* only format {FORMAT}"
    with pytest.raises(MtlError, match=message):
        train(load(run.config), run.path, resume=True)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_broken_run_json_is_refused_by_its_name(folder, text):
    (folder / "run" / "run.json").write_text(text)
    with pytest.raises(MtlError, match=r"run\.json can't be read"):
        RunFolder.open(folder / "run")
