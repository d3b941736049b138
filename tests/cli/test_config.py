"""`mtl config`, `mtl init`, `mtl completion`: what users need before they train."""

from __future__ import annotations

import io
import json
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from report_toys import CONFIG

from mtlcore.authoring.json_schema import config_schema
from mtlcore.authoring.starter import write_starter
from mtlcore.cli import main
from mtlcore.config import load
from mtlcore.data.indexed import open_dataset
from mtlcore.data.parquet import Parquet
from mtlcore.registry.catalog import catalog

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "toy.toml"
    file.write_text(CONFIG)
    return file


def test_check_names_all_mistakes_at_once_or_what_the_file_holds(config, capsys) -> None:
    assert main(["config", "check", str(config)]) == 0
    shown = capsys.readouterr().out
    assert "is valid" in shown
    assert "pretexts: puzzling, rotation" in shown
    assert main(["config", "check", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == ["quarter"]
    wrong = ["--set", "train.stps=3", "--set", "input.size=0"]
    assert main(["config", "check", str(config), *wrong]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'steps'" in error
    assert "input.size" in error


def test_show_prints_a_file_that_is_the_same_experiment(config, tmp_path, capsys) -> None:
    assert main(["config", "show", str(config), "--set", "train.steps=7"]) == 0
    shown = tmp_path / "shown.toml"
    shown.write_text(capsys.readouterr().out)
    assert load(shown) == load(config, ["train.steps=7"])


def test_diff_names_the_keys_that_differ(config, tmp_path, capsys) -> None:
    other = tmp_path / "other.toml"
    other.write_text(CONFIG.replace("steps = 4", "steps = 5"))
    assert main(["config", "diff", str(config), str(other)]) == 1
    assert capsys.readouterr().out == f"train.steps: 4 in {config}, 5 in {other}\n"
    assert main(["config", "diff", str(config), str(config)]) == 0
    assert capsys.readouterr().out == ""


def test_the_schema_accepts_every_example_and_finds_mistakes(tmp_path, capsys, subtests) -> None:
    schema = config_schema(catalog())
    jsonschema.Draft7Validator.check_schema(schema)
    checked = jsonschema.Draft7Validator(schema)
    for example in sorted(EXAMPLES.glob("*.toml")):
        with subtests.test(example=example.name):
            assert list(checked.iter_errors(tomllib.loads(example.read_text()))) == []
    mistakes = [
        {"train": {"stps": 3}},
        {"trian": {}},
        {"encoder": {"name": "resnet_smal"}},
        {"task": {"fer": {"emotions": "seven"}}},
        {"pretext": {"x": {"name": "puzzling", "grid": "2"}}},
        {"data": {"x": {"name": "csv", "labels": "all"}}},
        {"optimizer": {"layer_decay": "x"}},
    ]
    for mistake in mistakes:
        with subtests.test(mistake=mistake):
            assert len(list(checked.iter_errors(mistake))) == 1
    assert main(["config", "schema", "--out", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text()) == json.loads(json.dumps(schema))
    assert "#:schema s.json" in capsys.readouterr().out
    assert main(["config", "schema", "--out", str(tmp_path / "s.json")]) == 0
    (tmp_path / "own.toml").write_text("[train]\n")
    assert main(["config", "schema", "--out", str(tmp_path / "own.toml")]) == 2
    assert "own.toml exists and is not a JSON Schema" in capsys.readouterr().err
    assert (tmp_path / "own.toml").read_text() == "[train]\n"


def test_init_writes_a_configuration_that_trains(tmp_path, capsys, monkeypatch, subtests) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ["path,mood"]
    for i in range(16):
        name = tmp_path / "my photos" / "ab"[i % 2] / f"{i}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 8 * i, np.uint8)).save(name)
        rows.append(f"my photos/{'ab'[i % 2]}/{i}.png,{'ab'[i % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    for kind, data, more in [
        ("folders", "my photos", []),
        ("faces", "my photos", ["--unlabeled", "my photos/b"]),
        ("csv", "t.csv", ["--reads", "mood"]),
        ("csv", "t.csv", ["--reads", "mood", "--network", "vit", "--unlabeled", "my photos/b"]),
    ]:
        with subtests.test(kind=kind, more=more):
            file = f"{kind} {len(more)}.toml"
            assert main(["init", "--for", kind, "--data", data, "--out", file, *more]) == 0
            assert f"mtl train '{file}' --dry-run\n" in capsys.readouterr().out
            text = (tmp_path / file).read_text()
            assert text.count("#") > 8
            assert f"mtl config show '{file}'." in text
            assert main(["config", "check", file]) == 0
            assert ("more" in load(file).data) == ("--unlabeled" in more)
            assert main(["data", "check", next(iter(load(file).data)), file, "--json"]) == 0
            out = capsys.readouterr().out
            assert f"next: mtl train '{file}' --dry-run\n" in out
            counts = json.loads(out.partition("\n{")[2].join(["{", ""]))
            assert counts["unreadable"] == 0


@pytest.mark.parametrize(
    "name", ["few_labels", "few_labels_unlabeled", "few_labels_vit", "few_labels_faces"]
)
def test_init_writes_the_settings_of_the_recipes(tmp_path, name) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    file, unlabeled = tmp_path / "my.toml", None
    if name == "few_labels_unlabeled":
        unlabeled = tmp_path / "more"
        unlabeled.mkdir()
    network = "vit" if name == "few_labels_vit" else "cnn"
    start = "faces" if name == "few_labels_faces" else "folders"
    write_starter(start, tmp_path / "photos", file, unlabeled=unlabeled, network=network)
    written, recipe = load(file), load(EXAMPLES / f"{name}.toml")
    assert written.data.keys() == recipe.data.keys()
    assert written.train.steps == recipe.train.steps
    for table in ("encoder", "tasks", "pretexts", "views", "input", "augmentations", "optimizer"):
        assert getattr(written, table) == getattr(recipe, table), table
    assert written.schedule == recipe.schedule


class EndOfInput(io.StringIO):
    """A terminal without further input."""

    def isatty(self) -> bool:
        return True


def test_mistakes_of_init_are_named_and_write_nothing(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    (tmp_path / "old.toml").touch()
    (tmp_path / "old.csv").write_text("path,labels\na.png,b\n")
    (tmp_path / "no.csv").write_text("id,label\na1,b\n")
    (tmp_path / "out.csv").write_text("path,label\n/a.png,b\n")
    for options, message in [
        (["--for", "folder", "--data", ".", "--out", "a.toml"], "did you mean 'folders'"),
        (["--for", "folders", "--data", "nope", "--out", "a.toml"], "expected a folder"),
        (["--for", "csv", "--data", ".", "--out", "a.toml"], "expected a table"),
        (["--for", "faces", "--data", ".", "--unlabeled", "no", "--out", "a.toml"], "--unlabeled"),
        (["--for", "folders", "--data", ".", "--out", "old.toml"], "choose another --out"),
        (["--for", "folders", "--out", "a.toml"], "needs --data"),
        (["--for", "folders", "--data", ".", "--reads", "x"], "--reads is for --for csv"),
        (["--for", "faces", "--data", ".", "--network", "vot", "--out", "a.toml"], "mean 'vit'"),
        (["--for", "folders", "--data", "~nouser/x", "--out", "a.toml"], "home directory"),
        (["--for", "csv", "--data", "old.csv", "--out", "a.toml"], "did you mean 'labels'"),
        (["--for", "csv", "--data", "no.csv", "--out", "a.toml"], "its columns: id, label. Add a"),
        (["--for", "csv", "--data", "out.csv", "--out", "a.toml"], "leads out of"),
    ]:
        assert main(["init", *options]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", None)  # closed
    assert main(["init"]) == 2
    monkeypatch.setattr("sys.stdin", EndOfInput())  # Ctrl-D in a terminal
    assert main(["init"]) == 2
    assert capsys.readouterr().err.count("mtl init needs --for where no terminal can answer") == 2
    assert [path.name for path in tmp_path.glob("*.toml*")] == ["old.toml"]


@pytest.mark.parametrize(
    ("rows", "reads", "expected", "task"),
    [
        (["photo,mood", "1.JPG,sad", "2.jpg,glad"], "mood", {"path": "photo"}, "Classification"),
        (["id;photo;mood", "1;a;sad", "2;b;glad"], "mood", {"path": "photo"}, "Classification"),
        (["path,age", "1.jpg,31", "2.jpg,24.5", "3.jpg,31"], "age", {}, "Regression"),
        (["path,age", "1.jpg,31", "2.jpg,24", "3.jpg,20"], "age", {}, "Regression"),
        (
            ["path,my kind", "1.jpg,0", "2.jpg,1", "3.jpg,1", "4.jpg,0", "5.jpg,"],
            "my kind",
            {"categorical": ("my kind",)},
            "Classification",
        ),
        (
            ["path,type,split", "1.jpg,a,Train", "2.jpg,b,dev"],
            "type",
            {"split": "split"},
            "Classification",
        ),
        (["path,type,split", "1.jpg,a,3", "2.jpg,b,4"], "type", {"split": None}, "Classification"),
    ],
    ids=[
        "image suffixes show the column of paths",
        "files that exist show the column of paths",
        "numbers with decimals are a regression",
        "whole numbers that hardly repeat are a regression",
        "few whole numbers are classes",
        "a column split with names of splits is used",
        "a column split with other values is not used",
    ],
)
def test_init_reads_the_columns_of_a_csv_table(tmp_path, rows, reads, expected, task) -> None:
    table, file = tmp_path / "my table.csv", tmp_path / "my.toml"
    table.write_text("\n".join(rows))
    for name in "ab":
        (tmp_path / name).touch()
    write_starter("csv", table, file, reads)
    experiment = load(file)
    (entry,) = experiment.data.values()
    (task_entry,) = experiment.tasks.values()
    found = {key: getattr(entry.component, key, None) or getattr(entry, key) for key in expected}
    assert found == expected
    assert type(task_entry.component).__name__ == task
    assert task_entry.component.reads == reads
    assert ("validation = 0.1" in file.read_text()) == (expected.get("split") is None)
    assert reads in open_dataset(experiment, "my_table").index.annotations


def test_init_takes_a_parquet_file_or_a_folder_of_them(tmp_path) -> None:
    images = [{"bytes": b"x", "path": f"{i}.png"} for i in range(4)]
    (tmp_path / "shards").mkdir()
    for split in ("train", "validation"):
        table = pa.table({"id": list("abcd"), "photo": images, "label": [0, 1, 0, 1]})
        pq.write_table(table, tmp_path / "shards" / f"{split}-00000-of-00001.parquet")
    paths = pa.table({"id": list("abcd"), "files": ["1.png", "2.png"] * 2, "label": [0.5] * 4})
    pq.write_table(paths, tmp_path / "one.parquet")

    write_starter("csv", tmp_path / "shards", tmp_path / "shards.toml")
    write_starter("csv", tmp_path / "one.parquet", tmp_path / "one.toml")
    shards, one = load(tmp_path / "shards.toml"), load(tmp_path / "one.toml")
    assert shards.data["shards"].component == Parquet(
        tmp_path / "shards", path="photo", categorical=("label",)
    )
    assert one.data["one"].component == Parquet(tmp_path / "one.parquet", path="files")
    assert type(shards.tasks["label"].component).__name__ == "Classification"
    assert type(one.tasks["label"].component).__name__ == "Regression"
    assert "validation = 0.1" not in (tmp_path / "shards.toml").read_text()
    assert "validation = 0.1" in (tmp_path / "one.toml").read_text()


@pytest.mark.parametrize(
    ("folders", "cuts"),
    [(("train", "val", "test"), False), (("train", "test"), True), (("cat", "dog"), True)],
)
def test_init_cuts_validation_only_where_no_folder_holds_it(tmp_path, folders, cuts) -> None:
    for folder in folders:
        (tmp_path / "data" / folder).mkdir(parents=True)
    write_starter("folders", tmp_path / "data", tmp_path / "my.toml")
    assert ("validation = 0.1" in (tmp_path / "my.toml").read_text()) == cuts


def test_completion_prints_a_script_that_the_shell_accepts(tmp_path, capsys) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "mtl.sh"
    script.write_text(capsys.readouterr().out)
    asked = f"source {script}; COMP_WORDS=(mtl re); COMP_CWORD=1; _mtl; echo ${{COMPREPLY[*]}}"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert "report" in done.stdout.split()
