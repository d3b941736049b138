"""`mtl train`: --dry-run, --quiet, --json, and a terminal of 80 columns; `mtl eval --groups`."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_toys import CONFIG
from rich.console import Console

from mtlcore.callbacks.bars import Bars, fitting
from mtlcore.cli import _progress, main
from mtlcore.evaluation.groups import without_groups
from mtlcore.runs import RunFolder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "toy.toml"
    file.write_text(CONFIG)
    return file


@pytest.mark.slow
def test_a_dry_run_estimates_time_and_memory_and_writes_nothing(config, tmp_path, capsys) -> None:
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "run"
    assert main(["train", str(config), "--out", str(out), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("trying ")
    assert "samples: 60 train, 20 validation" in shown
    assert "4 steps of " in shown
    assert "memory: at least" in shown
    assert f"mtl train {config} --out {out}" in shown
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["train", str(config), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 4
    assert found["memory"]["network"] > 1000


def test_a_dry_run_refuses_what_training_would_refuse(config, tmp_path, capsys) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    refused = ["train", str(config), "--dry-run", "--out", str(tmp_path / "run")]
    assert main(refused) == 2
    assert "already holds a run" in capsys.readouterr().err
    # An interrupted copy of a run, or files of something else.
    (tmp_path / "run" / "config.toml").unlink()
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert main(refused) == 2
    assert "it has metrics.jsonl, which a run would replace" in capsys.readouterr().err
    (tmp_path / "run" / "metrics.jsonl").unlink()
    RunFolder(tmp_path / "run").update_provenance({"format": 3, "run": "0", "finished": True})
    assert main(refused) == 2
    assert "it has run.json, which a run would replace" in capsys.readouterr().err
    assert main(["train", str(config), "--out", ""]) == 2
    assert "--out is empty" in capsys.readouterr().err
    assert (
        main(
            [
                "train",
                str(config),
                "--dry-run",
                "--set",
                "data.dots.bad=90",
                "--set",
                "data.dots.max_bad=1",
            ]
        )
        == 2
    )
    assert "can't be read" in capsys.readouterr().err
    assert main(["train", "--dry-run"]) == 2
    assert main(["train", str(config), "--out", "x", "--quiet", "--json"]) == 2
    assert "remove one of them" in capsys.readouterr().err
    misspelled = config.with_stem(f"{config.stem}s")
    assert main(["train", str(misspelled), "--out", "x"]) == 2
    assert f"did you mean {config.name!r}" in capsys.readouterr().err


def test_json_prints_one_event_a_line_and_quiet_prints_nothing(config, tmp_path, capsys) -> None:
    run = str(tmp_path / "run")
    assert main(["train", str(config), "--out", run, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "progress"
    assert kinds[-1] == "end"
    assert [e["step"] for e in events if e["event"] == "log" and "lr" in e] == [1, 2, 3, 4]
    assert "quarter/accuracy" in events[-1]["validation"]
    assert "checkpoint" in kinds
    more = ["train", "--resume", run, "--set", "train.steps=5", "--quiet"]
    assert main(more) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_at_80_columns_losses_give_way_and_the_rest_is_whole(subtests) -> None:
    losses = {f"loss/a_long_name_{i}": 1.234 for i in range(6)}
    for width in (60, 80, 120):
        with subtests.test(width=width):
            out = io.StringIO()
            console = Console(file=out, width=width, force_terminal=True, color_system=None)
            run = SimpleNamespace(step=0, steps=100_000)
            with Bars(console=console) as bars:
                bars.progress("reading images", 10, 10)
                bars.logged_at = (0, time.perf_counter() - 5000)
                bars.on_log(run, {"step": 50_000, "lr": 0.1, "skipped": 2, **losses})
                bars.bars.refresh()
            line = [x for x in out.getvalue().splitlines() if x.startswith("training")][-1]
            assert len(line.rstrip()) <= width
            assert "50000/100000" in line
            assert "10.0 steps/s" in line
            assert ("2 skipped" in line) == (width > 60)
            assert "0:00:00" in line or "-:--:--" in line
            assert ("a_long_name_0 1.234" in line) == (width > 80)
            assert "…" not in line


def test_parts_that_do_not_fit_are_left_out_from_the_end() -> None:
    parts = ["9.9 steps/s", "a 1.000", "b 2.000"]
    assert fitting(parts, 99) == parts
    assert fitting(parts, 29) == parts
    assert fitting(parts, 28) == ["9.9 steps/s", "a 1.000", "..."]
    assert fitting(parts, 5) == ["9.9 steps/s"]


def test_eval_leaves_groups_out_and_ends_with_the_main_metric_of_each_task() -> None:
    metrics = {"fer/accuracy": 0.5, "fer/f1": 0.4, "fer/n[race=white]": 8.0, "pose/mae": 9.0}
    metrics["fer/accuracy[race=white]"] = 0.6
    assert _progress.headline(metrics) == "fer/accuracy 0.5000  pose/mae 9.0000"
    assert list(without_groups(metrics)) == ["fer/accuracy", "fer/f1", "pose/mae"]
