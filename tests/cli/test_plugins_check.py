"""`mtl plugins check`: a table or JSON, failures, exit codes, fields, and the sheet."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mtlcore.cli import main

DOTS = Path(__file__).parents[1] / "dots.py"
GOOD = """
from attrs import field, frozen
from pathlib import Path
from mtlcore import Augmentation, Dataset, LossWeighting, hookimpl
from torch import nn

class Sum(nn.Module):
    def forward(self, losses):
        return losses.values.sum()

@frozen
class Steady(LossWeighting):
    '''The sum of losses.'''
    cites = "original"
    def build(self, names):
        return Sum()

@frozen
class Needy(LossWeighting):
    '''A sum that needs a folder and a number.'''
    cites = "original"
    root: Path
    level: int = 1
    def build(self, names):
        return Sum()

@hookimpl
def mtl_components():
    return [Steady, Needy]
"""
RAISING = """
from attrs import frozen
from mtlcore import Head, PretextTask, hookimpl

@frozen
class Views(PretextTask):
    '''It always fails in its views.'''
    name = "raises_in_views"
    cites = "original"
    def views(self, batch, rng):
        raise {error}
    def build(self, context):
        return Head()

@frozen
class Build(PretextTask):
    '''It always fails in build.'''
    name = "raises_in_build"
    cites = "original"
    def views(self, batch, rng):
        return [batch.clean], None
    def build(self, context):
        raise {error}

@hookimpl
def mtl_components():
    return [Views, Build]
"""
BAD = GOOD.replace("'''The sum of losses.'''", "").replace("Steady", "Bare")
CONFIG = """
[task.kind]
name = "classification"
[weighting]
name = "needy"
root = "there"
level = 7
[data.all]
name = "image_folder"
root = "there"
[train]
steps = 1
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path / "good.py"


def check(*words: str | Path) -> int:
    return main(["plugins", "check", *map(str, words), "--examples", "2"])


def test_json_has_one_row_per_check_and_the_counts(plugin, capsys) -> None:
    assert check("steady", "--plugin", plugin, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["plugin"], found["kind"]) == ("steady", "weighting")
    assert {tuple(row) for row in found["checks"]} == {("name", "status", "reason", "seconds")}
    statuses = [row["status"] for row in found["checks"]]
    assert set(statuses) <= {"passed", "failed", "skipped", "blocked", "xfailed"}
    assert found["counts"]["passed"] == statuses.count("passed") > 5
    assert found["counts"]["ran"] == sum(statuses.count(s) for s in ("passed", "failed", "xfailed"))
    assert all(row["reason"] for row in found["checks"] if row["status"] != "passed")


def test_a_failure_is_printed_in_full_and_exits_1(plugin, capsys) -> None:
    assert check("bare", "--plugin", plugin.with_name("bad.py")) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "│ has_a_summary_line │ failed │" in out
    assert "weighting 'bare' fails has_a_summary_line" in out
    assert "how to mend it: Write a docstring." in out
    counted = re.search(
        r"(\d+) checks, (\d+) ran: (\d+) passed, 1 failed, (\d+) skipped, (\d+) blocked, 0 xfailed",
        out,
    )
    assert counted, out
    checks, ran, passed, skipped, blocked = map(int, counted.groups())
    assert (checks, ran) == (passed + 1 + skipped + blocked, passed + 1)
    assert f"weighting bare: 10 of {checks} checks" in out
    assert " 1 failed" in out


def test_the_same_failure_in_json_exits_1(plugin, capsys) -> None:
    assert check("bare", "--plugin", plugin.with_name("bad.py"), "--json") == 1
    found = json.loads(capsys.readouterr().out)
    [row] = [row for row in found["checks"] if row["status"] == "failed"]
    assert row["name"] == "has_a_summary_line"
    assert found["counts"]["failed"] == 1


def test_a_required_key_is_set_with_set(plugin, capsys) -> None:
    assert check("needy", "--plugin", plugin) == 2
    message = "'needy' needs root: set it with --set root=VALUE, or with --config FILE"
    assert message in capsys.readouterr().err
    assert check("needy", "--plugin", plugin, "--set", "root=here", "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"]["passed"] > 5
    assert check("needy", "--plugin", plugin, "--set", "root=here", "--set", "levle=2") == 2
    assert "did you mean 'level'?" in capsys.readouterr().err
    assert check("needy", "--plugin", plugin, "--set", "root=here", "--set", "level=x") == 2
    assert "weighting needy.level = 'x': expected a whole number" in capsys.readouterr().err


def test_the_fields_come_from_the_table_of_an_experiment(plugin, monkeypatch, capsys) -> None:
    from mtlcore import testing

    received = {}
    conformance = testing.conformance

    def noted(kind, name, **options):
        received.update(options)
        return conformance(kind, name, **options)

    monkeypatch.setattr(testing, "conformance", noted)
    words = ("needy", "--plugin", plugin, "--config", plugin.with_name("run.toml"), "--json")
    assert check(*words) == 0
    assert (received["root"], received["level"]) == (Path("there").absolute(), 7)
    assert check(*words, "--set", "level=8") == 0
    assert (received["root"], received["level"]) == (Path("there").absolute(), 8)


def test_a_kind_has_a_row_per_component_and_lists_those_that_need_values(plugin, capsys) -> None:
    code = check("--kind", "dataset", "--json")
    found = {row["plugin"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["synthfaces"]["counts"]["ran"] > 5
    assert {row["kind"] for row in found.values()} == {"dataset"}
    needy = found["fer2013"]
    assert (needy["status"], needy["reason"], needy["checks"]) == ("needs values", "needs root", [])
    assert code == int(any(row["counts"]["failed"] for row in found.values()))
    assert check("--kind", "dataset") == code
    out = " ".join(capsys.readouterr().out.split())
    assert "│ dataset │ synthfaces │" in out
    assert "dataset fer2013 (needs root)" in out


@pytest.mark.slow
def test_a_plugin_that_failed_to_load_fails_the_command(plugin, tmp_path) -> None:
    # It is an installed distribution: a broken --plugin file would be an error at once.
    (tmp_path / "broken_plugin.py").write_text("raise ZeroDivisionError('no luck')")
    info = tmp_path / "mtl_broken-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mtl-broken\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[mtlcore]\nbroken = broken_plugin\n")
    mtl = [sys.executable, "-m", "mtlcore"]
    words = ["plugins", "check", "--json", "--examples", "1", "--plugin", str(plugin)]
    switches = {
        "MTLCORE_PLUGINS_ONLY": "broken",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(tmp_path),
    }
    done = subprocess.run(
        [*mtl, *words],
        env=os.environ | switches,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    rows = {row["plugin"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {"steady", "needy", "broken"}
    assert rows["broken"]["reason"] == "ZeroDivisionError: no luck"
    done = subprocess.run(
        [*mtl, "plugins", "check", "broken"],
        env=os.environ | switches,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "ZeroDivisionError: no luck" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["puzling"], "did you mean 'puzzling'?"),
        (["--set", "grid=2"], "--set applies to one component: add its NAME"),
        (["--sheet", "x.png"], "--sheet applies to one component"),
        (["puzzling", "--sheet", "x.jpg"], "expected a PNG file"),
        (["puzzling", "--config", "absent.toml"], "absent.toml can't be read"),
        (["probe", "--kind", "callback"], "no checks for the kind 'callback'"),
    ],
)
def test_an_error_of_the_user_is_one_message_and_exits_2(words, message, capsys) -> None:
    assert check(*words) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_examples_must_be_at_least_1(capsys) -> None:
    assert main(["plugins", "check", "equal", "--examples", "0"]) == 2
    assert "--examples 0: expected at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", ["KeyError('tile')", "SystemExit(0)", "__import__('unittest').SkipTest('no')"]
)
@pytest.mark.parametrize(
    ("name", "failed"), [("views", "views_are_images"), ("build", "builds_a_head")]
)
def test_a_pretext_that_raises_is_reported_and_has_no_sheet(
    tmp_path, capsys, name, failed, error
) -> None:
    file, sheet = tmp_path / "raising.py", tmp_path / "sheet.png"
    file.write_text(RAISING.format(error=error))
    assert check(f"raises_in_{name}", "--plugin", file, "--sheet", sheet, "--json") == 1
    out, err = capsys.readouterr()
    assert failed in [row["name"] for row in json.loads(out)["checks"] if row["status"] == "failed"]
    assert err.startswith("no sheet: ")
    assert len(err.splitlines()) == 1
    assert not sheet.exists()
    assert check(f"raises_in_{name}", "--plugin", file, "--sheet", sheet) == 1
    assert "look at it" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_sheet_has_drawn_patterns_or_images_of_the_experiment(tmp_path, capsys) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        '[task.quarter]\nname = "classification"\n[pretext.puzzling]\ngrid = 2\n'
        "[data.dots]\n[input]\nsize = 32\n[train]\nsteps = 1\n"
    )
    drawn, own = tmp_path / "drawn.png", tmp_path / "own.png"
    check("puzzling", "--sheet", drawn, "--set", "grid=2")
    assert f"look at it: {drawn}" in " ".join(capsys.readouterr().out.replace("\n", "").split())
    check("puzzling", "--sheet", own, "--config", config, "--plugin", DOTS)
    with Image.open(drawn) as a, Image.open(own) as b:
        assert (a.format, b.format) == ("PNG", "PNG")
        assert a.tobytes() != b.tobytes()
    assert check("equal", "--sheet", drawn) == 2
    assert "--sheet draws a pretext task: 'equal' is a weighting" in capsys.readouterr().err
